import type { SyscallName } from './arch.ts';
import {
  type ArgRule,
  allowWhen,
  type CallGroup,
  CLONE_NAMESPACES,
  CLONE_THREAD,
  isNull,
  oneOf,
  type Profile,
  withBits,
  withoutBits,
} from './rules.ts';

/** What a Node process needs after start whatever its work is, and nothing that names a file. */
const RUNTIME: readonly CallGroup[] = [
  {
    why: 'memory of V8; mprotect may make code, since V8 compiles at run time',
    calls: ['brk', 'mmap', 'munmap', 'mremap', 'mprotect', 'madvise', 'membarrier', 'pkey_alloc', 'pkey_free', 'pkey_mprotect'],
  },
  {
    why: 'threads and locks; clone is under a rule, so that a thread may start and a process may not',
    calls: [
      'futex',
      'set_robust_list',
      'rseq',
      'set_tid_address',
      'sched_yield',
      'sched_getaffinity',
      'sched_getparam',
      'sched_getscheduler',
    ],
  },
  {
    why: 'signals to itself, and the ends of a thread and of the process',
    calls: ['rt_sigaction', 'rt_sigprocmask', 'rt_sigreturn', 'sigaltstack', 'tgkill', 'restart_syscall', 'exit', 'exit_group'],
  },
  {
    why: 'the event loop',
    calls: ['epoll_create1', 'epoll_ctl', 'epoll_wait', 'epoll_pwait', 'eventfd2', 'pipe2', 'poll', 'ppoll'],
  },
  {
    why: 'clocks',
    calls: ['clock_gettime', 'clock_getres', 'clock_nanosleep', 'nanosleep', 'gettimeofday', 'time', 'times'],
  },
  {
    why: 'facts about the process and the machine',
    calls: [
      ...['getpid', 'getppid', 'gettid', 'getuid', 'geteuid', 'getgid', 'getegid', 'getresuid', 'getresgid', 'getgroups', 'capget'],
      ...['getrandom', 'getrusage', 'getrlimit', 'sysinfo', 'uname', 'getcpu'],
    ] as const,
  },
  {
    why: 'descriptors that the process was given: files, pipes, and the socket to the daemon',
    calls: [
      ...['close', 'close_range', 'dup', 'dup2', 'dup3', 'fcntl', 'lseek', 'shutdown', 'getsockname', 'getsockopt'],
      ...['read', 'readv', 'pread64', 'preadv', 'preadv2', 'write', 'writev', 'pwrite64', 'pwritev', 'pwritev2', 'sendfile'],
      ...['sendto', 'sendmsg', 'recvfrom', 'recvmsg', 'fsync', 'fdatasync'],
    ] as const,
  },
];

/** Looking at a tree. */
const LOOKING: readonly CallGroup[] = [
  {
    why: 'looks at files by descriptor, by name and below a directory; openat2 keeps its flags in memory, beyond a filter',
    calls: [
      ...['openat2', 'fstat', 'newfstatat', 'stat', 'lstat', 'statx', 'fstatfs', 'statfs', 'getdents64', 'readlinkat', 'readlink'],
      ...['access', 'faccessat', 'faccessat2', 'fadvise64', 'readahead'],
    ] as const,
  },
  {
    why: 'reads extended attributes; by name too, for /proc/self/fd/N of an O_PATH descriptor',
    calls: ['fgetxattr', 'lgetxattr', 'getxattr', 'flistxattr', 'llistxattr', 'listxattr'],
  },
  {
    why: 'walks trees deeper than PATH_MAX',
    calls: ['getcwd', 'chdir', 'fchdir'],
  },
];

/** Changing a tree. The calls without a directory descriptor can do no more than those with one; glibc uses some of them inside the latter. */
const CHANGING: readonly CallGroup[] = [
  {
    why: 'makes, names and deletes files; mknodat for whiteouts and FIFOs',
    calls: [
      ...['open', 'openat', 'mkdirat', 'mknodat', 'symlinkat', 'linkat', 'unlinkat', 'renameat', 'renameat2', 'umask'],
      ...['mkdir', 'mknod', 'symlink', 'link', 'unlink', 'rmdir', 'rename'],
    ] as const,
  },
  {
    why: 'contents and sizes of files',
    calls: ['ftruncate', 'fallocate', 'copy_file_range', 'sync_file_range', 'syncfs'],
  },
  {
    why: 'owners, modes and times of files',
    calls: ['fchownat', 'fchown', 'lchown', 'chown', 'fchmodat', 'fchmodat2', 'fchmod', 'chmod', 'utimensat'],
  },
  {
    why: 'writes extended attributes',
    calls: ['fsetxattr', 'lsetxattr', 'setxattr', 'fremovexattr', 'lremovexattr', 'removexattr'],
  },
];

const ABSENT: readonly CallGroup[] = [{ why: 'glibc falls back to clone when it starts a thread', calls: ['clone3'] }];

/** Requests about a descriptor's kind and mode: TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX of `<asm-generic/ioctls.h>`. */
const DESCRIPTOR_REQUESTS = [0x5401, 0x5413, 0x541b, 0x5421, 0x5450, 0x5451];

/** PR_SET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP, PR_CAPBSET_READ, PR_GET_NO_NEW_PRIVS and PR_SET_VMA of `<linux/prctl.h>`. */
const PROCESS_OPTIONS = [1, 3, 15, 16, 21, 23, 39, 0x53564d41];

const RUNTIME_RULES: readonly (readonly [SyscallName, ArgRule])[] = [
  ['clone', allowWhen(withBits(0, CLONE_THREAD), withoutBits(0, CLONE_NAMESPACES))],
  ['ioctl', allowWhen(oneOf(1, ...DESCRIPTOR_REQUESTS))],
  ['prctl', allowWhen(oneOf(0, ...PROCESS_OPTIONS))],
  // The process may read its own limits: no other pid, no new value.
  ['prlimit64', allowWhen(oneOf(0, 0), ...isNull(2))],
];

/** The access mode, O_CREAT, O_TRUNC and __O_TMPFILE of `<asm-generic/fcntl.h>`: without any of them an open changes nothing. */
const CHANGING_OPEN_FLAGS = 0x3 | 0x40 | 0x200 | 0x400000;

/**
 * The profile of a worker that unpacks a layer. It goes in after start, chroot and loading of all code: no program, process,
 * socket, mount or namespace can be made; files can. Source: spec/hardening.md 3.8.
 */
export const unpackWorkerProfile: Profile = {
  name: 'unpack-worker',
  allowed: [...RUNTIME, ...LOOKING, ...CHANGING],
  rules: new Map(RUNTIME_RULES),
  absent: ABSENT,
};

/**
 * The profile of a worker that captures an upper directory: it reads files and writes to descriptors that it was given.
 * NOTE: openat2 could still create a file, as its flags lie in memory; the read-only mount of the upper directory is what
 * refuses that. Source: spec/hardening.md 3.9.
 */
export const captureWorkerProfile: Profile = {
  name: 'capture-worker',
  allowed: [...RUNTIME, ...LOOKING],
  rules: new Map([
    ...RUNTIME_RULES,
    ['open', allowWhen(withoutBits(1, CHANGING_OPEN_FLAGS))],
    ['openat', allowWhen(withoutBits(2, CHANGING_OPEN_FLAGS))],
  ]),
  absent: ABSENT,
};

/**
 * The profile of a worker that makes disk images: that of a capture worker, and data may go from file to file without passing through it.
 * The copy has no more reach than reading the one descriptor and writing to the other.
 */
export const diskWorkerProfile: Profile = {
  ...captureWorkerProfile,
  name: 'disk-worker',
  allowed: [...captureWorkerProfile.allowed, { why: 'moves data between files', calls: ['copy_file_range'] }],
};
