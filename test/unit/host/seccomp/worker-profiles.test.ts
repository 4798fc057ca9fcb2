import t from 'tap';
import { AARCH64, type SyscallName, X86_64 } from '../../../../src/host/seccomp/arch.ts';
import { compileFilter } from '../../../../src/host/seccomp/bpf.ts';
import { jobProfile } from '../../../../src/host/seccomp/profile.ts';
import type { Profile } from '../../../../src/host/seccomp/rules.ts';
import { captureWorkerProfile, diskWorkerProfile, unpackWorkerProfile } from '../../../../src/host/seccomp/worker-profiles.ts';
import { ask } from './reading.ts';

const ARCHES = [X86_64, AARCH64];
const WORKERS = [unpackWorkerProfile, captureWorkerProfile, diskWorkerProfile];

/** Asks each architecture's filter of a profile; they must agree. A call that one of them lacks is asked of the other. */
function worker(profile: Profile): (name: SyscallName, ...args: bigint[]) => string {
  const filters = ARCHES.map((arch) => ({ arch, filter: compileFilter(profile, arch) }));
  return (name, ...args) => {
    const answers = filters.flatMap(({ arch, filter }) => {
      const nr = arch.syscalls.get(name);
      return nr === undefined ? [] : [ask(filter, arch, nr, ...args)];
    });
    return [...new Set(answers)].join(' or ');
  };
}

t.test('worker profiles name no call in two places', async (t) => {
  for (const profile of WORKERS) {
    const names = [...profile.allowed, ...profile.absent].flatMap(({ calls }) => calls).concat(...profile.rules.keys());
    t.same(
      names.filter((name, index) => names.indexOf(name) !== index),
      [],
      profile.name,
    );
  }
});

t.test('worker profiles let through no call that a job may not make', async (t) => {
  for (const arch of ARCHES) {
    const job = compileFilter(jobProfile(), arch);
    for (const profile of WORKERS) {
      const filter = compileFilter(profile, arch);
      const beyond = [...arch.syscalls].filter(([, nr]) => ask(filter, arch, nr) === 'allow' && ask(job, arch, nr) !== 'allow');
      t.same(beyond, [], `${profile.name} on ${arch.name}`);
    }
  }
});

t.test('worker profiles make no program, process, socket, mount or namespace', async (t) => {
  const denied: SyscallName[] = [
    ...(['execve', 'execveat', 'fork', 'vfork', 'wait4', 'kill', 'tkill', 'pidfd_open', 'pidfd_send_signal', 'ptrace'] as const),
    ...(['socket', 'socketpair', 'bind', 'listen', 'accept4', 'connect', 'setsockopt', 'memfd_create'] as const),
    ...(['mount', 'umount2', 'pivot_root', 'chroot', 'unshare', 'setns', 'open_tree', 'move_mount', 'fsopen', 'mount_setattr'] as const),
    ...(['setuid', 'setgid', 'setgroups', 'setresuid', 'capset', 'seccomp', 'personality', 'setrlimit', 'sched_setaffinity'] as const),
    ...(['io_uring_setup', 'bpf', 'perf_event_open', 'userfaultfd', 'keyctl', 'name_to_handle_at', 'open_by_handle_at'] as const),
    ...(['splice', 'tee', 'vmsplice', 'inotify_add_watch', 'fanotify_init', 'shmget', 'mq_open', 'timer_create'] as const),
  ];
  for (const profile of WORKERS) {
    const ask = worker(profile);
    for (const name of denied) t.equal(ask(name), 'EPERM', `${profile.name}: ${name}`);
  }
});

t.test('worker profiles start threads and nothing else by clone', async (t) => {
  const PTHREAD_FLAGS = 0x3d0f00n;
  for (const profile of WORKERS) {
    const ask = worker(profile);
    t.equal(ask('clone3', 0n, 88n), 'ENOSYS');
    t.equal(ask('clone', PTHREAD_FLAGS), 'allow');
    t.equal(ask('clone', 0x11n), 'EPERM', 'fork');
    t.equal(ask('clone', 0x4111n), 'EPERM', 'posix_spawn');
    t.equal(ask('clone', 0x1_0000_0000_0000n), 'EPERM', 'CLONE_THREAD in the high half');
    for (const flag of [0x20000n, 0x2000000n, 0x4000000n, 0x8000000n, 0x10000000n, 0x20000000n, 0x40000000n]) {
      t.equal(ask('clone', PTHREAD_FLAGS | flag), 'EPERM', flag.toString(16));
    }
  }
});

t.test('worker profiles read limits of the process itself and set none', async (t) => {
  for (const profile of WORKERS) {
    const ask = worker(profile);
    t.equal(ask('prlimit64', 0n, 7n, 0n, 0x7fff_0000n), 'allow');
    t.equal(ask('prlimit64', 1n, 7n, 0n, 0x7fff_0000n), 'EPERM', 'other pid');
    t.equal(ask('prlimit64', 0n, 7n, 0x7fff_0000n, 0n), 'EPERM', 'new value');
    t.equal(ask('prlimit64', 0n, 7n, 0x7fff_0000_0000n, 0n), 'EPERM', 'new value at an address with an empty low half');
  }
});

t.test('worker profiles limit ioctl and prctl to lists', async (t) => {
  for (const profile of WORKERS) {
    const ask = worker(profile);
    for (const request of [0x5401n, 0x5413n, 0x541bn, 0x5421n, 0x5450n, 0x5451n])
      t.equal(ask('ioctl', 0n, request), 'allow', request.toString(16));
    // TIOCSTI, TIOCSCTTY, FS_IOC_SETFLAGS, FICLONE, LOOP_SET_FD
    for (const request of [0x5412n, 0x540en, 0x4008_6602n, 0x4004_9409n, 0x4c00n])
      t.equal(ask('ioctl', 0n, request), 'EPERM', request.toString(16));
    for (const option of [15n, 16n, 0x53564d41n]) t.equal(ask('prctl', option), 'allow', `${option}`);
    // PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_SET_MM, PR_CAP_AMBIENT
    for (const option of [4n, 22n, 24n, 28n, 35n, 47n]) t.equal(ask('prctl', option), 'EPERM', `${option}`);
  }
});

t.test('unpackWorkerProfile makes and changes files, captureWorkerProfile does not', async (t) => {
  const changing: SyscallName[] = [
    ...(['mkdirat', 'mknodat', 'symlinkat', 'linkat', 'unlinkat', 'renameat2', 'ftruncate', 'fallocate', 'copy_file_range'] as const),
    ...(['fchownat', 'fchown', 'fchmodat', 'fchmodat2', 'fchmod', 'utimensat', 'fsetxattr', 'lsetxattr', 'syncfs'] as const),
    ...(['mkdir', 'mknod', 'symlink', 'link', 'unlink', 'rmdir', 'rename', 'chmod', 'chown', 'lchown'] as const),
  ];
  const unpack = worker(unpackWorkerProfile);
  const capture = worker(captureWorkerProfile);
  for (const name of changing) {
    t.equal(unpack(name), 'allow', name);
    t.equal(capture(name), 'EPERM', name);
  }
  for (const name of ['creat', 'truncate', 'removexattrat', 'setxattrat'] as const) {
    t.equal(unpack(name), 'EPERM', name);
    t.equal(capture(name), 'EPERM', name);
  }
});

t.test('diskWorkerProfile is captureWorkerProfile and one call more', async (t) => {
  for (const arch of ARCHES) {
    const [capture, disk] = [captureWorkerProfile, diskWorkerProfile].map((profile) => compileFilter(profile, arch));
    if (capture === undefined || disk === undefined) throw new Error('unreachable: two profiles give two filters');
    const more = [...arch.syscalls].filter(([, nr]) => ask(disk, arch, nr) !== ask(capture, arch, nr)).map(([name]) => name);
    t.same(more, ['copy_file_range'], arch.name);
  }
  // O_RDONLY | O_CLOEXEC, O_WRONLY, O_CREAT
  const disk = worker(diskWorkerProfile);
  t.same(
    [0x80000n, 1n, 0x40n].map((flags) => disk('openat', 3n, 1n, flags)),
    ['allow', 'EPERM', 'EPERM'],
  );
});

t.test('captureWorkerProfile opens for reading alone', async (t) => {
  const unpack = worker(unpackWorkerProfile);
  const capture = worker(captureWorkerProfile);
  // O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW, O_DIRECTORY, O_PATH, O_NOATIME of x86-64 and aarch64
  for (const flags of [0n, 0xa0800n, 0x88800n, 0x10000n, 0x4000n, 0x200000n, 0x40000n]) {
    t.equal(capture('openat', 3n, 1n, flags), 'allow', flags.toString(16));
    t.equal(capture('open', 1n, flags), 'allow', flags.toString(16));
  }
  // O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE of x86-64 and aarch64
  for (const flags of [1n, 2n, 0x40n, 0x200n, 0x410000n, 0x404000n, 0x80041n, 0x1_0000_0041n]) {
    t.equal(capture('openat', 3n, 1n, flags), 'EPERM', flags.toString(16));
    t.equal(capture('open', 1n, flags), 'EPERM', flags.toString(16));
    t.equal(unpack('openat', 3n, 1n, flags), 'allow', flags.toString(16));
  }
});
