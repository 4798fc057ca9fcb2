/*
 * rootlayer-launch: makes the namespaces of one sandbox and becomes the program in it.
 *
 *   rootlayer-launch job     the script of a job: a user, mount, pid, net, ipc, uts and cgroup namespace, its root
 *                            filesystem, /proc /sys /dev, twelve capabilities, no_new_privs, a seccomp filter
 *   rootlayer-launch worker  a rootlayer process that reads hostile bytes: fresh namespaces, few capabilities; the worker
 *                            itself enters an empty root and installs its seccomp filter once its code is loaded
 *
 * The order is written down in docs/architecture.md ("Launcher"). It is C, not TypeScript, because a namespace with a user
 * namespace cannot be made by a process with threads, and because starting Node would cost ten times the whole job.
 *
 *   rootlayer-launch vm      QEMU: fresh namespaces, a read-only root with its program alone, a user of its own, no capability, a seccomp
 *                            filter, and nothing open but what it was given
 *
 *   rootlayer-launch userns  a user namespace with given id maps, for the daemon to take by /proc/PID/ns/user (idmapped mounts)
 *
 *   rootlayer-launch overlay an overlay mount for the daemon, on kernels that take layers by path only (before 6.15): it needs a
 *                            mount namespace in which they are attached, and gives the detached overlay back on its socket
 *
 * What to do comes as NUL-terminated "key=value" records on descriptor 3, so that no value shows on a command line.
 * What happened goes out as lines on the status descriptor: "started", "error STEP ERRNO", "exit N", "signal N", "userns PID",
 * "mounted".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include <grp.h>
#include <poll.h>
#include <termios.h>

/* Numbers and flags of the mount calls, the same on every architecture; older headers lack some. */
#define NR_OPEN_TREE 428
#define NR_MOVE_MOUNT 429
#define NR_FSOPEN 430
#define NR_FSCONFIG 431
#define NR_FSMOUNT 432
#define NR_CLONE3 435
#define NR_CLOSE_RANGE 436
#define NR_OPENAT2 437
#define NR_MOUNT_SETATTR 442

#define CLOSE_ON_EXEC 4u
#define WORKER_SOCKET 4
#define CLONE_TREE 1u
#define CLONE_INTO_GROUP 0x200000000ull
#define TREE_CLOEXEC ((unsigned)O_CLOEXEC)
#define MOVE_F_EMPTY 0x4u
#define MOVE_T_EMPTY 0x40u
#define ATTR_RDONLY 0x1u
#define ATTR_NOSUID 0x2u
#define ATTR_NODEV 0x4u
#define ATTR_NOEXEC 0x8u
#define FSCONFIG_FLAG 0u
#define FSCONFIG_STRING 1u
#define FSCONFIG_CREATE 6u
#define RESOLVE_BENEATH_ONLY 0x0du /* NO_XDEV | NO_SYMLINKS | BENEATH */

#define MAX_ITEMS 4096
#define MAX_CGROUPS 16
#define MAX_EXEC 4
#define MAX_ARGS 256
#define MAX_PASSED 40
#define FIRST_PASSED 3
#define MAX_LAYERS 160
#define MAX_SPEC (64u << 20)

struct open_how_v0 { uint64_t flags, mode, resolve; };
struct mount_attr_v0 { uint64_t attr_set, attr_clr, propagation, userns_fd; };
struct clone_args_v2 {
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

struct spec {
  int user_namespace;      /* with a user namespace of its own */
  unsigned long uid_base;  /* first host uid and gid of the namespace's 65,536 */
  int host_network;
  int root_fd;             /* detached mount of the root filesystem */
  int files_fd;            /* detached mount for /dev/rootlayer; for a virtual machine: for /boot */
  int device_fd;           /* directory with the device nodes to lend; for a virtual machine: detached mount for /dev */
  int resolv_fd;           /* detached file mount for /etc/resolv.conf */
  int seccomp_fd;
  int status_fd;
  int cgroup_fds[MAX_CGROUPS]; /* tasks files of cgroup v1 */
  int cgroups;
  int cgroup_dir_fd;       /* directory of the cgroup v2 to start in */
  uint64_t keep_caps;
  int no_new_privs;
  unsigned long file_size_limit;
  struct winsize window;   /* of the terminal that the program is to have; no rows: none */
  const char *hostname;
  char *env[MAX_ITEMS];
  int envs;
  char *exec[MAX_EXEC][MAX_ARGS];
  int execs, args;
  const char *maps[4];     /* lines of uid_map and gid_map */
  int map_count;
  int lower_fds[MAX_LAYERS]; /* detached mounts, topmost first */
  int lowers;
  int upper_fd;            /* detached mount that holds up/ and work/, or -1 */
  int code_fd;             /* detached mount with a worker's program, or -1 */
  unsigned long user;      /* host uid and gid to become */
  unsigned long processes; /* most processes and threads of that user */
  int passed_fds[MAX_PASSED]; /* descriptors for the program, under the numbers from FIRST_PASSED on */
  int passed;
  const char *options;     /* further overlay options */
  unsigned long mount_flags;
};

static struct spec S = {.root_fd = -1, .files_fd = -1, .device_fd = -1, .resolv_fd = -1, .seccomp_fd = -1, .status_fd = -1, .upper_fd = -1, .code_fd = -1, .cgroup_dir_fd = -1};
static int error_pipe[2] = {-1, -1};
static int device_clones[6];
static const char *const device_names[6] = {"null", "zero", "full", "random", "urandom", "tty"};

static void say(int fd, const char *format, ...) {
  char line[256];
  va_list values;
  va_start(values, format);
  int length = vsnprintf(line, sizeof line, format, values);
  va_end(values);
  if (length >= (int)sizeof line) length = sizeof line - 1;
  if (fd >= 0 && write(fd, line, (size_t)length) < 0) _exit(125);
}

/* In the child: tells the parent which step failed. In the parent: tells the daemon. */
static void die(const char *step) {
  int saved = errno;
  say(error_pipe[1] >= 0 ? error_pipe[1] : S.status_fd, "error %s %d\n", step, saved);
  _exit(125);
}

static void must(long result, const char *step) {
  if (result < 0) die(step);
}

static int open_tree_at(int dir, const char *path, unsigned flags) { return (int)syscall(NR_OPEN_TREE, dir, path, flags | TREE_CLOEXEC); }

static int move_to(int mount_fd, int target_fd) {
  return (int)syscall(NR_MOVE_MOUNT, mount_fd, "", target_fd, "", MOVE_F_EMPTY | MOVE_T_EMPTY);
}

/* Opens a name below a directory without leaving it and without following any symlink. */
static int open_beneath(int dir, const char *path, int flags) {
  struct open_how_v0 how = {.flags = (uint64_t)(flags | O_CLOEXEC), .mode = 0, .resolve = RESOLVE_BENEATH_ONLY};
  return (int)syscall(NR_OPENAT2, dir, path, &how, sizeof how);
}

/* ---- the request ---- */

/* Reads to the end: a stream, or (positioned) a file whose offset other launches share. */
static char *read_all(int fd, size_t *length, size_t limit, int positioned) {
  size_t room = 1 << 16;
  char *bytes = malloc(room + 1);
  *length = 0;
  while (bytes != NULL) {
    size_t left = room - *length;
    ssize_t got = positioned ? pread(fd, bytes + *length, left, (off_t)*length) : read(fd, bytes + *length, left);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) die("read-spec");
    if (got == 0) break;
    *length += (size_t)got;
    if (*length == room) {
      room *= 2;
      if (room > limit) { errno = E2BIG; die("read-spec"); }
      bytes = realloc(bytes, room + 1);
    }
  }
  if (bytes == NULL) die("memory");
  bytes[*length] = 0;
  return bytes;
}

static int matches(const char *record, const char *key, char **value) {
  size_t length = strlen(key);
  if (strncmp(record, key, length) != 0 || record[length] != '=') return 0;
  *value = (char *)record + length + 1;
  return 1;
}

/* The first part of the request is the daemon's own, up to "end"; what a stranger may have chosen comes after it. */
static int is_sealed;

static void bad_spec(void) {
  errno = EINVAL;
  die("spec");
}

static unsigned long long number(const char *text, int base) {
  char *rest;
  errno = 0;
  unsigned long long value = strtoull(text, &rest, base);
  if (errno != 0 || rest == text || *rest != 0 || *text == '-' || *text == ' ') bad_spec();
  return value;
}

static int descriptor(const char *text) {
  unsigned long long value = number(text, 10);
  if (value < 4 || value > 1 << 20) bad_spec();
  return (int)value;
}

/* "ROWS COLUMNS" */
static void parse_window(const char *text) {
  char rest;
  if (sscanf(text, "%hu %hu%c", &S.window.ws_row, &S.window.ws_col, &rest) != 2 || S.window.ws_row == 0) bad_spec();
}

static void parse_program_record(char *record) {
  char *value;
  if (matches(record, "env", &value) && S.envs < MAX_ITEMS - 1) S.env[S.envs++] = value;
  else if (matches(record, "exec", &value) && S.execs < MAX_EXEC) { S.args = 0; S.exec[S.execs++][S.args++] = value; }
  else if (matches(record, "arg", &value) && S.execs > 0 && S.args < MAX_ARGS - 1) S.exec[S.execs - 1][S.args++] = value;
  else bad_spec();
}

static void parse_record(char *record) {
  char *value;
  if (is_sealed) parse_program_record(record);
  else if (strcmp(record, "end=") == 0) is_sealed = 1;
  else if (matches(record, "status", &value)) S.status_fd = descriptor(value);
  else if (matches(record, "userns", &value)) { S.user_namespace = 1; S.uid_base = number(value, 10); }
  else if (matches(record, "network", &value)) S.host_network = strcmp(value, "host") == 0;
  else if (matches(record, "root", &value)) S.root_fd = descriptor(value);
  else if (matches(record, "files", &value)) S.files_fd = descriptor(value);
  else if (matches(record, "devices", &value)) S.device_fd = descriptor(value);
  else if (matches(record, "resolv", &value)) S.resolv_fd = descriptor(value);
  else if (matches(record, "seccomp", &value)) S.seccomp_fd = descriptor(value);
  else if (matches(record, "hostname", &value)) S.hostname = value;
  else if (matches(record, "caps", &value)) S.keep_caps = number(value, 16);
  else if (matches(record, "nnp", &value)) S.no_new_privs = number(value, 10) != 0;
  else if (matches(record, "fsize", &value)) S.file_size_limit = number(value, 10);
  else if (matches(record, "terminal", &value)) parse_window(value);
  else if (matches(record, "cgroup", &value) && S.cgroups < MAX_CGROUPS) S.cgroup_fds[S.cgroups++] = descriptor(value);
  else if (matches(record, "cgroup-dir", &value)) S.cgroup_dir_fd = descriptor(value);
  else if (matches(record, "lower", &value) && S.lowers < MAX_LAYERS) S.lower_fds[S.lowers++] = descriptor(value);
  else if (matches(record, "upper", &value)) S.upper_fd = descriptor(value);
  else if (matches(record, "code", &value)) S.code_fd = descriptor(value);
  else if (matches(record, "user", &value)) S.user = number(value, 10);
  else if (matches(record, "processes", &value)) S.processes = number(value, 10);
  else if (matches(record, "pass", &value) && S.passed < MAX_PASSED) S.passed_fds[S.passed++] = descriptor(value);
  else if (matches(record, "options", &value)) S.options = value;
  else if (matches(record, "flags", &value)) S.mount_flags = number(value, 10);
  else if (matches(record, "map", &value) && S.map_count < 4) S.maps[S.map_count++] = value;
  else bad_spec();
}

static void read_spec(void) {
  size_t length;
  char *bytes = read_all(3, &length, MAX_SPEC, 0);
  close(3);
  for (size_t at = 0; at < length; at += strlen(bytes + at) + 1) parse_record(bytes + at);
  if (!is_sealed || (S.execs == 0 && S.map_count == 0 && S.lowers == 0)) bad_spec();
  /* Nothing that was handed over reaches the program by accident; the few that must are opened again. */
  must(syscall(NR_CLOSE_RANGE, 3u, ~0u, CLOSE_ON_EXEC), "close");
}

/* ---- mounts of a job, all relative to the root's descriptor ---- */

static int make_filesystem(const char *type, const char *const options[][2], unsigned attributes, const char *step) {
  int context = (int)syscall(NR_FSOPEN, type, 1u);
  must(context, step);
  for (int i = 0; options != NULL && options[i][0] != NULL; i++) {
    unsigned command = options[i][1] == NULL ? FSCONFIG_FLAG : FSCONFIG_STRING;
    must(syscall(NR_FSCONFIG, context, command, options[i][0], options[i][1], 0), step);
  }
  if (syscall(NR_FSCONFIG, context, FSCONFIG_CREATE, NULL, NULL, 0) < 0) { close(context); return -1; }
  int mount_fd = (int)syscall(NR_FSMOUNT, context, 1u, attributes);
  close(context);
  return mount_fd;
}

static void attach(int mount_fd, int dir, const char *name, const char *step) {
  must(mount_fd, step);
  int target = open_beneath(dir, name, O_PATH | O_DIRECTORY);
  must(target, step);
  must(move_to(mount_fd, target), step);
  close(target);
}

static void mount_dev(void) {
  static const char *const tmpfs[][2] = {{"mode", "0755"}, {"size", "1m"}, {"nr_inodes", "256"}, {NULL, NULL}};
  static const char *const pts[][2] = {{"newinstance", NULL}, {"ptmxmode", "0666"}, {"mode", "0620"}, {"gid", "5"}, {NULL, NULL}};
  static const char *const pts_nogid[][2] = {{"newinstance", NULL}, {"ptmxmode", "0666"}, {"mode", "0620"}, {NULL, NULL}};
  static const char *const shm[][2] = {{"mode", "1777"}, {"size", "64m"}, {"nr_inodes", "8192"}, {NULL, NULL}};
  static const char *const links[][2] = {{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
                                         {"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"}};
  int dev = make_filesystem("tmpfs", tmpfs, ATTR_NOSUID | ATTR_NOEXEC, "dev");
  attach(dev, S.root_fd, "dev", "dev");
  for (int i = 0; i < 6; i++) {
    int node = openat(dev, device_names[i], O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
    must(node, "dev-node");
    must(move_to(device_clones[i], node), "dev-node");
    close(node);
    close(device_clones[i]);
  }
  for (unsigned i = 0; i < sizeof links / sizeof links[0]; i++) must(symlinkat(links[i][0], dev, links[i][1]), "dev-link");
  must(mkdirat(dev, "pts", 0755), "dev-pts");
  must(mkdirat(dev, "shm", 01777), "dev-shm");
  must(mkdirat(dev, "rootlayer", 0755), "dev-files");
  int pts_fd = make_filesystem("devpts", pts, ATTR_NOSUID | ATTR_NOEXEC, "dev-pts");
  if (pts_fd < 0) pts_fd = make_filesystem("devpts", pts_nogid, ATTR_NOSUID | ATTR_NOEXEC, "dev-pts");
  attach(pts_fd, dev, "pts", "dev-pts");
  attach(make_filesystem("tmpfs", shm, ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC, "dev-shm"), dev, "shm", "dev-shm");
  if (S.files_fd >= 0) attach(S.files_fd, dev, "rootlayer", "dev-files");
  close(dev);
}

/* Covers a file of /proc or /sys with the null device, a directory with an empty read-only tmpfs. What is not there needs no cover. */
static void mask(int dir, const char *name) {
  int target = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (target < 0) return;
  struct stat status;
  must(fstat(target, &status), "mask");
  int cover;
  if (S_ISDIR(status.st_mode)) {
    static const char *const empty[][2] = {{"mode", "0555"}, {"size", "4k"}, {NULL, NULL}};
    cover = make_filesystem("tmpfs", empty, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC, "mask");
  } else {
    cover = open_tree_at(S.root_fd, "dev/null", CLONE_TREE);
  }
  must(cover, "mask");
  must(move_to(cover, target), "mask");
  close(cover);
  close(target);
}

static void make_read_only(int dir, const char *name) {
  int target = openat(dir, name, O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
  if (target < 0) return;
  int clone = open_tree_at(target, "", CLONE_TREE | AT_EMPTY_PATH);
  must(clone, "proc-ro");
  struct mount_attr_v0 attr = {.attr_set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC};
  must(syscall(NR_MOUNT_SETATTR, clone, "", AT_EMPTY_PATH, &attr, sizeof attr), "proc-ro");
  must(move_to(clone, target), "proc-ro");
  close(clone);
  close(target);
}

static void mount_proc(void) {
  static const char *const hidden[] = {"kcore", "keys", "sysrq-trigger", "timer_list", "latency_stats", "sched_debug", "kallsyms", "kmsg",
                                       "kpagecount", "kpageflags", "kpagecgroup", "acpi", "scsi", "asound"};
  static const char *const read_only[] = {"sys", "bus", "fs", "irq"};
  int proc = make_filesystem("proc", NULL, ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC, "proc");
  attach(proc, S.root_fd, "proc", "proc");
  struct statfs kind;
  must(fstatfs(proc, &kind), "proc");
  if (kind.f_type != PROC_SUPER_MAGIC) { errno = EINVAL; die("proc-magic"); }
  if (S.user_namespace) {
    for (unsigned i = 0; i < sizeof hidden / sizeof hidden[0]; i++) mask(proc, hidden[i]);
    for (unsigned i = 0; i < sizeof read_only / sizeof read_only[0]; i++) make_read_only(proc, read_only[i]);
  }
  close(proc);
}

/* /sys is wanted by few scripts and refused by the kernel where the daemon itself sees a covered one: then it stays empty. */
static void mount_sys(void) {
  static const char *const hidden[] = {"firmware", "kernel/debug", "kernel/security", "kernel/tracing", "fs/bpf", "fs/cgroup", "fs/fuse"};
  if (S.host_network) return;
  int sys = make_filesystem("sysfs", NULL, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC, "sys");
  if (sys < 0) return;
  attach(sys, S.root_fd, "sys", "sys");
  for (unsigned i = 0; S.user_namespace && i < sizeof hidden / sizeof hidden[0]; i++) mask(sys, hidden[i]);
  close(sys);
}

static void enter_root(void) {
  must(fchdir(S.root_fd), "chdir-root");
  must(syscall(SYS_pivot_root, ".", "."), "pivot-root");
  must(umount2(".", MNT_DETACH), "detach-host-root");
  must(chdir("/"), "chdir");
  char here[8];
  if (syscall(SYS_getcwd, here, sizeof here) < 0 || strcmp(here, "/") != 0) die("cwd");
}

/* ---- what the process itself may do ---- */

static void loopback_up(void) {
  struct ifreq request = {0};
  int socket_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket_fd < 0) return;
  strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(socket_fd, SIOCSIFFLAGS, &request) < 0) die("loopback");
  close(socket_fd);
}

/* A limit is only ever lowered: raising a hard limit needs CAP_SYS_RESOURCE, which the daemon may lack. */
static void lower_limit(int resource, rlim_t soft, rlim_t hard) {
  struct rlimit limit;
  must(getrlimit((__rlimit_resource_t)resource, &limit), "rlimit");
  if (hard < limit.rlim_max) limit.rlim_max = hard;
  limit.rlim_cur = soft < limit.rlim_max ? soft : limit.rlim_max;
  must(setrlimit((__rlimit_resource_t)resource, &limit), "rlimit");
}

static void set_limits(void) {
  lower_limit(RLIMIT_CORE, 0, 0);
  lower_limit(RLIMIT_NOFILE, 4096, 65536);
  lower_limit(RLIMIT_MEMLOCK, 8 << 20, 8 << 20);
  lower_limit(RLIMIT_MSGQUEUE, 819200, 819200);
  lower_limit(RLIMIT_NICE, 0, 0);
  lower_limit(RLIMIT_RTPRIO, 0, 0);
  if (S.file_size_limit > 0) lower_limit(RLIMIT_FSIZE, S.file_size_limit, S.file_size_limit);
}

static void drop_bounding_set(void) {
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  for (int cap = 0; cap <= 63; cap++) {
    if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) < 1) continue;
    if ((S.keep_caps >> cap & 1) == 0) must(prctl(PR_CAPBSET_DROP, cap, 0, 0, 0), "bounding-set");
  }
}

static void limit_capabilities(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  struct __user_cap_data_struct held[2] = {{0}}, data[2] = {{0}};
  must(syscall(SYS_capget, &header, held), "capget");
  for (int i = 0; i < 2; i++) {
    uint32_t keep = (uint32_t)(S.keep_caps >> (32 * i)) & held[i].permitted;
    data[i].effective = data[i].permitted = keep;
  }
  must(syscall(SYS_capset, &header, data), "capset");
  if (S.no_new_privs) must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no-new-privs");
}

static void keep_capabilities(void) {
  drop_bounding_set();
  limit_capabilities();
}

static void start_program(struct sock_fprog *filter) {
  signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  if (filter != NULL) must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, filter), "seccomp");
  S.env[S.envs] = NULL;
  for (int i = 0; i < S.execs; i++) {
    execve(S.exec[i][0], S.exec[i], S.env);
    if (errno != ENOENT && errno != EACCES && errno != ENOTDIR) break;
  }
  die("exec");
}

/* Reads the whole filter before descriptors are closed. */
static struct sock_fprog *load_filter(void) {
  static struct sock_fprog program;
  if (S.seccomp_fd < 0) return NULL;
  size_t length;
  char *bytes = read_all(S.seccomp_fd, &length, 1 << 20, 1);
  program.len = (unsigned short)(length / sizeof(struct sock_filter));
  program.filter = (struct sock_filter *)(void *)bytes;
  return &program;
}

/* ---- the two children ---- */

static void wait_for_release(int release_fd) {
  char byte;
  must(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "pdeathsig");
  if (read(release_fd, &byte, 1) != 1) _exit(125);
  close(release_fd);
}

/*
 * Moving a whole process makes the kernel wait for a grace period, some 10 ms; a thread that moves itself does not wait, and neither does
 * one that is born in its group. Source: cgroup_procs_write_start() of kernel/cgroup/cgroup.c.
 */
static void enter_cgroups(void) {
  for (int i = 0; i < S.cgroups; i++) must(write(S.cgroup_fds[i], "0", 1), "cgroup");
}

static void become_root_of_namespace(void) {
  if (!S.user_namespace) return;
  must(setgroups(0, NULL), "setgroups");
  must(setresgid(0, 0, 0), "setresgid");
  must(setresuid(0, 0, 0), "setresuid");
  /* A change of ids clears the parent-death signal. */
  must(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "pdeathsig");
}

static void keep_error_pipe_last(void) {
  /* Descriptor 3 is the error pipe: it closes itself on exec, all above it are closed now. */
  if (error_pipe[1] != 3) {
    must(dup3(error_pipe[1], 3, O_CLOEXEC), "close");
    error_pipe[1] = 3;
  }
  must(syscall(NR_CLOSE_RANGE, 4u, ~0u, 0u), "close");
}

static void send_descriptor(int fd) {
  char byte = 0;
  struct iovec data = {.iov_base = &byte, .iov_len = 1};
  union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = {{0}};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &fd, sizeof(int));
  must(sendmsg(WORKER_SOCKET, &message, MSG_NOSIGNAL), "send");
}

/*
 * The pty is one of the sandbox's own devpts, so that its name is right inside. Both ends go to the daemon: while it holds the far one too, a
 * script may close its terminal and open it again.
 */
static void open_terminal(void) {
  struct termios settings;
  int unlock = 0;
  int near = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
  must(near, "terminal");
  must(ioctl(near, TIOCSPTLCK, &unlock), "terminal");
  must(ioctl(near, TIOCSWINSZ, &S.window), "terminal");
  int far = ioctl(near, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  must(far, "terminal");
  must(tcgetattr(far, &settings), "terminal");
  settings.c_iflag |= IUTF8;
  must(tcsetattr(far, TCSANOW, &settings), "terminal");
  must(ioctl(far, TIOCSCTTY, 0), "terminal");
  send_descriptor(near);
  send_descriptor(far);
  for (int i = 0; i < 3; i++) must(dup2(far, i), "terminal");
}

static void open_null_input(void) {
  int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  must(null_fd, "stdin");
  must(dup2(null_fd, 0), "stdin");
}

static void job_child(int release_fd) {
  wait_for_release(release_fd);
  enter_cgroups();
  become_root_of_namespace();
  must(setsid(), "setsid");
  if (unshare(CLONE_NEWCGROUP) < 0 && errno != EINVAL) die("cgroup-namespace");
  must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
  int host_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  must(host_root, "host-root");
  must(move_to(S.root_fd, host_root), "root");
  mount_dev();
  mount_proc();
  mount_sys();
  if (S.resolv_fd >= 0) {
    int target = open_beneath(S.root_fd, "etc/resolv.conf", O_PATH | O_NOFOLLOW);
    must(target, "resolv");
    must(move_to(S.resolv_fd, target), "resolv");
  }
  enter_root();
  if (S.hostname != NULL) must(sethostname(S.hostname, strlen(S.hostname)), "hostname");
  if (!S.host_network) loopback_up();
  umask(022);
  set_limits();
  struct sock_fprog *filter = load_filter();
  if (S.window.ws_row > 0) open_terminal();
  else open_null_input();
  keep_capabilities();
  keep_error_pipe_last();
  start_program(filter);
}

static void worker_child(int release_fd) {
  wait_for_release(release_fd);
  enter_cgroups();
  become_root_of_namespace();
  must(setsid(), "setsid");
  must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
  if (S.code_fd >= 0) {
    /* Any directory would do that exists everywhere and that a worker can do without. */
    int place = open("/sys", O_PATH | O_DIRECTORY | O_CLOEXEC);
    must(place, "code");
    must(move_to(S.code_fd, place), "code");
  }
  umask(0);
  lower_limit(RLIMIT_CORE, 0, 0);
  keep_capabilities();
  must(fcntl(WORKER_SOCKET, F_SETFD, 0), "worker-socket");
  start_program(NULL);
}

/* A change of ids clears the parent-death signal; a launcher that ended before it was set again has left the pipe without a reader. */
static void become_user(void) {
  must(setgroups(0, NULL), "setgroups");
  must(setresgid((gid_t)S.user, (gid_t)S.user, (gid_t)S.user), "setresgid");
  must(setresuid((uid_t)S.user, (uid_t)S.user, (uid_t)S.user), "setresuid");
  must(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "pdeathsig");
  struct pollfd launcher = {.fd = error_pipe[1]};
  if (poll(&launcher, 1, 0) != 0) _exit(125);
}

/* Two steps, since a number that one descriptor is to get may be another's. */
static void pass_descriptors(void) {
  int first_free = FIRST_PASSED + MAX_PASSED + 1;
  error_pipe[1] = fcntl(error_pipe[1], F_DUPFD_CLOEXEC, first_free);
  must(error_pipe[1], "close");
  for (int i = 0; i < S.passed; i++) {
    S.passed_fds[i] = fcntl(S.passed_fds[i], F_DUPFD_CLOEXEC, first_free);
    must(S.passed_fds[i], "pass");
  }
  for (int i = 0; i < S.passed; i++) must(dup2(S.passed_fds[i], FIRST_PASSED + i), "pass");
  int last = FIRST_PASSED + S.passed;
  must(dup3(error_pipe[1], last, O_CLOEXEC), "close");
  error_pipe[1] = last;
  must(syscall(NR_CLOSE_RANGE, (unsigned)last + 1, ~0u, 0u), "close");
}

/* Standard input is a pipe that nobody writes to: not even the null device of the host is lent. */
static void close_standard_input(void) {
  int ends[2];
  must(pipe2(ends, O_CLOEXEC), "stdin");
  must(dup2(ends[0], 0), "stdin");
  close(ends[0]);
  close(ends[1]);
}

static void vm_child(int release_fd) {
  wait_for_release(release_fd);
  enter_cgroups();
  must(setsid(), "setsid");
  if (unshare(CLONE_NEWCGROUP) < 0 && errno != EINVAL) die("cgroup-namespace");
  must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
  int host_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  must(host_root, "host-root");
  must(move_to(S.root_fd, host_root), "root");
  if (S.device_fd >= 0) attach(S.device_fd, S.root_fd, "dev", "dev");
  if (S.files_fd >= 0) attach(S.files_fd, S.root_fd, "boot", "boot");
  enter_root();
  must(sethostname("vm", 2), "hostname");
  umask(077);
  struct sock_fprog *filter = load_filter();
  lower_limit(RLIMIT_CORE, 0, 0);
  lower_limit(RLIMIT_NOFILE, 256, 256);
  lower_limit(RLIMIT_MEMLOCK, 0, 0);
  lower_limit(RLIMIT_MSGQUEUE, 0, 0);
  lower_limit(RLIMIT_NICE, 0, 0);
  lower_limit(RLIMIT_RTPRIO, 0, 0);
  lower_limit(RLIMIT_FSIZE, S.file_size_limit, S.file_size_limit);
  lower_limit(RLIMIT_NPROC, S.processes, S.processes);
  close_standard_input();
  /* While root still may: the change of user takes away what that needs. */
  drop_bounding_set();
  become_user();
  limit_capabilities();
  pass_descriptors();
  start_program(filter);
}

/* ---- the parent: real root, until the child is gone ---- */

static void write_file_of(pid_t child, const char *name, const char *text) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", (int)child, name);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  must(fd, name);
  must(write(fd, text, strlen(text)), name);
  close(fd);
}

static void admit(pid_t child) {
  char text[64];
  if (S.user_namespace) {
    snprintf(text, sizeof text, "0 %lu 65536\n", S.uid_base);
    write_file_of(child, "uid_map", text);
    write_file_of(child, "gid_map", text);
  }
}

static void clone_devices(void) {
  for (int i = 0; i < 6; i++) {
    device_clones[i] = open_tree_at(S.device_fd, device_names[i], CLONE_TREE);
    must(device_clones[i], "devices");
  }
}

static void relay_start(int tells_start) {
  char message[256];
  ssize_t length = read(error_pipe[0], message, sizeof message);
  if (length > 0) {
    if (write(S.status_fd, message, (size_t)length) < 0) _exit(125);
  } else if (tells_start) {
    say(S.status_fd, "started\n");
  }
}

/* Asked to end, the launcher ends its child and still reaps it: killed itself, it would leave a zombie to the machine's init. */
static volatile pid_t child_to_end;
static pid_t daemon_pid;

static void end_child(int signal_number) {
  (void)signal_number;
  kill(child_to_end, SIGKILL);
}

static int run(void (*become)(int release_fd), int tells_start) {
  int release[2];
  must(pipe2(release, O_CLOEXEC), "pipe");
  int errors[2];
  must(pipe2(errors, O_CLOEXEC), "pipe");
  uint64_t flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
  if (!S.host_network) flags |= CLONE_NEWNET;
  if (S.user_namespace) flags |= CLONE_NEWUSER;
  struct clone_args_v2 args = {.flags = flags, .exit_signal = SIGCHLD};
  if (S.cgroup_dir_fd >= 0) {
    args.flags |= CLONE_INTO_GROUP;
    args.cgroup = (uint64_t)S.cgroup_dir_fd;
  }
  long child = syscall(NR_CLONE3, &args, sizeof args);
  must(child, "clone");
  error_pipe[0] = errors[0];
  if (child == 0) {
    close(release[1]);
    close(errors[0]);
    error_pipe[1] = errors[1];
    become(release[0]);
  }
  child_to_end = (pid_t)child;
  struct sigaction on_end = {.sa_handler = end_child};
  must(sigaction(SIGTERM, &on_end, NULL), "signal");
  /* A child that has given up its own parent-death signal still ends with the daemon, by our hand. */
  must(prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0), "pdeathsig");
  if (getppid() != daemon_pid) end_child(SIGTERM);
  close(errors[1]);
  close(release[0]);
  admit((pid_t)child);
  must(write(release[1], "", 1), "release");
  /* From here on only the child holds the job's output and mounts: their end is its end. */
  int status_fd = S.status_fd;
  if (status_fd >= 0 && status_fd != 3) must(dup3(status_fd, 3, O_CLOEXEC), "status");
  S.status_fd = status_fd >= 0 ? 3 : -1;
  if (error_pipe[0] != 4) must(dup3(error_pipe[0], 4, O_CLOEXEC), "status");
  error_pipe[0] = 4;
  close(0); close(1); close(2);
  syscall(NR_CLOSE_RANGE, 5u, ~0u, 0u);
  relay_start(tells_start);
  int status;
  siginfo_t info;
  while (waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) < 0) if (errno != EINTR) die("wait");
  /* It is dead but its number is still its own: from here on nobody else can be hit. */
  signal(SIGTERM, SIG_IGN);
  while (waitpid((pid_t)child, &status, 0) < 0) if (errno != EINTR) die("wait");
  if (WIFEXITED(status)) say(S.status_fd, "exit %d\n", WEXITSTATUS(status));
  else say(S.status_fd, "signal %d\n", WTERMSIG(status));
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The namespace lives as long as a descriptor of it: the daemon opens it and closes our standard input. */
static int hold_user_namespace(void) {
  struct clone_args_v2 args = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
  char text[256] = "", byte;
  long child = syscall(NR_CLONE3, &args, sizeof args);
  must(child, "clone");
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    for (;;) pause();
  }
  for (int i = 0; i < S.map_count; i++) {
    strncat(text, S.maps[i], 60);
    strcat(text, "\n");
  }
  write_file_of((pid_t)child, "uid_map", text);
  write_file_of((pid_t)child, "gid_map", text);
  say(S.status_fd, "userns %ld\n", child);
  while (read(0, &byte, 1) > 0) {}
  kill((pid_t)child, SIGKILL);
  return waitpid((pid_t)child, NULL, 0) < 0;
}

/* Attaches a detached mount on a new directory of the current one. */
static void attach_new(int mount_fd, const char *name) {
  must(mkdir(name, 0700), "overlay-directory");
  int target = open(name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  must(target, "overlay-directory");
  must(move_to(mount_fd, target), "overlay-attach");
  close(target);
}

/* Names are short and relative, so that no path of the host shows in the mount's options. */
static int mount_overlay(void) {
  static const char *const tmpfs[][2] = {{"mode", "0700"}, {"size", "1m"}, {NULL, NULL}};
  char options[4096] = "", name[16];
  must(unshare(CLONE_NEWNS), "overlay-namespace");
  must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
  int base = make_filesystem("tmpfs", tmpfs, ATTR_NOSUID | ATTR_NODEV, "overlay-base");
  int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  must(base, "overlay-base");
  must(move_to(base, root), "overlay-base");
  must(fchdir(base), "overlay-base");
  strcat(options, "lowerdir=");
  for (int i = 0; i < S.lowers; i++) {
    snprintf(name, sizeof name, "%d", i);
    attach_new(S.lower_fds[i], name);
    if (i > 0) strcat(options, ":");
    strcat(options, name);
  }
  if (S.upper_fd >= 0) {
    attach_new(S.upper_fd, "u");
    strcat(options, ",upperdir=u/up,workdir=u/work");
  }
  if (S.options != NULL) strncat(options, S.options, 512);
  must(mkdir("m", 0700), "overlay-directory");
  must(mount("overlay", "m", "overlay", S.mount_flags, options), "overlay-mount");
  int merged = open_tree_at(AT_FDCWD, "m", CLONE_TREE);
  must(merged, "overlay-clone");
  send_descriptor(merged);
  say(S.status_fd, "mounted\n");
  return 0;
}

static int run_job(void) {
  clone_devices();
  return run(job_child, 1);
}

static int run_vm(void) {
  /* Without a user of its own, a root and a filter it would be more than a virtual machine may be. */
  if (S.user == 0 || S.user > 0xfffffffe || S.root_fd < 0 || S.seccomp_fd < 0 || S.keep_caps != 0 || !S.no_new_privs || S.host_network || S.user_namespace) bad_spec();
  return run(vm_child, 1);
}

static int run_worker(void) { return run(worker_child, 0); }

static const struct { const char *name; int (*run)(void); } modes[] = {
  {"job", run_job}, {"worker", run_worker}, {"vm", run_vm}, {"userns", hold_user_namespace}, {"overlay", mount_overlay},
};

int main(int count, char **words) {
  const char *name = count == 2 ? words[1] : "";
  unsigned mode = 0, known = sizeof modes / sizeof modes[0];
  while (mode < known && strcmp(modes[mode].name, name) != 0) mode++;
  if (mode == known) {
    fprintf(stderr, "usage: rootlayer-launch job|worker|vm|userns|overlay, with the request on descriptor 3\n");
    return 125;
  }
  daemon_pid = getppid();
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (getppid() != daemon_pid) return 125;
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  read_spec();
  return modes[mode].run();
}
