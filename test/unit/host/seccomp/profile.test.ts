import t from 'tap';
import { AARCH64, type SeccompArch, type SyscallName, X86_64 } from '../../../../src/host/seccomp/arch.ts';
import { compileFilter } from '../../../../src/host/seccomp/bpf.ts';
import { jobProfile } from '../../../../src/host/seccomp/profile.ts';
import { ask } from './reading.ts';

const ARCHES = [X86_64, AARCH64];
/** Put above the low half of an argument that the kernel cuts to 32 bits. */
const HIGH_BITS = [0n, 0x1_0000_0000n, 0x8000_0000_0000_0000n, 0xffffffff_0000_0000n];

/** Gives a function that asks the compiled job filter by name. */
function jobFilter(arch: SeccompArch, options = {}): (name: SyscallName, ...args: bigint[]) => string {
  const filter = compileFilter(jobProfile(options), arch);
  return (name, ...args) => {
    const nr = arch.syscalls.get(name);
    if (nr === undefined) throw new Error(`${arch.name} has no ${name}`);
    return ask(filter, arch, nr, ...args);
  };
}

t.test('jobProfile() names no call in two places', async (t) => {
  for (const profile of [jobProfile(), jobProfile({ allowPtrace: true })]) {
    const names = [...profile.allowed, ...profile.absent].flatMap(({ calls }) => calls).concat(...profile.rules.keys());
    t.same(
      names.filter((name, index) => names.indexOf(name) !== index),
      [],
      profile.name,
    );
  }
});

t.test('jobProfile() refuses with EPERM what left containers before (S05, S08 to S14)', async (t) => {
  const denied: SyscallName[] = [
    ...(['ptrace', 'process_vm_readv', 'process_vm_writev', 'process_madvise', 'kcmp', 'pidfd_getfd'] as const),
    ...(['mount', 'umount2', 'pivot_root', 'open_tree', 'open_tree_attr', 'move_mount', 'mount_setattr'] as const),
    ...(['fsopen', 'fsconfig', 'fsmount', 'fspick', 'unshare', 'setns'] as const),
    ...(['name_to_handle_at', 'open_by_handle_at', 'lookup_dcookie', 'fanotify_init', 'fanotify_mark'] as const),
    ...(['add_key', 'request_key', 'keyctl', 'io_uring_setup', 'io_uring_enter', 'io_uring_register'] as const),
    ...(['bpf', 'perf_event_open', 'userfaultfd', 'memfd_secret', 'remap_file_pages', 'vmsplice'] as const),
    ...(['mbind', 'set_mempolicy', 'get_mempolicy', 'set_mempolicy_home_node', 'move_pages', 'migrate_pages'] as const),
    ...(['kexec_load', 'kexec_file_load', 'init_module', 'finit_module', 'delete_module', 'reboot'] as const),
    ...(['swapon', 'swapoff', 'acct', 'quotactl', 'quotactl_fd', 'syslog', 'vhangup', 'nfsservctl'] as const),
    ...(['sethostname', 'setdomainname', 'settimeofday', 'clock_settime', 'adjtimex', 'clock_adjtime'] as const),
  ];
  for (const arch of ARCHES) {
    const job = jobFilter(arch);
    for (const name of denied) t.equal(job(name), 'EPERM', `${name} on ${arch.name}`);
  }
  const x86Only: SyscallName[] = [
    'iopl',
    'ioperm',
    'modify_ldt',
    'set_thread_area',
    'get_thread_area',
    'uselib',
    'ustat',
    'sysfs',
    '_sysctl',
  ];
  for (const name of x86Only) t.equal(jobFilter(X86_64)(name), 'EPERM', name);
});

t.test('jobProfile() hides calls whose users fall back only after ENOSYS', async (t) => {
  for (const arch of ARCHES) {
    const job = jobFilter(arch);
    for (const name of ['clone3', 'statmount', 'listmount', 'lsm_list_modules', 'file_getattr'] as const) {
      t.equal(job(name, 0n, 88n), 'ENOSYS', `${name} on ${arch.name}`);
    }
  }
});

t.test('jobProfile() lets through what package installs and builds use', async (t) => {
  const used: SyscallName[] = [
    ...(['chroot', 'mknodat', 'setgroups', 'setresuid', 'fchownat', 'fsetxattr', 'fchmodat2', 'execve', 'execveat'] as const),
    ...(['seccomp', 'landlock_create_ruleset', 'capset', 'prctl', 'memfd_create', 'copy_file_range', 'statx', 'openat2'] as const),
    ...(['io_setup', 'rseq', 'futex_waitv', 'membarrier', 'pidfd_open', 'epoll_pwait2', 'sched_setaffinity', 'shmget'] as const),
  ];
  for (const arch of ARCHES) {
    const job = jobFilter(arch);
    for (const name of used) t.equal(job(name), 'allow', `${name} on ${arch.name}`);
  }
});

t.test('jobProfile() lets ptrace through on request, and nothing else more', async (t) => {
  for (const arch of ARCHES) {
    const job = jobFilter(arch);
    const traced = jobFilter(arch, { allowPtrace: true });
    const more = [...arch.syscalls.keys()].filter((name) => job(name) !== traced(name));
    t.same(more, ['ptrace'], arch.name);
    t.equal(traced('ptrace'), 'allow');
  }
});

t.test('jobProfile() makes sockets of four families only, whatever the type and the high bits (S15)', async (t) => {
  const AF_NETLINK = 16n;
  const expected = (family: bigint, protocol: bigint): string => {
    if ([1n, 2n, 10n].includes(family)) return 'allow';
    if (family !== AF_NETLINK) return 'EAFNOSUPPORT';
    return protocol === 0n ? 'allow' : 'EPROTONOSUPPORT';
  };
  for (const arch of ARCHES) {
    const job = jobFilter(arch);
    const differing: string[] = [];
    for (let family = 0n; family <= 46n; family++) {
      for (let protocol = 0n; protocol <= 32n; protocol++) {
        for (const high of HIGH_BITS) {
          for (const type of [1n, 2n, 3n, 5n, 0x80801n]) {
            for (const name of ['socket', 'socketpair'] as const) {
              const does = job(name, family | high, type, protocol | high, 0n);
              if (does !== expected(family, protocol)) differing.push(`${name}(${family}, ${type}, ${protocol}) with ${high}: ${does}`);
            }
          }
        }
      }
    }
    t.same(differing, [], arch.name);
    t.equal(job('socket', 0xffffffff_ffffffffn, 1n, 0n), 'EAFNOSUPPORT');
  }
});

t.test('jobProfile() refuses terminal input by ioctl whatever the high bits (S17, S18)', async (t) => {
  const TIOCSTI = 0x5412n;
  const TIOCLINUX = 0x541cn;
  for (const arch of ARCHES) {
    const job = jobFilter(arch);
    for (const high of HIGH_BITS) {
      for (const request of [TIOCSTI, TIOCLINUX]) t.equal(job('ioctl', 0n, high | request, 0n), 'EPERM', (high | request).toString(16));
      for (const request of [0x5401n, 0x5411n, 0x5413n, 0x541bn, 0x541dn, 0x8004_5430n]) {
        t.equal(job('ioctl', 0n, high | request, 0n), 'allow', (high | request).toString(16));
      }
    }
    t.equal(job('ioctl', TIOCSTI, 0x5401n, TIOCSTI), 'allow', 'other arguments do not count');
  }
});

t.test('jobProfile() refuses clone with each namespace flag, and no other flag (S09)', async (t) => {
  const NAMESPACES = [0x20000n, 0x2000000n, 0x4000000n, 0x8000000n, 0x10000000n, 0x20000000n, 0x40000000n];
  const PTHREAD_FLAGS = 0x3d0f00n;
  for (const arch of ARCHES) {
    const job = jobFilter(arch);
    for (let bit = 0n; bit < 32n; bit++) {
      const flag = 1n << bit;
      t.equal(job('clone', flag), NAMESPACES.includes(flag) ? 'EPERM' : 'allow', `bit ${bit}`);
      t.equal(job('clone', flag | PTHREAD_FLAGS | (1n << 40n)), NAMESPACES.includes(flag) ? 'EPERM' : 'allow', `bit ${bit} with others`);
    }
    t.equal(job('clone', PTHREAD_FLAGS), 'allow', 'pthread_create');
    t.equal(job('clone', 0x4111n), 'allow', 'posix_spawn');
  }
});

t.test('jobProfile() lets five personalities through', async (t) => {
  const accepted = [0x0n, 0x8n, 0x20000n, 0x20008n, 0xffffffffn];
  const refused = [0x40000n, 0x400000n, 0x100000n, 0x40008n, 0x1n, 0x28n, 0xfffffffen];
  for (const arch of ARCHES) {
    const job = jobFilter(arch);
    for (const high of HIGH_BITS) {
      for (const value of accepted) t.equal(job('personality', value | high), 'allow', value.toString(16));
      for (const value of refused) t.equal(job('personality', value | high), 'EPERM', value.toString(16));
    }
  }
});
