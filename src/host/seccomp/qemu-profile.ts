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

const ALLOWED: readonly CallGroup[] = [
  {
    why: 'start: the program itself, its libraries and firmware; its root holds nothing else and is read-only; openat is under a rule',
    calls: [
      ...['execve', 'fstat', 'newfstatat', 'stat', 'lstat', 'statx', 'statfs', 'fstatfs', 'access', 'faccessat', 'faccessat2'],
      ...['readlink', 'readlinkat', 'getdents64', 'getcwd', 'fchdir'],
    ] as const,
  },
  {
    why: 'descriptors that it was given: disks, the saved state, pipes and sockets',
    calls: [
      ...['read', 'readv', 'pread64', 'preadv', 'preadv2', 'write', 'writev', 'pwrite64', 'pwritev', 'pwritev2', 'lseek'],
      ...['fsync', 'fdatasync', 'ftruncate', 'fallocate', 'fadvise64', 'close', 'close_range', 'dup', 'dup2', 'dup3', 'fcntl'],
      ...['sendto', 'sendmsg', 'recvfrom', 'recvmsg', 'getsockname', 'getpeername', 'getsockopt', 'setsockopt', 'shutdown'],
    ] as const,
  },
  {
    why: 'memory of the guest and of the translated code, which it writes at run time',
    calls: ['brk', 'mmap', 'munmap', 'mremap', 'mprotect', 'madvise', 'membarrier', 'memfd_create', 'msync', 'mincore'],
  },
  {
    why: 'threads and locks; clone is under a rule, so that a thread may start and a process may not',
    calls: [
      ...['futex', 'futex_waitv', 'set_robust_list', 'rseq', 'set_tid_address', 'arch_prctl', 'sched_yield', 'sched_getaffinity'],
      ...['sched_getparam', 'sched_getscheduler', 'getpriority'],
    ] as const,
  },
  {
    why: 'signals to itself, and the ends of a thread and of the process',
    calls: [
      ...['rt_sigaction', 'rt_sigprocmask', 'rt_sigreturn', 'rt_sigpending', 'rt_sigtimedwait', 'sigaltstack', 'tgkill', 'tkill'],
      ...['restart_syscall', 'signalfd', 'signalfd4', 'exit', 'exit_group'],
    ] as const,
  },
  {
    why: 'the main loop',
    calls: [
      ...['poll', 'ppoll', 'select', 'pselect6', 'epoll_create1', 'epoll_ctl', 'epoll_wait', 'epoll_pwait', 'epoll_pwait2'],
      ...['eventfd', 'eventfd2', 'pipe', 'pipe2'],
    ] as const,
  },
  {
    why: 'clocks and timers',
    calls: [
      ...['clock_gettime', 'clock_getres', 'clock_nanosleep', 'nanosleep', 'gettimeofday', 'time', 'times'],
      ...['timer_create', 'timer_settime', 'timer_gettime', 'timer_getoverrun', 'timer_delete'],
      ...['timerfd_create', 'timerfd_settime', 'timerfd_gettime'],
    ] as const,
  },
  {
    why: 'facts about the process and the machine',
    calls: [
      ...['getpid', 'getppid', 'gettid', 'getuid', 'geteuid', 'getgid', 'getegid', 'getresuid', 'getresgid', 'getgroups', 'getpgrp'],
      ...['capget', 'getrandom', 'getrusage', 'getrlimit', 'sysinfo', 'uname', 'getcpu'],
    ] as const,
  },
];

const ABSENT: readonly CallGroup[] = [
  { why: 'glibc falls back to clone when it starts a thread', calls: ['clone3'] },
  { why: 'QEMU falls back to poll and to threads', calls: ['io_uring_setup'] },
  { why: 'placing memory on NUMA nodes, which libnuma only tries', calls: ['get_mempolicy', 'set_mempolicy', 'mbind'] },
];

/** TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX and FIOCLEX of `<asm-generic/ioctls.h>`. */
const DESCRIPTOR_REQUESTS = [0x5401, 0x5413, 0x541b, 0x5421, 0x5450, 0x5451];

/** The type of all requests of `<linux/kvm.h>`, in bits 8 to 15: these bits set, and the others of the byte not. */
const KVM_TYPE = 0xae00;
const NOT_KVM_TYPE = 0x5100;

const IOCTL: ArgRule = {
  cases: [
    { when: [oneOf(1, ...DESCRIPTOR_REQUESTS)], verdict: 'allow' },
    { when: [withBits(1, KVM_TYPE), withoutBits(1, NOT_KVM_TYPE)], verdict: 'allow' },
  ],
  otherwise: 'EPERM',
};

/**
 * PR_SET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP, PR_SET_SECCOMP, PR_CAPBSET_READ, PR_SET_TIMERSLACK, PR_MCE_KILL,
 * PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS and PR_SET_VMA of `<linux/prctl.h>`.
 */
const PROCESS_OPTIONS = [1, 3, 15, 16, 21, 22, 23, 29, 33, 38, 39, 0x53564d41];

/** SECCOMP_FILTER_FLAG_NEW_LISTENER of `<linux/seccomp.h>`. */
const NEW_LISTENER = 0x8;

/** O_CREAT, O_TRUNC and __O_TMPFILE of `<asm-generic/fcntl.h>`; /dev/kvm is opened for writing. */
const CREATING_OPEN_FLAGS = 0x40 | 0x200 | 0x400000;

/**
 * The profile of QEMU: no file can be made, no socket, process, mount or namespace. It is in force from QEMU's first instruction on;
 * QEMU's own filter (`-sandbox`) comes on top of it later and also refuses programs. Source: spec/hardening.md 3.10.
 */
export const qemuProfile: Profile = {
  name: 'qemu',
  allowed: ALLOWED,
  rules: new Map<SyscallName, ArgRule>([
    ['clone', allowWhen(withBits(0, CLONE_THREAD), withoutBits(0, CLONE_NAMESPACES))],
    ['openat', allowWhen(withoutBits(2, CREATING_OPEN_FLAGS))],
    ['ioctl', IOCTL],
    ['prctl', allowWhen(oneOf(0, ...PROCESS_OPTIONS))],
    ['prlimit64', allowWhen(oneOf(0, 0), ...isNull(2))],
    ['seccomp', allowWhen(withoutBits(1, NEW_LISTENER))],
  ]),
  absent: ABSENT,
};
