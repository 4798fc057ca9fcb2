import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import t from 'tap';
import { AARCH64, type SyscallName, seccompArch, X86_64 } from '../../src/host/seccomp/arch.ts';
import { compileFilter } from '../../src/host/seccomp/bpf.ts';
import { actionName, runFilter } from '../../src/host/seccomp/interpreter.ts';
import { jobProfile } from '../../src/host/seccomp/profile.ts';
import { qemuProfile } from '../../src/host/seccomp/qemu-profile.ts';
import { allowWhen, oneOf, type Profile } from '../../src/host/seccomp/rules.ts';
import { captureWorkerProfile, unpackWorkerProfile } from '../../src/host/seccomp/worker-profiles.ts';
import { repoRoot } from '../helpers/repo.ts';
import { requires } from '../helpers/requires.ts';

requires(t, 'root', 'gcc', 'perl');

const arch = seccompArch();
const dir = mkdtempSync(path.join(tmpdir(), 'rootlayer-seccomp-'));
t.teardown(() => rmSync(dir, { recursive: true }));
const probe = compile('seccomp-probe', readFileSync(path.join(repoRoot, 'test/root/fixtures/seccomp-probe.c'), 'utf8'), '-static');

const NO_FILTER = '-';
const JOB = filterFile(jobProfile());
const ONES = 0xffffffff_ffffffffn;

type Call = { readonly nr: number; readonly args: readonly bigint[] };

/**
 * sync waits for the disks of everyone, pause for ever; rt_sigreturn reads a frame from wherever the stack is; newer kernels
 * let uprobe and uretprobe pass by every filter.
 */
const UNTOUCHED: ReadonlySet<number> = new Set(
  (['sync', 'pause', 'rt_sigreturn', 'uprobe', 'uretprobe'] as const).map((name) => arch.syscalls.get(name) ?? -1),
);

/** Arguments for calls that arguments of all ones would let do something. */
const HARMLESS: ReadonlyMap<number, readonly bigint[]> = new Map(
  (
    [
      ['clone', [0x11n]],
      // A key that nobody has, without IPC_CREAT.
      ['msgget', [0x7ffe0001n, 0n]],
      ['semget', [0x7ffe0001n, 1n, 0n]],
      ['shmget', [0x7ffe0001n, 1n, 0n]],
      // A pid that nobody has, and signal 0.
      ['kill', [0x7ffffffen, 0n]],
      ['init_module', [0n, 0n, 0n]],
    ] as const
  ).flatMap(([name, args]) => {
    const nr = arch.syscalls.get(name);
    return nr === undefined ? [] : [[nr, args]];
  }),
);

t.test('a filter does in the kernel what the interpreter says, for every number', async (t) => {
  for (const profile of [jobProfile(), jobProfile({ allowPtrace: true }), unpackWorkerProfile, captureWorkerProfile, qemuProfile]) {
    const filter = compileFilter(profile, arch);
    const calls = Array.from({ length: 600 }, (_, nr) => nr)
      .filter((nr) => !UNTOUCHED.has(nr))
      .map((nr) => ({ nr, args: HARMLESS.get(nr) ?? Array<bigint>(6).fill(ONES) }));
    const verdicts = calls.map(({ nr, args }) => actionName(runFilter(filter, { auditArch: arch.auditArch, nr, args })));
    // A call that the filter lets through ends as it ends without a filter.
    const free = call(
      NO_FILTER,
      calls.filter((_, index) => verdicts[index] === 'allow'),
    );
    const expected = verdicts.map((verdict) => (verdict === 'allow' ? (free.shift() ?? 'none') : outcomeOf(verdict)));
    const seen = call(filterFile(profile), calls);
    const label = ({ nr }: Call, outcome: string | undefined): string => `${nr} ${nameOf(nr)}: ${outcome}`;
    t.same(
      calls.map((each, index) => label(each, seen[index])),
      calls.map((each, index) => label(each, expected[index])),
      profile.name,
    );
    t.ok(verdicts.filter((verdict) => verdict === 'allow').length > 60, 'some calls come through');
  }
});

/** Calls of the S05 and S08 to S14 families, and those that Docker refuses without capabilities. */
const DENIED: readonly SyscallName[] = [
  ...(['acct', 'add_key', 'adjtimex', 'afs_syscall', 'bpf', 'clock_adjtime', 'clock_settime', 'create_module', 'delete_module'] as const),
  ...(['epoll_ctl_old', 'epoll_wait_old', 'fanotify_init', 'fanotify_mark', 'finit_module', 'fsconfig', 'fsmount', 'fsopen'] as const),
  ...(['fspick', 'get_kernel_syms', 'get_mempolicy', 'get_thread_area', 'getpmsg', 'init_module', 'io_uring_enter'] as const),
  ...(['io_uring_register', 'io_uring_setup', 'ioperm', 'iopl', 'kcmp', 'kexec_file_load', 'kexec_load', 'keyctl'] as const),
  ...(['lookup_dcookie', 'mbind', 'memfd_secret', 'migrate_pages', 'modify_ldt', 'mount', 'mount_setattr', 'move_mount'] as const),
  ...(['move_pages', 'name_to_handle_at', 'nfsservctl', 'open_by_handle_at', 'open_tree', 'open_tree_attr', 'perf_event_open'] as const),
  ...(['pidfd_getfd', 'pivot_root', 'process_madvise', 'process_vm_readv', 'process_vm_writev', 'ptrace', 'putpmsg'] as const),
  ...(['query_module', 'quotactl', 'quotactl_fd', 'reboot', 'remap_file_pages', 'request_key', 'security', 'set_mempolicy'] as const),
  ...(['set_mempolicy_home_node', 'set_thread_area', 'setdomainname', 'sethostname', 'setns', 'settimeofday', 'swapoff'] as const),
  ...(['swapon', 'sysfs', 'syslog', 'tuxcall', 'umount2', 'unshare', 'uselib', 'userfaultfd', 'ustat', 'vhangup'] as const),
  ...(['vmsplice', 'vserver', '_sysctl'] as const),
];

/** Calls that look as if the kernel did not have them. */
const ABSENT: readonly SyscallName[] = [
  ...(['clone3', 'statmount', 'listmount', 'lsm_get_self_attr', 'lsm_set_self_attr', 'lsm_list_modules'] as const),
  ...(['file_getattr', 'file_setattr'] as const),
];

t.test('the job filter refuses a table of at least 90 calls by name (S05, S08 to S14)', async (t) => {
  t.ok(new Set([...DENIED, ...ABSENT]).size >= 90, `${DENIED.length + ABSENT.length} calls`);
  const native = (names: readonly SyscallName[]): SyscallName[] => names.filter((name) => arch.syscalls.has(name));
  const rows = [
    ...native(DENIED).map((name) => ({ name, outcome: outcomeOf('EPERM') })),
    ...native(ABSENT).map((name) => ({ name, outcome: outcomeOf('ENOSYS') })),
  ];
  const seen = call(
    JOB,
    rows.map(({ name }) => toCall(name, ONES, ONES, ONES, ONES, ONES, ONES)),
  );
  t.same(
    rows.map(({ name }, index) => ({ name, outcome: seen[index] })),
    rows,
  );
});

t.test('without the filter the same calls reach the kernel (positive control)', async (t) => {
  // vhangup takes no argument that would make it harmless.
  const names = DENIED.filter((name) => arch.syscalls.has(name) && name !== 'vhangup');
  const seen = call(
    NO_FILTER,
    names.map((name) => toCall(name, ...(HARMLESS.get(numberOf(name)) ?? Array<bigint>(6).fill(ONES)))),
  );
  const reached = names.filter((_, index) => ![outcomeOf('EPERM'), outcomeOf('ENOSYS')].includes(seen[index] ?? ''));
  t.ok(reached.length >= 40, `${reached.length} of ${names.length} reach the kernel: ${reached.join(' ')}`);
  for (const name of ['mount', 'unshare', 'setns', 'ptrace', 'pivot_root', 'reboot'] as const) t.ok(reached.includes(name), name);
});

t.test('the job filter decides by arguments, without being misled by high bits (S09, S15, S17, S18)', async (t) => {
  const HIGH = 0x1_0000_0000n;
  const STREAM = 1n;
  const families = Array.from({ length: 46 }, (_, index) => BigInt(index)).filter((family) => ![1n, 2n, 10n, 16n].includes(family));
  const rows: [string, Call][] = [
    ...families.map((family): [string, Call] => ['EAFNOSUPPORT', toCall('socket', family, STREAM, 0n)]),
    ...families.map((family): [string, Call] => ['EAFNOSUPPORT', toCall('socketpair', family | HIGH, STREAM, 0n, 0n)]),
    ...Array.from({ length: 22 }, (_, index): [string, Call] => ['EPROTONOSUPPORT', toCall('socket', 16n, 3n, BigInt(index + 1))]),
    ...[0x20000n, 0x2000000n, 0x4000000n, 0x8000000n, 0x10000000n, 0x20000000n, 0x40000000n].flatMap((flag): [string, Call][] => [
      ['EPERM', toCall('clone', flag | 0x11n, 0n)],
      ['EPERM', toCall('clone', flag | HIGH | 0x11n, 0n)],
    ]),
    ...[0x5412n, 0x5412n | HIGH, 0x541cn, 0x541cn | (HIGH << 20n)].map((request): [string, Call] => [
      'EPERM',
      toCall('ioctl', 0n, request, 0n),
    ]),
    ['EPERM', toCall('personality', 0x40000n)],
    ['EPERM', toCall('personality', 0x400000n | HIGH)],
  ];
  const seen = call(
    JOB,
    rows.map(([, each]) => each),
  );
  t.same(
    seen,
    rows.map(([verdict]) => outcomeOf(verdict)),
  );

  const allowed = [
    ...[1n, 2n].map((family) => toCall('socket', family, STREAM, 0n)),
    toCall('socket', 16n, 3n, 0n),
    toCall('clone', 0x11n),
    toCall('personality', 0x8n),
    toCall('personality', 0xffffffffn),
  ];
  t.same(call(JOB, allowed), Array(allowed.length).fill('errno 0'));
  t.same(call(NO_FILTER, [toCall('socket', 16n, 3n, 0n), toCall('unshare', 0x4000000n)]), ['errno 0', 'errno 0'], 'positive control');
});

t.test('the job filter kills 32-bit and x32 calls of a 64-bit process (S16)', async (t) => {
  if (arch !== X86_64) {
    t.plan(0, 'x86-64 has them alone');
    return;
  }
  const GETPID_I386 = 20;
  const getpid = numberOf('getpid');
  const lines = [`int80 ${GETPID_I386.toString(16)}`, `call ${(getpid + 0x40000000).toString(16)}`, `call ${getpid.toString(16)}`];
  const killed = outcomeOf('kill-process');
  t.same(callLines(JOB, lines), [killed, killed, 'errno 0']);
  t.notOk(callLines(NO_FILTER, lines).includes(killed), 'positive control');
});

t.test('the tables have the numbers of the kernel headers', async (t) => {
  const wanted = ['RENAMEAT', 'NEW_STAT', 'SET_GET_RLIMIT', 'TIME32_SYSCALLS', 'SYS_CLONE3', 'MEMFD_SECRET'].map(
    (name) => `-D__ARCH_WANT_${name}`,
  );
  const tables = [
    { arch: AARCH64, numbers: headerNumbers('asm-generic/unistd.h', '-D__BITS_PER_LONG=64', ...wanted), atLeast: 300 },
    ...(arch === X86_64 ? [{ arch, numbers: headerNumbers('asm/unistd_64.h'), atLeast: 350 }] : []),
  ];
  for (const table of tables) {
    const ours = Object.fromEntries(table.arch.syscalls);
    const known = [...table.numbers].filter(([name]) => name in ours);
    t.ok(known.length >= table.atLeast, `${table.arch.name}: ${known.length} names in common`);
    t.same(
      known.map(([name]) => [name, ours[name]]),
      known,
      table.arch.name,
    );
  }
});

const THREADS_C = `
#include <pthread.h>
#include <stdio.h>
static void *twice(void *n) { return (void *)(2 * (long)n); }
int main(void) {
  long sum = 0;
  for (long n = 0; n < 3; n++) {
    pthread_t thread;
    void *result;
    if (pthread_create(&thread, NULL, twice, (void *)n) != 0) return 1;
    pthread_join(thread, &result);
    sum += (long)result;
  }
  printf("sum %ld\\n", sum);
  return 0;
}
`;

const NODE_PROGRAM = `
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { Worker } from 'node:worker_threads';
const worker = new Worker('import { parentPort } from "node:worker_threads"; parentPort.postMessage(42)', { eval: true });
const [thread] = await once(worker, 'message');
const child = execFileSync('echo', ['out'], { encoding: 'utf8' });
const server = net.createServer().listen(0, '127.0.0.1');
await once(server, 'listening');
const port = server.address().port > 0;
server.close();
console.log(JSON.stringify({ thread, child, port }));
`;

t.test('shells, compilers and interpreters run under the job filter', async (t) => {
  const hello = path.join(dir, 'hello.c');
  writeFileSync(hello, THREADS_C);
  const shell = [
    ...[
      'set -e',
      `cd "${dir}"`,
      'mkfifo fifo',
      'echo through > fifo & read -r word < fifo',
      'test "$word" = through',
      'seq 3 | sort -r | wc -l',
    ],
    ...['cp -a hello.c copy.c && chmod 4755 copy.c && chown 5:6 copy.c && rm copy.c fifo', 'ulimit -n > /dev/null', 'date +%s > /dev/null'],
  ].join('\n');
  t.same(run(JOB, 'bash', '-c', shell), { status: 0, output: '3\n' });
  t.same(run(JOB, 'gcc', '-O1', '-pthread', '-o', path.join(dir, 'hello'), hello), { status: 0, output: '' });
  t.same(run(JOB, path.join(dir, 'hello')), { status: 0, output: 'sum 6\n' });
  t.same(run(JOB, 'perl', '-e', 'print scalar(getpwuid(0)), " ", `echo -n child`, "\\n"'), { status: 0, output: 'root child\n' });
  t.same(run(JOB, process.execPath, '--input-type=module', '-e', NODE_PROGRAM), {
    status: 0,
    output: '{"thread":42,"child":"out\\n","port":true}\n',
  });
});

t.test('useradd takes a refused audit socket for a kernel without auditing', async (t) => {
  if (!requires(t, 'useradd')) return;
  const prefix = (name: string): string => {
    const root = path.join(dir, name);
    mkdirSync(path.join(root, 'etc'), { recursive: true });
    for (const file of ['passwd', 'group', 'shadow', 'gshadow']) writeFileSync(path.join(root, 'etc', file), '');
    return root;
  };
  const add = (filter: string, root: string): number | null =>
    run(filter, 'useradd', '--prefix', root, '-u', '4242', '-M', 'someone').status;
  const root = prefix('plain');
  t.equal(add(JOB, root), 0);
  t.match(readFileSync(path.join(root, 'etc/passwd'), 'utf8'), /^someone:x:4242:/);

  const AF_UNIX = 1;
  const job = jobProfile();
  const strict: Profile = { ...job, name: 'strict', rules: new Map([...job.rules, ['socket', allowWhen(oneOf(0, AF_UNIX))]]) };
  t.not(add(filterFile(strict), prefix('strict')), 0, 'positive control: EPERM would stop it');
});

function toCall(name: SyscallName, ...args: bigint[]): Call {
  return { nr: numberOf(name), args };
}

function numberOf(name: SyscallName): number {
  const nr = arch.syscalls.get(name);
  if (nr === undefined) throw new Error(`no system call ${name} on ${arch.name}`);
  return nr;
}

function nameOf(nr: number): string {
  return [...arch.syscalls].find(([, number]) => number === nr)?.[0] ?? 'unknown';
}

/** How the probe reports a call that a filter answered. */
function outcomeOf(verdict: string): string {
  if (verdict === 'kill-process') return `signal ${constants.signals.SIGSYS}`;
  const errno = Object.entries(constants.errno).find(([name]) => name === verdict)?.[1];
  return `errno ${errno}`;
}

function call(filter: string, calls: readonly Call[]): string[] {
  return callLines(
    filter,
    calls.map(({ nr, args }) => ['call', nr.toString(16), ...args.map((arg) => arg.toString(16))].join(' ')),
  );
}

function callLines(filter: string, lines: readonly string[]): string[] {
  const input = `${lines.join('\n')}\n`;
  const answers = execFileSync(probe, [filter, 'calls'], { input, encoding: 'utf8' }).split('\n').slice(0, -1);
  if (answers.length !== lines.length) throw new Error(`${lines.length} calls got ${answers.length} answers`);
  return answers;
}

function run(filter: string, ...command: string[]): { status: number | null; output: string } {
  const env = { PATH: process.env['PATH'] ?? '', LC_ALL: 'C' };
  const { status, stdout, stderr } = spawnSync(probe, [filter, 'exec', ...command], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
    encoding: 'utf8',
  });
  return { status, output: stdout + stderr };
}

function filterFile(profile: Profile): string {
  const file = path.join(dir, `${profile.name}.bpf`);
  writeFileSync(file, compileFilter(profile, arch));
  return file;
}

function compile(name: string, source: string, ...options: string[]): string {
  const program = path.join(dir, name);
  execFileSync('gcc', ['-O2', '-Wall', '-Werror', ...options, '-x', 'c', '-', '-o', program], { input: source });
  return program;
}

/** Gives the `__NR_*` of a kernel header by name. The generic header calls some of them by the names of their 32-bit variants. */
function headerNumbers(header: string, ...options: string[]): Map<string, number> {
  const input = `#include <${header}>\n`;
  const macros = execFileSync('gcc', ['-E', '-dM', ...options, '-x', 'c', '-'], { input, encoding: 'utf8' });
  const numbers = [...macros.matchAll(/^#define __NR(?:3264)?_(\w+) (\d+)$/gm)].map(([, name, nr]): [string, number] => [
    name ?? '',
    Number(nr),
  ]);
  return new Map(numbers);
}
