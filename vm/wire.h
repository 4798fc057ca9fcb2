/*
 * How the agent talks: frames to and from the host, and the end of everything when a step fails. Part of agent.c.
 */
#ifndef ROOTLAYER_WIRE_H
#define ROOTLAYER_WIRE_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdnoreturn.h>
#include <string.h>
#include <unistd.h>

#define HEADER 5 /* of a frame: type and length */
#define MAX_FRAME 65536
#define FULL_FRAME (MAX_FRAME - HEADER) /* with its header it goes out in two writes of 32 KiB, the most that the port takes at once */

static int port = -1;
static int error_fd = -1; /* in the job's process: where failures go */
static unsigned char frame[HEADER + MAX_FRAME];

static int write_all(int fd, const void *bytes, size_t length) {
  for (const char *at = bytes; length > 0;) {
    ssize_t wrote = write(fd, at, length);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return -1;
    at += wrote;
    length -= (size_t)wrote;
  }
  return 0;
}

/* Sends what stands behind the header in `frame`. */
static void send_frame(char type, size_t length) {
  uint32_t size = (uint32_t)length;
  frame[0] = (unsigned char)type;
  memcpy(frame + 1, &size, sizeof size);
  if (write_all(port, frame, HEADER + length) < 0) _exit(1);
}

static void send_text(char type, const char *text) {
  memcpy(frame + HEADER, text, strlen(text));
  send_frame(type, strlen(text));
}

/* Tells which step failed and why, and waits for the host to end the machine. Before there is a port, the console gets it. */
static noreturn void fail(const char *step) {
  char text[128];
  int number = errno;
  int length = snprintf(text, sizeof text, "%s%c%d", step, 0, number);
  if (error_fd >= 0) {
    if (write(error_fd, text, (size_t)length) < 0) _exit(126);
    _exit(125);
  }
  if (port < 0) {
    dprintf(2, "rootlayer-agent: %s: %s\n", step, strerror(number));
    _exit(1);
  }
  memcpy(frame + HEADER, text, (size_t)length);
  send_frame('E', (size_t)length);
  for (;;) pause();
}

static void must(long result, const char *step) {
  if (result < 0) fail(step);
}

static noreturn void fail_with(const char *step, int number) {
  errno = number;
  fail(step);
}

static void read_exact(void *bytes, size_t length) {
  for (char *at = bytes; length > 0;) {
    ssize_t got = read(port, at, length);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) fail_with("port", got < 0 ? errno : EPIPE);
    at += got;
    length -= (size_t)got;
  }
}

/* The next frame of the host: its payload stands behind the header in `frame`. */
static char read_frame(size_t *length) {
  uint32_t size;
  read_exact(frame, HEADER);
  memcpy(&size, frame + 1, sizeof size);
  if (size > MAX_FRAME) fail_with("frame", EMSGSIZE);
  read_exact(frame + HEADER, size);
  *length = size;
  return (char)frame[0];
}

#endif
