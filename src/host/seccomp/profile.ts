import type { SyscallName } from './arch.ts';
import { type ArgRule, allowWhen, type CallGroup, CLONE_NAMESPACES, oneOf, type Profile, withoutBits } from './rules.ts';

/** What a job may have beyond the default. */
export type JobProfileOptions = {
  /** Lets debuggers and tracers run inside the job. Only on kernels from 4.8 on, where a tracer cannot change a call after the filter saw it. */
  readonly allowPtrace?: boolean;
};

/**
 * Gives the profile of a script and all its children: what Docker lets through for a container without extra capabilities,
 * less what no build needs and what was a way out before. Package installs, compilers, interpreters, useradd, su and setcap
 * run under it; mounting, namespaces, modules, tracing and kernel keys do not.
 * Source: spec/hardening.md 3.5, spec/threats.md S05 and S08 to S18.
 */
export function jobProfile(options: JobProfileOptions = {}): Profile {
  const traced = options.allowPtrace === true;
  return {
    name: traced ? 'job+ptrace' : 'job',
    allowed: traced ? [...ALLOWED, TRACING] : ALLOWED,
    rules: RULES,
    absent: ABSENT,
  };
}

const ALLOWED: readonly CallGroup[] = [
  {
    why: 'opens, makes and closes descriptors',
    calls: [
      'open',
      'openat',
      'openat2',
      'creat',
      'close',
      'close_range',
      'dup',
      'dup2',
      'dup3',
      'fcntl',
      'flock',
      'pipe',
      'pipe2',
      'memfd_create',
    ],
  },
  {
    why: 'moves bytes between memory and descriptors',
    calls: ['read', 'write', 'readv', 'writev', 'pread64', 'pwrite64', 'preadv', 'pwritev', 'preadv2', 'pwritev2', 'lseek'],
  },
  {
    why: 'moves bytes between descriptors; not vmsplice, which hands pages of memory to a pipe',
    calls: ['sendfile', 'splice', 'tee', 'copy_file_range'],
  },
  {
    why: 'sizes, caches and durability of files',
    calls: [
      ...['truncate', 'ftruncate', 'fallocate', 'fadvise64', 'readahead', 'cachestat'],
      ...['sync', 'syncfs', 'fsync', 'fdatasync', 'sync_file_range'],
    ] as const,
  },
  {
    why: 'looks at files',
    calls: [
      ...['stat', 'lstat', 'fstat', 'newfstatat', 'statx', 'statfs', 'fstatfs', 'access', 'faccessat', 'faccessat2'],
      ...['readlink', 'readlinkat', 'getdents', 'getdents64'],
    ] as const,
  },
  {
    why: 'makes, names and deletes files; mknod for FIFOs: in a user namespace the kernel refuses real devices itself',
    calls: [
      ...['mkdir', 'mkdirat', 'rmdir', 'unlink', 'unlinkat', 'rename', 'renameat', 'renameat2'],
      ...['link', 'linkat', 'symlink', 'symlinkat', 'mknod', 'mknodat'],
    ] as const,
  },
  {
    why: 'owners, modes and times of files',
    calls: [
      ...['chmod', 'fchmod', 'fchmodat', 'fchmodat2', 'chown', 'lchown', 'fchown', 'fchownat', 'umask'],
      ...['utime', 'utimes', 'futimesat', 'utimensat'],
    ] as const,
  },
  {
    why: 'extended attributes: setcap, tar --xattrs, ACLs',
    calls: [
      ...['getxattr', 'lgetxattr', 'fgetxattr', 'getxattrat', 'listxattr', 'llistxattr', 'flistxattr', 'listxattrat'],
      ...['setxattr', 'lsetxattr', 'fsetxattr', 'setxattrat', 'removexattr', 'lremovexattr', 'fremovexattr', 'removexattrat'],
    ] as const,
  },
  {
    why: 'working directory and root; chroot because maintainer scripts and mkinitramfs use it',
    calls: ['getcwd', 'chdir', 'fchdir', 'chroot'],
  },
  {
    why: 'waits for descriptors',
    calls: [
      ...['poll', 'ppoll', 'select', 'pselect6', 'epoll_create', 'epoll_create1', 'epoll_ctl', 'epoll_wait', 'epoll_pwait', 'epoll_pwait2'],
      ...['eventfd', 'eventfd2', 'signalfd', 'signalfd4', 'timerfd_create', 'timerfd_settime', 'timerfd_gettime'],
      ...['inotify_init', 'inotify_init1', 'inotify_add_watch', 'inotify_rm_watch'],
    ] as const,
  },
  {
    why: 'asynchronous I/O of databases; not io_uring, whose operations no filter sees (S13)',
    calls: ['io_setup', 'io_destroy', 'io_submit', 'io_cancel', 'io_getevents', 'io_pgetevents'],
  },
  {
    why: 'memory of the process itself',
    calls: [
      ...[
        'brk',
        'mmap',
        'munmap',
        'mremap',
        'mprotect',
        'madvise',
        'mincore',
        'msync',
        'mlock',
        'mlock2',
        'munlock',
        'mlockall',
        'munlockall',
      ],
      ...['pkey_alloc', 'pkey_free', 'pkey_mprotect', 'mseal', 'map_shadow_stack', 'membarrier'],
    ] as const,
  },
  {
    why: 'makes, waits for and ends processes; clone is under a rule',
    calls: ['fork', 'vfork', 'execve', 'execveat', 'exit', 'exit_group', 'wait4', 'waitid', 'process_mrelease'],
  },
  {
    why: 'threads and locks',
    calls: [
      ...['futex', 'futex_waitv', 'futex_wake', 'futex_wait', 'futex_requeue', 'set_robust_list', 'get_robust_list'],
      ...['set_tid_address', 'rseq', 'arch_prctl', 'restart_syscall'],
    ] as const,
  },
  {
    why: 'signals',
    calls: [
      ...['rt_sigaction', 'rt_sigprocmask', 'rt_sigreturn', 'rt_sigpending', 'rt_sigsuspend', 'rt_sigtimedwait', 'rt_sigqueueinfo'],
      ...['rt_tgsigqueueinfo', 'sigaltstack', 'kill', 'tkill', 'tgkill', 'pidfd_open', 'pidfd_send_signal', 'pause'],
    ] as const,
  },
  {
    why: 'ids of processes, sessions and groups',
    calls: ['getpid', 'getppid', 'gettid', 'getpgid', 'setpgid', 'getpgrp', 'getsid', 'setsid'],
  },
  {
    why: 'users and groups: apt, su and dpkg change them',
    calls: [
      ...['getuid', 'geteuid', 'getgid', 'getegid', 'getgroups', 'getresuid', 'getresgid'],
      ...['setuid', 'setgid', 'setgroups', 'setreuid', 'setregid', 'setresuid', 'setresgid', 'setfsuid', 'setfsgid'],
    ] as const,
  },
  {
    why: 'what a process takes away from itself: capabilities, limits, calls, paths',
    calls: [
      ...['capget', 'capset', 'prctl', 'seccomp', 'landlock_create_ruleset', 'landlock_add_rule', 'landlock_restrict_self'],
      ...['getrlimit', 'setrlimit', 'prlimit64'],
    ] as const,
  },
  {
    why: 'scheduling; the kernel refuses real-time classes without CAP_SYS_NICE',
    calls: [
      ...['sched_yield', 'sched_getaffinity', 'sched_setaffinity', 'sched_getparam', 'sched_setparam', 'sched_getscheduler'],
      ...['sched_setscheduler', 'sched_getattr', 'sched_setattr', 'sched_get_priority_max', 'sched_get_priority_min'],
      ...['sched_rr_get_interval', 'getpriority', 'setpriority', 'ioprio_get', 'ioprio_set', 'getcpu'],
    ] as const,
  },
  {
    why: 'clocks to read and timers; not adjtimex, which can also steer the clock',
    calls: [
      ...['time', 'gettimeofday', 'clock_gettime', 'clock_getres', 'clock_nanosleep', 'nanosleep', 'times'],
      ...['alarm', 'getitimer', 'setitimer', 'timer_create', 'timer_settime', 'timer_gettime', 'timer_getoverrun', 'timer_delete'],
    ] as const,
  },
  {
    why: 'facts about the machine and the process',
    calls: ['uname', 'sysinfo', 'getrusage', 'getrandom'],
  },
  {
    why: 'sockets that exist; socket and socketpair, which make them, are under a rule',
    calls: [
      ...['bind', 'listen', 'accept', 'accept4', 'connect', 'shutdown', 'getsockname', 'getpeername', 'getsockopt', 'setsockopt'],
      ...['sendto', 'sendmsg', 'sendmmsg', 'recvfrom', 'recvmsg', 'recvmmsg'],
    ] as const,
  },
  {
    why: 'System V and POSIX message queues, semaphores and shared memory, in an IPC namespace of the job alone',
    calls: [
      ...['shmget', 'shmat', 'shmctl', 'shmdt', 'semget', 'semop', 'semtimedop', 'semctl', 'msgget', 'msgsnd', 'msgrcv', 'msgctl'],
      ...['mq_open', 'mq_unlink', 'mq_timedsend', 'mq_timedreceive', 'mq_notify', 'mq_getsetattr'],
    ] as const,
  },
  {
    why: 'what a uprobe of the host puts into a traced function; newer kernels pass them by every filter; elsewhere they do nothing',
    calls: ['uprobe', 'uretprobe'],
  },
];

/** The one group of `allowPtrace`. process_vm_readv stays refused: strace and gdb fall back to ptrace. */
const TRACING: CallGroup = { why: 'tracing, of processes of the job alone: it has its own PID namespace', calls: ['ptrace'] };

const ABSENT: readonly CallGroup[] = [
  {
    why: 'its flags lie in memory, where a filter cannot look; glibc and Go fall back to clone, which has a rule',
    calls: ['clone3'],
  },
  {
    why: 'the mount table by number; libmount falls back to /proc/self/mountinfo',
    calls: ['statmount', 'listmount'],
  },
  {
    why: 'attributes of security modules and inode flags by path; their users fall back to /proc and to ioctl',
    calls: ['lsm_get_self_attr', 'lsm_set_self_attr', 'lsm_list_modules', 'file_getattr', 'file_setattr'],
  },
];

/** `AF_*` of `<linux/socket.h>`, and NETLINK_ROUTE of `<linux/netlink.h>`. */
const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;
const AF_NETLINK = 16;
const NETLINK_ROUTE = 0;

/**
 * The errno values are those of a kernel built without the family or the protocol. It matters for NETLINK_AUDIT: useradd,
 * passwd, sshd and PAM go on without auditing after these, and give up after EPERM.
 */
const SOCKET: ArgRule = {
  cases: [
    { when: [oneOf(0, AF_UNIX, AF_INET, AF_INET6)], verdict: 'allow' },
    { when: [oneOf(0, AF_NETLINK), oneOf(2, NETLINK_ROUTE)], verdict: 'allow' },
    { when: [oneOf(0, AF_NETLINK)], verdict: 'EPROTONOSUPPORT' },
  ],
  otherwise: 'EAFNOSUPPORT',
};

/** PER_LINUX, PER_LINUX32, each with and without UNAME26, and the value that only asks. Not ADDR_NO_RANDOMIZE, not READ_IMPLIES_EXEC. */
const PERSONALITIES = [0x0, 0x8, 0x20000, 0x20008, 0xffffffff];

/** Requests that put input into a terminal: TIOCSTI and TIOCLINUX of `<asm-generic/ioctls.h>`. */
const TERMINAL_INPUT = [0x5412, 0x541c];

const RULES: ReadonlyMap<SyscallName, ArgRule> = new Map<SyscallName, ArgRule>([
  ['socket', SOCKET],
  ['socketpair', SOCKET],
  ['clone', allowWhen(withoutBits(0, CLONE_NAMESPACES))],
  ['personality', allowWhen(oneOf(0, ...PERSONALITIES))],
  ['ioctl', { cases: [{ when: [oneOf(1, ...TERMINAL_INPUT)], verdict: 'EPERM' }], otherwise: 'allow' }],
]);
