/*
 * The result: a directory as a pax tar, in frames. Part of agent.c.
 *
 * The tree is a stranger's: nothing is opened but regular files and directories, the way down is by chdir() one name at a time, and what is
 * kept of a directory on the way is bounded. Nobody writes to it any more. Source: POSIX pax(1), star(5) for SCHILY.xattr.
 */
#ifndef ROOTLAYER_PAX_H
#define ROOTLAYER_PAX_H

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include "wire.h"

#define OVERLAY_XATTR "trusted.overlay."
#define MAX_PATH_BYTES 65536
#define NAMES_AT_ONCE 65536

static size_t filled; /* bytes of the result in `frame` */
static char xattr_names[XATTR_LIST_MAX], xattr_value[XATTR_SIZE_MAX];

static int is_overlay_mark(const char *name) { return strncmp(name, OVERLAY_XATTR, strlen(OVERLAY_XATTR)) == 0; }

static void flush_result(void) {
  if (filled > 0) send_frame('T', filled);
  filled = 0;
}

static void put(const void *bytes, size_t length) {
  for (const char *at = bytes; length > 0;) {
    size_t part = FULL_FRAME - filled < length ? FULL_FRAME - filled : length;
    memcpy(frame + HEADER + filled, at, part);
    filled += part;
    at += part;
    length -= part;
    if (filled == FULL_FRAME) flush_result();
  }
}

static void put_padding(uint64_t length) {
  static const char zeros[512];
  put(zeros, (size_t)(-length & 511));
}

/* Straight from the file into the frame. */
static void put_body(int fd, uint64_t length) {
  for (uint64_t left = length; left > 0;) {
    size_t part = FULL_FRAME - filled < left ? FULL_FRAME - filled : (size_t)left;
    ssize_t got = read(fd, frame + HEADER + filled, part);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) fail_with("read", got < 0 ? errno : EIO);
    filled += (size_t)got;
    left -= (uint64_t)got;
    if (filled == FULL_FRAME) flush_result();
  }
  put_padding(length);
}

/* A string of bytes that grows. */
struct bytes { char *data; size_t used, room; };

static void append(struct bytes *to, const void *from, size_t length) {
  if (to->room - to->used <= length) {
    to->room = (to->used + length) * 2 + 64;
    to->data = realloc(to->data, to->room);
    if (to->data == NULL) fail("memory");
  }
  memcpy(to->data + to->used, from, length);
  to->used += length;
  to->data[to->used] = 0;
}

static struct bytes path, records;

/* "LENGTH KEY=VALUE\n", with the length of all of it. Source: POSIX pax(1). */
static void add_record(const char *key, const void *value, size_t length) {
  char start[24];
  size_t rest = strlen(key) + length + 3, whole = rest, digits;
  do {
    digits = (size_t)snprintf(start, sizeof start, "%zu ", whole) - 1;
  } while (whole != rest + digits && (whole = rest + digits));
  append(&records, start, digits + 1);
  append(&records, key, strlen(key));
  append(&records, "=", 1);
  append(&records, value, length);
  append(&records, "\n", 1);
}

static void add_number(const char *key, uint64_t value) {
  char text[24];
  add_record(key, text, (size_t)snprintf(text, sizeof text, "%llu", (unsigned long long)value));
}

/* A time before 1970 counts down: half a second before is "-0.5". */
static void add_time(struct timespec time) {
  char text[48];
  const char *sign = "";
  if (time.tv_sec < 0) {
    sign = "-";
    time.tv_sec = -time.tv_sec - (time.tv_nsec > 0);
    time.tv_nsec = time.tv_nsec > 0 ? 1000000000 - time.tv_nsec : 0;
  }
  int length = snprintf(text, sizeof text, "%s%lld", sign, (long long)time.tv_sec);
  if (time.tv_nsec > 0) length += snprintf(text + length, sizeof text - (size_t)length, ".%09ld", time.tv_nsec);
  add_record("mtime", text, (size_t)length);
}

/* A name with "=" cannot be a key: it goes as libarchive writes it, percent-encoded and the value in base64. */
static void add_encoded_xattr(const char *name, const unsigned char *value, size_t length) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  static char key[1024], text[XATTR_SIZE_MAX / 3 * 4 + 8];
  size_t used = 0;
  int at = snprintf(key, sizeof key, "LIBARCHIVE.xattr.");
  for (; *name != 0; name++) at += sprintf(key + at, *name == '=' || *name == '%' ? "%%%02X" : "%c", (unsigned char)*name);
  for (size_t i = 0; i < length; i += 3) {
    uint32_t group = (uint32_t)value[i] << 16 | (i + 1 < length ? (uint32_t)value[i + 1] << 8 : 0) | (i + 2 < length ? value[i + 2] : 0);
    for (size_t part = 0; part < 4 && part <= length - i; part++) text[used++] = digits[group >> (18 - 6 * part) & 63];
  }
  add_record(key, text, used);
}

/* Of overlayfs' own marks only that of an opaque directory has a meaning outside. */
static void add_xattrs(int fd, const char *name) {
  char key[XATTR_NAME_MAX + 32];
  ssize_t length = fd >= 0 ? flistxattr(fd, xattr_names, sizeof xattr_names) : llistxattr(name, xattr_names, sizeof xattr_names);
  must(length, "list-attributes");
  for (char *at = xattr_names; at < xattr_names + length; at += strlen(at) + 1) {
    if (is_overlay_mark(at) && strcmp(at, OVERLAY_XATTR "opaque") != 0) continue;
    ssize_t size = fd >= 0 ? fgetxattr(fd, at, xattr_value, sizeof xattr_value) : lgetxattr(name, at, xattr_value, sizeof xattr_value);
    must(size, "read-attribute");
    if (is_overlay_mark(at) && (size != 1 || xattr_value[0] != 'y')) continue;
    snprintf(key, sizeof key, "SCHILY.xattr.%.255s", at);
    if (strchr(at, '=') == NULL) add_record(key, xattr_value, (size_t)size);
    else add_encoded_xattr(at, (const unsigned char *)xattr_value, (size_t)size);
  }
}

struct ustar {
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[8], names[64], major[8], minor[8], rest[167];
};

static void octal(char *field, size_t room, uint64_t value) {
  field[--room] = 0;
  while (room > 0) {
    field[--room] = (char)('0' + (value & 7));
    value >>= 3;
  }
}

/* Gives 0, and a record of its own, to a number that the field cannot hold. */
static void octal_or_record(char *field, size_t room, uint64_t value, const char *key) {
  int fits = value >> (3 * (room - 1)) == 0;
  octal(field, room, fits ? value : 0);
  if (!fits) add_number(key, value);
}

static void name_or_record(char *field, const char *name, size_t length, const char *key) {
  memcpy(field, name, length < 100 ? length : 100);
  if (length > 100) add_record(key, name, length);
}

static void put_block(struct ustar *block) {
  unsigned sum = 0;
  memcpy(block->magic, "ustar\00000", 8);
  memset(block->checksum, ' ', 8);
  for (size_t i = 0; i < sizeof *block; i++) sum += ((unsigned char *)block)[i];
  octal(block->checksum, 7, sum);
  put(block, sizeof *block);
}

static void put_records(void) {
  struct ustar block = {.name = "pax", .type = 'x'};
  octal(block.mode, 8, 0644);
  octal(block.uid, 8, 0);
  octal(block.gid, 8, 0);
  octal(block.size, 12, records.used);
  octal(block.mtime, 12, 0);
  put_block(&block);
  put(records.data, records.used);
  put_padding(records.used);
}

/* The header of what `path` names; `records` holds its attributes already. */
static void put_header(const struct stat *status, char type, const char *target, size_t target_length) {
  struct ustar block = {.type = type};
  name_or_record(block.name, path.data, path.used, "path");
  if (target != NULL) name_or_record(block.link, target, target_length, "linkpath");
  octal(block.mode, 8, status->st_mode & 07777);
  octal_or_record(block.uid, 8, status->st_uid, "uid");
  octal_or_record(block.gid, 8, status->st_gid, "gid");
  octal_or_record(block.size, 12, type == '0' ? (uint64_t)status->st_size : 0, "size");
  int plain_time = status->st_mtim.tv_nsec == 0 && (uint64_t)status->st_mtim.tv_sec >> 33 == 0;
  octal(block.mtime, 12, plain_time ? (uint64_t)status->st_mtim.tv_sec : 0);
  if (!plain_time) add_time(status->st_mtim);
  int is_device = type == '3' || type == '4';
  octal(block.major, 8, is_device ? major(status->st_rdev) : 0);
  octal(block.minor, 8, is_device ? minor(status->st_rdev) : 0);
  if (records.used > 0) put_records();
  records.used = 0;
  put_block(&block);
}

/* First names of files with several, by inode, until the last one has come. */
struct link { ino_t inode; nlink_t left; char *path; };
static struct link *links;
static size_t link_count, link_room;

static struct link *find_link(ino_t inode) {
  size_t at = inode * 11400714819323198485u & (link_room - 1);
  while (links[at].inode != 0 && links[at].inode != inode) at = (at + 1) & (link_room - 1);
  return &links[at];
}

static void grow_links(void) {
  struct link *old = links;
  size_t room = link_room;
  link_room = room == 0 ? 1024 : room * 2;
  links = calloc(link_room, sizeof *links);
  if (links == NULL) fail("memory");
  for (size_t i = 0; i < room; i++) if (old[i].inode != 0) *find_link(old[i].inode) = old[i];
  free(old);
}

/* True when the file has been sent under another name, and this one as a link to it. */
static int put_link(const struct stat *status) {
  if (status->st_nlink < 2) return 0;
  if (link_count * 2 >= link_room) grow_links();
  struct link *link = find_link(status->st_ino);
  if (link->inode == 0) {
    *link = (struct link){.inode = status->st_ino, .left = status->st_nlink - 1, .path = strdup(path.data)};
    if (link->path == NULL) fail("memory");
    link_count++;
    return 0;
  }
  put_header(status, '1', link->path, strlen(link->path));
  if (--link->left == 0) {
    free(link->path);
    link->path = NULL;
  }
  return 1;
}

static void put_regular(const char *name) {
  struct stat status;
  int fd = open(name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  must(fd, "open");
  must(fstat(fd, &status), "stat");
  if (!S_ISREG(status.st_mode)) fail_with("open", EINVAL);
  if (!put_link(&status)) {
    add_xattrs(fd, NULL);
    put_header(&status, '0', NULL, 0);
    put_body(fd, (uint64_t)status.st_size);
  }
  close(fd);
}

/* Whiteouts are links of each other on the disk and have nothing of their own. Sockets are left out. */
static void put_special(const char *name) {
  static char target[PATH_MAX];
  struct stat status;
  must(lstat(name, &status), "stat");
  int is_whiteout = S_ISCHR(status.st_mode) && status.st_rdev == 0;
  if (S_ISSOCK(status.st_mode) || (!is_whiteout && put_link(&status))) return;
  if (!is_whiteout) add_xattrs(-1, name);
  ssize_t length = 0;
  if (S_ISLNK(status.st_mode)) must(length = readlink(name, target, sizeof target), "readlink");
  switch (status.st_mode & S_IFMT) {
    case S_IFLNK: put_header(&status, '2', target, (size_t)length); break;
    case S_IFCHR: put_header(&status, '3', NULL, 0); break;
    case S_IFBLK: put_header(&status, '4', NULL, 0); break;
    case S_IFIFO: put_header(&status, '6', NULL, 0); break;
    default: fail_with("type", EINVAL);
  }
}

/* A directory on the way down. Its other members go out as they are read; of its directories the names are kept, some at a time. */
struct level { struct bytes names; size_t next, path_length; off_t resume; };
static struct level *levels;
static size_t depth, level_room;

static void put_member(const char *name, unsigned char type) {
  size_t length = path.used;
  append(&path, name, strlen(name));
  if (path.used > MAX_PATH_BYTES) fail_with("path", ENAMETOOLONG);
  if (type == DT_REG) put_regular(name);
  else put_special(name);
  path.used = length;
  path.data[length] = 0;
}

/* Reads the present directory from where it was left, until enough names of directories have come. */
static void read_directory(struct level *level) {
  struct entry { uint64_t inode; int64_t offset; uint16_t length; uint8_t type; char name[]; };
  static _Alignas(8) char entries[65536];
  int fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  must(fd, "open");
  must(lseek(fd, level->resume, SEEK_SET), "seek");
  level->next = level->names.used = 0;
  long got = 0;
  while (level->names.used < NAMES_AT_ONCE && (got = syscall(SYS_getdents64, fd, entries, sizeof entries)) > 0) {
    for (long at = 0; at < got;) {
      struct entry *entry = (struct entry *)(void *)(entries + at);
      at += entry->length;
      level->resume = entry->offset;
      if (strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0) continue;
      if (entry->type == DT_DIR) append(&level->names, entry->name, strlen(entry->name) + 1);
      else put_member(entry->name, entry->type);
    }
  }
  must(got, "list");
  if (got == 0) level->resume = -1;
  close(fd);
}

/* Goes into a directory, sends it and what it holds but directories. The way back is by "..": nothing here changes any more. */
static void enter_directory(const char *name) {
  struct stat status;
  size_t length = path.used;
  must(chdir(name), "enter");
  append(&path, name, strlen(name));
  append(&path, "/", 1);
  if (path.used > MAX_PATH_BYTES) fail_with("path", ENAMETOOLONG);
  must(stat(".", &status), "stat");
  add_xattrs(-1, ".");
  put_header(&status, '5', NULL, 0);
  if (depth == level_room) {
    level_room = level_room * 2 + 64;
    levels = realloc(levels, level_room * sizeof *levels);
    if (levels == NULL) fail("memory");
  }
  levels[depth] = (struct level){.path_length = length};
  read_directory(&levels[depth++]);
}

static void leave_directory(void) {
  struct level *level = &levels[--depth];
  free(level->names.data);
  path.used = level->path_length;
  must(chdir(".."), "leave");
}

static void send_result(void) {
  static const char end[1024];
  must(chdir("/s/up"), "upper");
  enter_directory(".");
  while (depth > 0) {
    struct level *level = &levels[depth - 1];
    if (level->next < level->names.used) {
      const char *name = level->names.data + level->next;
      level->next += strlen(name) + 1;
      enter_directory(name);
    } else if (level->resume >= 0) {
      read_directory(level);
    } else {
      leave_directory();
    }
  }
  put(end, sizeof end);
  flush_result();
}

#endif
