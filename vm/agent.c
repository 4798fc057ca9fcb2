/*
 * rootlayer-agent: the /init of the micro-VM's guest. It runs one job and sends back what the job changed; vm/protocol.md has the words that
 * host and guest exchange.
 *
 *   boot     mounts, modules, the numbers of the disks, the port, a process for the job that waits in fresh namespaces; then "R".
 *            A template of the running machine is saved here, so whatever can be done without knowing the job is done before.
 *   job      clock and entropy, the request, disks, overlay; the waiting process takes its root and becomes the script
 *   end      counters, the overlay unmounted, the scratch disk read-only, its upper directory as a pax tar
 *
 * As /sbin/modprobe, which the kernel starts when a filesystem or device is asked for, it loads a module of the list in /modules/index.
 *
 * Nothing here protects the guest from the script, which is root in it: the boundary is the machine. Limits in here are for honest scripts.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/loop.h>
#include <linux/random.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include "pax.h"
#include "wire.h"

#define VERSION 1
#define MAX_RECORDS (8u << 20)
#define MAX_DISKS 64
#define MAX_ENV 4096
#define MAX_EXEC 4
#define MAX_ARGS 256
#define PATIENCE_MS 10000

/* ---- state ---- */

struct job {
  int lowers[MAX_DISKS], lower_count, files, scratch;
  unsigned long long memory, pids, fsize;
  const char *hostname;
  struct winsize window;
  int terminal;
  char *env[MAX_ENV + 1];
  int envs;
  char *exec[MAX_EXEC][MAX_ARGS + 1];
  int execs, args;
};

/* What agent and waiting process both see: the records as they came, and the number of the terminal. */
struct shared { size_t length; int pts; char records[MAX_RECORDS + 1]; };

static struct job job = {.files = -1, .scratch = -1};
static struct shared *shared;
static char disk_names[MAX_DISKS][24]; /* by number: the virtio device, "virtio7" */
static int job_pidfd, job_errors, job_go, job_out, job_err, terminal = -1;

/* ---- files of the kernel ---- */

static int put_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t wrote = write(fd, text, strlen(text));
  int number = errno;
  close(fd);
  errno = number;
  return wrote < 0 ? -1 : 0;
}

static int put_number(const char *path, unsigned long long value) {
  char text[24];
  snprintf(text, sizeof text, "%llu", value);
  return put_file(path, text);
}

/* The text of a small file; an empty one when there is none. */
static const char *get_file(const char *path) {
  static char text[4096];
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t got = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  text[got < 0 ? 0 : got] = 0;
  return text;
}

/* The number behind `key` and a blank; with no key, the number that the file is. */
static unsigned long long get_number(const char *path, const char *key) {
  const char *text = get_file(path), *at = text;
  size_t length = strlen(key);
  while (length > 0 && at != NULL && (strncmp(at, key, length) != 0 || at[length] != ' ')) {
    at = strchr(at, '\n');
    if (at != NULL) at++;
  }
  return at == NULL ? 0 : strtoull(at + length, NULL, 10);
}

static void wait_a_moment(void) {
  struct timespec millisecond = {.tv_nsec = 1000000};
  nanosleep(&millisecond, NULL);
}

static void mount_at(const char *type, const char *path, unsigned long flags, const char *options) {
  if (mkdir(path, 0755) < 0 && errno != EEXIST) fail(path);
  must(mount(type, path, type, flags, options), path);
}

/* ---- modules ---- */

/* Loads /modules/NAME.ko for each of the names, which come in the order of their dependencies. */
static void load_modules(char *names) {
  char path[128], *rest;
  for (char *name = strtok_r(names, " \n", &rest); name != NULL; name = strtok_r(NULL, " \n", &rest)) {
    /* Only the agent says which disk is used when. */
    if (strcmp(name, "virtio_blk") == 0) must(put_file("/sys/bus/virtio/drivers_autoprobe", "0"), "autoprobe");
    snprintf(path, sizeof path, "/modules/%s.ko", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    must(fd, name);
    if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST) fail(name);
    close(fd);
  }
}

/* Lines of the index: "boot NAME..." and "demand ALIAS NAME...". For the kernel, "-" and "_" are the same in the name of a module. */
static int load_for(const char *kind, const char *wanted) {
  char line[1024];
  FILE *index = fopen("/modules/index", "re");
  if (index == NULL) fail("/modules/index");
  int found = 0;
  while (fgets(line, sizeof line, index) != NULL) {
    char *rest, *word = strtok_r(line, " \n", &rest);
    if (word == NULL || strcmp(word, kind) != 0) continue;
    char *alias = wanted == NULL ? NULL : strtok_r(NULL, " \n", &rest);
    if (wanted != NULL && (alias == NULL || fnmatch(alias, wanted, 0) != 0)) continue;
    load_modules(rest);
    found = 1;
  }
  fclose(index);
  return found;
}

/* modprobe -q -- ALIAS */
static int modprobe(int count, char **words) {
  char *wanted = words[count - 1];
  if (load_for("demand", wanted)) return 0;
  for (char *at = wanted; *at != 0; at++) if (*at == '-') *at = '_';
  return load_for("demand", wanted) ? 0 : 1;
}

/* ---- disks ---- */

static int bind_disk(const char *device, const char *verb) {
  char path[64];
  snprintf(path, sizeof path, "/sys/bus/virtio/drivers/virtio_blk/%s", verb);
  return put_file(path, device);
}

/* The block device of a bound virtio device: the one name in its directory "block". */
static int block_name(const char *device, char *name, size_t room) {
  char path[64];
  snprintf(path, sizeof path, "/sys/bus/virtio/devices/%s/block", device);
  DIR *directory = opendir(path);
  if (directory == NULL) return -1;
  *name = 0;
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
    if (entry->d_name[0] != '.') snprintf(name, room, "%.20s", entry->d_name);
  closedir(directory);
  return *name == 0 ? -1 : 0;
}

/* Binds a disk, reads the number in its serial, and lets it go: a template is saved with no disk in use. */
static void learn_disk(const char *device) {
  char name[24], path[64], *rest;
  if (block_name(device, name, sizeof name) < 0) {
    must(bind_disk(device, "bind"), "bind");
    must(block_name(device, name, sizeof name), "block-device");
  }
  snprintf(path, sizeof path, "/sys/block/%s/serial", name);
  const char *serial = get_file(path);
  unsigned long number = *serial == 'd' ? strtoul(serial + 1, &rest, 10) : MAX_DISKS;
  if (number < MAX_DISKS) strcpy(disk_names[number], device);
  must(bind_disk(device, "unbind"), "unbind");
}

static void learn_disks(void) {
  char path[300];
  DIR *directory = opendir("/sys/bus/virtio/devices");
  if (directory == NULL) fail("virtio");
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
    if (entry->d_name[0] == '.' || strlen(entry->d_name) >= sizeof disk_names[0]) continue;
    snprintf(path, sizeof path, "/sys/bus/virtio/devices/%s/device", entry->d_name);
    if (strtoul(get_file(path), NULL, 16) == 2) learn_disk(entry->d_name);
  }
  closedir(directory);
}

/* ---- the port ---- */

/* A port shows some time after its device, and has its name after that. */
static void open_port(void) {
  char path[300];
  for (int tries = 0; port < 0; tries++) {
    DIR *directory = opendir("/sys/class/virtio-ports");
    for (struct dirent *entry; directory != NULL && port < 0 && (entry = readdir(directory)) != NULL;) {
      snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
      if (entry->d_name[0] == '.' || strcmp(get_file(path), "rootlayer\n") != 0) continue;
      snprintf(path, sizeof path, "/dev/%s", entry->d_name);
      port = open(path, O_RDWR | O_CLOEXEC);
    }
    if (directory != NULL) closedir(directory);
    if (port < 0 && tries == PATIENCE_MS) fail("port");
    if (port < 0) wait_a_moment();
  }
}

/* ---- the request ---- */

static void set_clock_and_entropy(void) {
  size_t length;
  struct { struct rand_pool_info info; char bytes[64]; } pool = {.info = {.entropy_count = 512, .buf_size = 64}};
  if (read_frame(&length) != 'S' || length != 12 + sizeof pool.bytes) fail_with("seed", EPROTO);
  int64_t seconds;
  uint32_t nanoseconds;
  memcpy(&seconds, frame + HEADER, sizeof seconds);
  memcpy(&nanoseconds, frame + HEADER + 8, sizeof nanoseconds);
  memcpy(pool.bytes, frame + HEADER + 12, sizeof pool.bytes);
  struct timespec now = {.tv_sec = seconds, .tv_nsec = nanoseconds};
  must(clock_settime(CLOCK_REALTIME, &now), "clock");
  int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
  must(fd, "entropy");
  must(ioctl(fd, RNDADDENTROPY, &pool), "entropy");
  must(ioctl(fd, RNDRESEEDCRNG), "entropy");
  close(fd);
  send_text('M', "seeded");
}

/* Records go where both processes see them, the script where the job will see it. */
static void read_request(void) {
  int script = open("/d/rootlayer/script", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0555);
  must(script, "script");
  must(fchmod(script, 0555), "script");
  for (;;) {
    size_t length;
    char type = read_frame(&length);
    if (type == 'G') break;
    if (type == 'P') {
      must(write_all(script, frame + HEADER, length), "script");
    } else {
      if (type != 'J') fail_with("frame", EPROTO);
      if (length > MAX_RECORDS - shared->length) fail_with("request", E2BIG);
      memcpy(shared->records + shared->length, frame + HEADER, length);
      shared->length += length;
    }
  }
  close(script);
}

static noreturn void bad_request(void) { fail_with("request", EINVAL); }

static unsigned long long number(const char *text, unsigned long long most) {
  char *rest;
  errno = 0;
  unsigned long long value = strtoull(text, &rest, 10);
  if (errno != 0 || rest == text || *rest != 0 || *text < '0' || *text > '9' || value > most) bad_request();
  return value;
}

static int disk_number(const char *text) {
  int disk = (int)number(text, MAX_DISKS - 1);
  if (disk_names[disk][0] == 0) fail_with("disk", ENODEV);
  return disk;
}

static int matches(char *record, const char *key, char **value) {
  size_t length = strlen(key);
  if (strncmp(record, key, length) != 0 || record[length] != '=') return 0;
  *value = record + length + 1;
  return 1;
}

static void parse_window(const char *text) {
  if (sscanf(text, "%hu %hu", &job.window.ws_row, &job.window.ws_col) != 2) bad_request();
  job.terminal = 1;
}

static void parse_host_record(char *record) {
  char *value;
  if (matches(record, "lower", &value) && job.lower_count < MAX_DISKS) job.lowers[job.lower_count++] = disk_number(value);
  else if (matches(record, "files", &value)) job.files = disk_number(value);
  else if (matches(record, "scratch", &value)) job.scratch = disk_number(value);
  else if (matches(record, "memory", &value)) job.memory = number(value, UINT64_MAX);
  else if (matches(record, "pids", &value)) job.pids = number(value, UINT64_MAX);
  else if (matches(record, "fsize", &value)) job.fsize = number(value, UINT64_MAX);
  else if (matches(record, "hostname", &value)) job.hostname = value;
  else if (matches(record, "terminal", &value)) parse_window(value);
  else bad_request();
}

/* What a stranger may have chosen. */
static void parse_program_record(char *record) {
  char *value;
  if (matches(record, "env", &value) && job.envs < MAX_ENV) job.env[job.envs++] = value;
  else if (matches(record, "exec", &value) && job.execs < MAX_EXEC) { job.args = 0; job.exec[job.execs++][job.args++] = value; }
  else if (matches(record, "arg", &value) && job.execs > 0 && job.args < MAX_ARGS) job.exec[job.execs - 1][job.args++] = value;
  else bad_request();
}

static void parse_request(void) {
  int is_sealed = 0;
  if (shared->length == 0 || shared->records[shared->length - 1] != 0) bad_request();
  for (size_t at = 0; at < shared->length; at += strlen(shared->records + at) + 1) {
    char *record = shared->records + at;
    if (is_sealed) parse_program_record(record);
    else if (strcmp(record, "end=") == 0) is_sealed = 1;
    else parse_host_record(record);
  }
  if (!is_sealed || job.scratch < 0 || job.execs == 0) bad_request();
}

/* ---- the root of the job, mounted at /r ---- */

static void bind_job_disks(void) {
  for (int i = 0; i < job.lower_count; i++) must(bind_disk(disk_names[job.lowers[i]], "bind"), "bind");
  if (job.files >= 0) must(bind_disk(disk_names[job.files], "bind"), "bind");
  must(bind_disk(disk_names[job.scratch], "bind"), "bind");
  send_text('M', "bound");
}

static void mount_disk(int disk, const char *path, const char *type, unsigned long flags, const char *options) {
  char name[24], device[32];
  must(block_name(disk_names[disk], name, sizeof name), "block-device");
  snprintf(device, sizeof device, "/dev/%s", name);
  must(mount(device, path, type, flags, options), type);
}

/* A directory of the root as the merged layers show it: NULL where the topmost layer that has the name has no directory there. */
static const struct stat *merged_directory(const char *name) {
  static struct stat status;
  char path[64];
  for (int i = 0; i < job.lower_count; i++) {
    snprintf(path, sizeof path, "/l%d/%s", i, name);
    if (lstat(path, &status) < 0) continue;
    return S_ISDIR(status.st_mode) ? &status : NULL;
  }
  return NULL;
}

static void set_attributes(const char *path, const struct stat *from) {
  struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, from == NULL ? (struct timespec){0} : from->st_mtim};
  must(lchown(path, from == NULL ? 0 : from->st_uid, from == NULL ? 0 : from->st_gid), "attributes");
  must(chmod(path, from == NULL ? 0755 : from->st_mode & 07777), "attributes");
  must(utimensat(AT_FDCWD, path, times, 0), "attributes");
}

/* The upper's root gets the attributes of the image's, since overlayfs shows those of the upper. */
static void copy_root_attributes(void) {
  if (job.lower_count == 0) {
    set_attributes("/s/up", NULL);
    return;
  }
  struct stat status;
  must(stat("/l0", &status), "root-attributes");
  ssize_t length = listxattr("/l0", xattr_names, sizeof xattr_names);
  if (length < 0 && errno != EOPNOTSUPP) fail("root-attributes");
  for (char *name = xattr_names; name < xattr_names + length; name += strlen(name) + 1) {
    if (is_overlay_mark(name)) continue;
    ssize_t size = getxattr("/l0", name, xattr_value, sizeof xattr_value);
    must(size, "root-attributes");
    must(setxattr("/s/up", name, xattr_value, (size_t)size, 0), "root-attributes");
  }
  set_attributes("/s/up", &status);
}

/* What of the root directory itself can be in a layer, as a sum: it is compared with that of the end. */
static uint64_t root_fingerprint(void) {
  struct stat status;
  uint64_t sum = 14695981039346656037u;
  must(stat("/s/up", &status), "root-attributes");
  uint64_t facts[5] = {status.st_mode, status.st_uid, status.st_gid, (uint64_t)status.st_mtim.tv_sec, (uint64_t)status.st_mtim.tv_nsec};
  ssize_t length = listxattr("/s/up", xattr_names, sizeof xattr_names);
  must(length, "root-attributes");
  for (size_t i = 0; i < sizeof facts; i++) sum = (sum ^ ((unsigned char *)facts)[i]) * 1099511628211u;
  for (char *name = xattr_names; name < xattr_names + length; name += strlen(name) + 1) {
    if (is_overlay_mark(name)) continue;
    ssize_t size = getxattr("/s/up", name, xattr_value, sizeof xattr_value);
    must(size, "root-attributes");
    for (size_t i = 0; i <= strlen(name); i++) sum = (sum ^ (unsigned char)name[i]) * 1099511628211u;
    for (ssize_t i = 0; i < size; i++) sum = (sum ^ (unsigned char)xattr_value[i]) * 1099511628211u;
  }
  return sum;
}

static void mount_scratch(void) {
  mount_disk(job.scratch, "/s", "ext4", MS_NOATIME, "noinit_itable,nobarrier");
  if (mkdir("/s/up", 0755) < 0 && errno != EEXIST) fail("scratch");
  if (mkdir("/s/work", 0700) < 0 && errno != EEXIST) fail("scratch");
}

/* Topmost comes a layer of our own with real mount points, so that no symlink of an image can stand in their place. */
static void mount_root(void) {
  static const char *const points[] = {"dev", "proc", "sys"};
  char options[2048] = "lowerdir=/i", path[16];
  for (int i = 0; i < job.lower_count; i++) {
    snprintf(path, sizeof path, "/l%d", i);
    if (mkdir(path, 0755) < 0 && errno != EEXIST) fail("layer");
    mount_disk(job.lowers[i], path, "erofs", MS_RDONLY | MS_NOATIME, NULL);
    strcat(strcat(options, ":"), path);
  }
  for (int i = 0; i < 3; i++) {
    snprintf(path, sizeof path, "/i/%s", points[i]);
    set_attributes(path, merged_directory(points[i]));
  }
  mount_scratch();
  copy_root_attributes();
  strcat(options, ",upperdir=/s/up,workdir=/s/work,redirect_dir=nofollow,metacopy=off,index=off,xino=off,volatile");
  must(mount("overlay", "/r", "overlay", 0, options), "overlay");
  if (job.files >= 0) mount_disk(job.files, "/d/rootlayer/files", "erofs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOATIME, NULL);
  must(mount(NULL, "/d/rootlayer", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL), "files");
  send_text('M', "mounted");
}

static void set_job_limits(void) {
  if (job.memory > 0) must(put_number("/c/job/memory.max", job.memory), "memory-limit");
  if (job.pids > 0) must(put_number("/c/job/pids.max", job.pids), "pids-limit");
}

/* ---- the process of the job ---- */

static void loopback_up(void) {
  struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  must(fd, "loopback");
  must(ioctl(fd, SIOCSIFFLAGS, &request), "loopback");
  close(fd);
}

/* What belongs to the namespaces of this process; its mounts are still those of the agent. */
static void prepare_namespaces(void) {
  must(unshare(CLONE_NEWCGROUP), "cgroup-namespace");
  must(setsid(), "setsid");
  loopback_up();
  mount_at("proc", "/p", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  mount_at("sysfs", "/y", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  mount_at("cgroup2", "/y/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate");
  mount_at("mqueue", "/d/mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

/* The first root, that of the initramfs, cannot be left by pivot_root: the new one is moved over it. Source: pivot_root(2), "EINVAL". */
static void enter_root(void) {
  must(unshare(CLONE_NEWNS), "mount-namespace");
  must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
  must(mount("/d", "/r/dev", NULL, MS_MOVE, NULL), "dev");
  must(mount("/p", "/r/proc", NULL, MS_MOVE, NULL), "proc");
  must(mount("/y", "/r/sys", NULL, MS_MOVE, NULL), "sys");
  must(chdir("/r"), "root");
  must(mount(".", "/", NULL, MS_MOVE, NULL), "root");
  must(chroot("."), "root");
  must(chdir("/"), "root");
}

static void limit(__rlimit_resource_t resource, rlim_t soft, rlim_t hard) {
  struct rlimit values = {.rlim_cur = soft, .rlim_max = hard};
  must(setrlimit(resource, &values), "rlimit");
}

static void set_limits(void) {
  limit(RLIMIT_CORE, 0, 0);
  limit(RLIMIT_NOFILE, 4096, 65536);
  limit(RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY);
  limit(RLIMIT_MEMLOCK, 8 << 20, 8 << 20);
  limit(RLIMIT_MSGQUEUE, 819200, 819200);
  limit(RLIMIT_NICE, 0, 0);
  limit(RLIMIT_RTPRIO, 0, 0);
  if (job.fsize > 0) limit(RLIMIT_FSIZE, job.fsize, job.fsize);
}

static void set_streams(int out, int err) {
  char path[24];
  snprintf(path, sizeof path, "/dev/pts/%d", shared->pts);
  int in = open(job.terminal ? path : "/dev/null", job.terminal ? O_RDWR : O_RDONLY);
  must(in, "stdin");
  if (job.terminal) must(ioctl(in, TIOCSCTTY, 0), "terminal");
  must(dup2(in, 0), "stdin");
  must(dup2(job.terminal ? in : out, 1), "stdout");
  must(dup2(job.terminal ? in : err, 2), "stderr");
  if (in > 2) close(in);
}

static noreturn void job_process(int go, int out, int err) {
  char byte;
  prepare_namespaces();
  must(write(error_fd, "", 1), "ready");
  if (read(go, &byte, 1) != 1) _exit(125);
  parse_request();
  enter_root();
  if (job.hostname != NULL) must(sethostname(job.hostname, strlen(job.hostname)), "hostname");
  umask(022);
  set_limits();
  set_streams(out, err);
  for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
  for (int i = 0; i < job.execs; i++) {
    execve(job.exec[i][0], job.exec[i], job.env);
    if (errno != ENOENT && errno != EACCES && errno != ENOTDIR) break;
  }
  fail("exec");
}

/* Makes the process of the job in its own namespaces and control group, and waits until it waits. */
static void start_job_process(void) {
  int go[2], out[2], err[2], errors[2];
  char byte;
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) fail("memory");
  must(pipe2(go, O_CLOEXEC), "pipe");
  must(pipe2(out, O_CLOEXEC), "pipe");
  must(pipe2(err, O_CLOEXEC), "pipe");
  must(pipe2(errors, O_CLOEXEC), "pipe");
  int group = open("/c/job", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  must(group, "cgroup");
  struct {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
  } args = {
    .flags = CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_PIDFD | 0x200000000u /* CLONE_INTO_CGROUP */,
    .pidfd = (uint64_t)(uintptr_t)&job_pidfd, .exit_signal = SIGCHLD, .cgroup = (uint64_t)group,
  };
  long child = syscall(SYS_clone3, &args, sizeof args);
  must(child, "clone");
  if (child == 0) {
    error_fd = errors[1];
    close(go[1]);
    job_process(go[0], out[1], err[1]);
  }
  close(group); close(go[0]); close(out[1]); close(err[1]); close(errors[1]);
  job_go = go[1]; job_out = out[0]; job_err = err[0]; job_errors = errors[0];
  if (read(job_errors, &byte, 1) != 1 || byte != 0) fail_with("job-process", ECHILD);
}

/* ---- boot ---- */

/* The /dev of the job, with a script's place in it. */
static void make_devices(void) {
  static const struct { const char *name; mode_t mode; int major, minor; } nodes[] = {
    {"null", S_IFCHR | 0666, 1, 3}, {"zero", S_IFCHR | 0666, 1, 5}, {"full", S_IFCHR | 0666, 1, 7}, {"random", S_IFCHR | 0666, 1, 8},
    {"urandom", S_IFCHR | 0666, 1, 9}, {"tty", S_IFCHR | 0666, 5, 0}, {"fuse", S_IFCHR | 0666, 10, 229},
    {"loop-control", S_IFCHR | 0660, 10, 237}, {"loop0", S_IFBLK | 0660, 7, 0}, {"loop1", S_IFBLK | 0660, 7, 1},
    {"loop2", S_IFBLK | 0660, 7, 2}, {"loop3", S_IFBLK | 0660, 7, 3}, {"loop4", S_IFBLK | 0660, 7, 4}, {"loop5", S_IFBLK | 0660, 7, 5},
    {"loop6", S_IFBLK | 0660, 7, 6}, {"loop7", S_IFBLK | 0660, 7, 7}};
  static const char *const links[][2] = {{"/proc/self/fd", "/d/fd"}, {"/proc/self/fd/0", "/d/stdin"}, {"/proc/self/fd/1", "/d/stdout"},
                                         {"/proc/self/fd/2", "/d/stderr"}, {"pts/ptmx", "/d/ptmx"}};
  char path[32];
  mount_at("tmpfs", "/d", MS_NOSUID | MS_NOEXEC, "mode=0755,size=1m,nr_inodes=256");
  for (unsigned i = 0; i < sizeof nodes / sizeof nodes[0]; i++) {
    snprintf(path, sizeof path, "/d/%s", nodes[i].name);
    must(mknod(path, nodes[i].mode, makedev(nodes[i].major, nodes[i].minor)), path);
  }
  for (unsigned i = 0; i < sizeof links / sizeof links[0]; i++) must(symlink(links[i][0], links[i][1]), links[i][1]);
  mount_at("devpts", "/d/pts", MS_NOSUID | MS_NOEXEC, "ptmxmode=0666,mode=0620,gid=5");
  mount_at("tmpfs", "/d/shm", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=64m,nr_inodes=8192");
  mount_at("tmpfs", "/d/rootlayer", MS_NOSUID | MS_NODEV, "mode=0755");
  must(mkdir("/d/rootlayer/files", 0755), "files");
}

static void mount_kernel_filesystems(void) {
  umask(0);
  mount_at("devtmpfs", "/dev", MS_NOSUID, NULL);
  for (int fd = 0; fd <= 2; fd++) if (fcntl(fd, F_GETFD) < 0) must(open("/dev/console", O_RDWR), "console");
  mount_at("proc", "/proc", 0, NULL);
  mount_at("sysfs", "/sys", 0, NULL);
  mount_at("cgroup2", "/c", 0, NULL);
  must(put_file("/c/cgroup.subtree_control", "+memory +pids"), "cgroup");
  must(mkdir("/c/job", 0755), "cgroup");
  put_file("/c/job/memory.swap.max", "0");
  must(put_number("/proc/sys/kernel/threads-max", 65536), "threads-max");
  /* Namespaces, mounts and disks wait for grace periods, which take 10 ms each unless they are hurried. */
  put_file("/sys/kernel/rcu_expedited", "1");
}

static void make_mount_points(void) {
  mount_at("tmpfs", "/i", MS_NOSUID | MS_NODEV, "mode=0755,size=1m,nr_inodes=64");
  for (const char *const *path = (const char *const[]){"/i/dev", "/i/proc", "/i/sys", "/s", "/r", NULL}; *path != NULL; path++)
    must(mkdir(*path, 0755), *path);
}

static void boot(void) {
  signal(SIGPIPE, SIG_IGN);
  mount_kernel_filesystems();
  load_for("boot", NULL);
  learn_disks();
  make_mount_points();
  make_devices();
  start_job_process();
  open_port();
  uint32_t version = VERSION;
  memcpy(frame + HEADER, &version, sizeof version);
  send_frame('R', sizeof version);
}

/* ---- while the script runs ---- */

/* The far end stays open here too: a script may close its terminal and open it again. */
static void open_terminal(void) {
  int unlock = 0;
  struct termios settings;
  terminal = open("/d/pts/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  must(terminal, "terminal");
  must(ioctl(terminal, TIOCSPTLCK, &unlock), "terminal");
  must(ioctl(terminal, TIOCGPTN, &shared->pts), "terminal");
  must(ioctl(terminal, TIOCSWINSZ, &job.window), "terminal");
  int far = ioctl(terminal, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  must(far, "terminal");
  must(tcgetattr(far, &settings), "terminal");
  settings.c_iflag |= IUTF8;
  must(tcsetattr(far, TCSANOW, &settings), "terminal");
}

static void start_script(void) {
  if (job.terminal) open_terminal();
  must(write(job_go, "", 1), "go");
  ssize_t length = read(job_errors, frame + HEADER, 128);
  if (length > 0) {
    send_frame('E', (size_t)length);
    for (;;) pause();
  }
  send_text('M', "started");
}

/* Bytes on their way from the host to the terminal: no more are read before all of these are written. */
static struct { unsigned char bytes[HEADER + MAX_FRAME]; size_t used, written; } input;

static void type_end_of_input(void) {
  struct termios settings;
  must(tcgetattr(terminal, &settings), "terminal");
  input.bytes[HEADER] = settings.c_cc[VEOF];
}

/* A whole frame of the host is in `input`: what is typed stays there to be written, all else is done at once. */
static void take_input(size_t length) {
  struct winsize window = {0};
  if (input.bytes[0] == 'I') {
    if (length == 0) type_end_of_input();
    input.used = HEADER + (length == 0 ? 1 : length);
    input.written = HEADER;
    return;
  }
  if (input.bytes[0] != 'W' || length != 4) fail_with("frame", EPROTO);
  memcpy(&window.ws_row, input.bytes + HEADER, 2);
  memcpy(&window.ws_col, input.bytes + HEADER + 2, 2);
  must(ioctl(terminal, TIOCSWINSZ, &window), "terminal");
  input.used = 0;
}

static void read_input(void) {
  uint32_t length = 0;
  if (input.used >= HEADER) memcpy(&length, input.bytes + 1, sizeof length);
  if (length > MAX_FRAME) fail_with("frame", EMSGSIZE);
  ssize_t got = read(port, input.bytes + input.used, HEADER + length - input.used);
  if (got <= 0) fail_with("port", got < 0 ? errno : EPIPE);
  input.used += (size_t)got;
  if (input.used < HEADER) return;
  memcpy(&length, input.bytes + 1, sizeof length);
  if (input.used == HEADER + (size_t)length) take_input(length);
}

static void write_input(void) {
  ssize_t wrote = write(terminal, input.bytes + input.written, input.used - input.written);
  if (wrote < 0 && (errno == EAGAIN || errno == EINTR)) return;
  /* With nobody left at the terminal, what is typed goes nowhere. */
  input.written = wrote < 0 ? input.used : input.written + (size_t)wrote;
  if (input.written == input.used) input.used = input.written = 0;
}

/* One read, one frame: the host not reading makes the script wait. Returns -1 at the end. */
static int relay(int fd, char type) {
  ssize_t got = read(fd, frame + HEADER, MAX_FRAME);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return fd;
  if (got <= 0) return -1;
  send_frame(type, (size_t)got);
  return fd;
}

/* A terminal has no end of its own: it is over when nobody is left in the job, and nothing in the kernel. */
static void drain_terminal(void) {
  for (ssize_t got; (got = read(terminal, frame + HEADER, MAX_FRAME)) > 0;) send_frame('1', (size_t)got);
}

static void relay_until_end(void) {
  int out = job.terminal ? terminal : job_out, err = job.terminal ? -1 : job_err, running = job_pidfd;
  while (running >= 0 || out >= 0 || err >= 0) {
    int is_typing = input.written > 0;
    struct pollfd fds[] = {
      {.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}, {.fd = running, .events = POLLIN},
      {.fd = job.terminal && !is_typing ? port : -1, .events = POLLIN}, {.fd = is_typing && out >= 0 ? terminal : -1, .events = POLLOUT}};
    if (poll(fds, 5, -1) < 0 && errno != EINTR) fail("poll");
    if (fds[0].revents) out = relay(out, '1');
    if (fds[1].revents) err = relay(err, '2');
    if (fds[2].revents) running = -1;
    if (fds[2].revents && job.terminal) {
      drain_terminal();
      out = -1;
    }
    if (fds[3].revents) read_input();
    if (fds[4].revents) write_input();
  }
}

/* ---- the end ---- */

/* Runs a step again as long as something of the dead job is still being cleaned up. */
static void patiently(int (*step)(void), const char *name) {
  for (int tries = 0; step() < 0; tries++) {
    if (errno != EBUSY || tries == PATIENCE_MS) fail(name);
    wait_a_moment();
  }
}

static int unmount_root(void) { return umount2("/r", 0); }
static int make_scratch_read_only(void) { return mount(NULL, "/s", NULL, MS_REMOUNT | MS_RDONLY | MS_NOATIME, NULL); }

/* A loop device that the script left attached holds its file open. */
static void detach_loops(void) {
  char path[300];
  DIR *directory = opendir("/sys/block");
  if (directory == NULL) fail("loop");
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
    if (strncmp(entry->d_name, "loop", 4) != 0) continue;
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    swapoff(path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    ioctl(fd, LOOP_CLR_FD, 0);
    close(fd);
  }
  closedir(directory);
}

static void freeze(void) {
  detach_loops();
  patiently(unmount_root, "unmount");
  int fd = open("/s", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  must(fd, "freeze");
  /* The disk is a sparse file: on a full host, what was written is lost only now. */
  must(syncfs(fd), "sync");
  close(fd);
  patiently(make_scratch_read_only, "freeze");
}

static int is_changed(uint64_t before) {
  int count = 0;
  DIR *directory = opendir("/s/up");
  if (directory == NULL) fail("upper");
  while (count < 3 && readdir(directory) != NULL) count++;
  closedir(directory);
  return count > 2 || root_fingerprint() != before;
}

/* A counter of the job's control group, where the kernel has it. */
static char *add_counter(char *at, const char *record, const char *file, const char *key) {
  char path[64];
  snprintf(path, sizeof path, "/c/job/%s", file);
  return access(path, R_OK) < 0 ? at : at + sprintf(at, "%s=%llu%c", record, get_number(path, key), 0);
}

static void send_end(int status, const struct statfs *disk, int changed) {
  char *at = (char *)frame + HEADER;
  unsigned long long size = (unsigned long long)disk->f_bsize;
  if (WIFEXITED(status)) at += sprintf(at, "status=%d%c", WEXITSTATUS(status), 0);
  else at += sprintf(at, "signal=%d%c", WTERMSIG(status), 0);
  at = add_counter(at, "oom", "memory.events", "oom_kill");
  at = add_counter(at, "forks-refused", "pids.events", "max");
  at = add_counter(at, "memory-peak", "memory.peak", "");
  at = add_counter(at, "pids-peak", "pids.peak", "");
  at += sprintf(at, "disk-bytes=%llu%c", size * (disk->f_blocks - disk->f_bfree), 0);
  at += sprintf(at, "bytes-left=%llu%c", size * disk->f_bavail, 0);
  at += sprintf(at, "inodes-left=%llu%c", (unsigned long long)disk->f_ffree, 0);
  at += sprintf(at, "changed=%d%c", changed, 0);
  send_frame('X', (size_t)(at - (char *)frame) - HEADER);
}

int main(int count, char **words) {
  if (count > 1 && strstr(words[0], "modprobe") != NULL) return modprobe(count, words);
  boot();
  set_clock_and_entropy();
  read_request();
  parse_request();
  bind_job_disks();
  mount_root();
  set_job_limits();
  uint64_t before = root_fingerprint();
  start_script();
  relay_until_end();
  int status;
  struct statfs disk;
  must(waitpid(-1, &status, 0), "wait");
  must(statfs("/s", &disk), "statfs");
  int is_done = WIFEXITED(status) && WEXITSTATUS(status) == 0, changed = 0;
  if (is_done) {
    freeze();
    changed = is_changed(before);
  }
  send_end(status, &disk, changed);
  if (changed) send_result();
  send_frame('F', 0);
  for (;;) pause();
}
