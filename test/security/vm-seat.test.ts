import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import t from 'tap';
import { CgroupManager } from '../../src/host/cgroup.ts';
import { close, makePipe } from '../../src/host/libc.ts';
import { seccompArch } from '../../src/host/seccomp/arch.ts';
import { compileFilter } from '../../src/host/seccomp/bpf.ts';
import { qemuProfile } from '../../src/host/seccomp/qemu-profile.ts';
import { QEMU_PROGRAM } from '../../src/isolation/vm/jail.ts';
import { HandOver, startQemu } from '../../src/isolation/vm/qemu.ts';
import { compileFixture } from '../helpers/compile-fixture.ts';
import { readAll } from '../helpers/read-all.ts';
import { requires } from '../helpers/requires.ts';

requires(t, 'root', 'launcher', 'gcc');

const UID = 0x7ffe_0000;
const THREADS = 40;
const FILE_BYTES = 4096;

const dir = mkdtempSync(join(tmpdir(), 'vm-seat-'));
t.teardown(() => rmSync(dir, { recursive: true }));
const jail = join(dir, 'jail');
for (const name of ['dev', 'boot', 'usr/bin', 'usr/lib']) mkdirSync(join(jail, name), { recursive: true });
chmodSync(jail, 0o755);
compileFixture('vm-seat-probe', join(jail, QEMU_PROGRAM));
// Anybody may write it, were it not for the read-only mount.
writeFileSync(join(jail, 'usr/lib/library'), '');
chmodSync(join(jail, 'usr/lib/library'), 0o666);

const filters = { full: filterFile('full', compileFilter(qemuProfile, seccompArch())), none: filterFile('none', allowAll()) };

function filterFile(name: string, program: Buffer): number {
  writeFileSync(join(dir, name), program);
  return openSync(join(dir, name), 'r');
}

/** One instruction: SECCOMP_RET_ALLOW. */
function allowAll(): Buffer {
  const program = Buffer.alloc(8);
  program.writeUInt16LE(0x06, 0);
  program.writeUInt32LE(0x7fff0000, 4);
  return program;
}

const listener = createServer(() => {}).listen(0, '127.0.0.1');
await once(listener, 'listening');
const address = listener.address();
const victim = spawn('/bin/sleep', ['600'], { stdio: 'ignore' });
const cgroups = CgroupManager.open(`vm-seat-${process.pid}`, false);
cgroups.removeLeftovers();
t.teardown(() => {
  listener.close();
  victim.kill('SIGKILL');
  cgroups.close();
  for (const fd of Object.values(filters)) closeSync(fd);
});

const args = [String(victim.pid), String(typeof address === 'object' ? address?.port : 0), join(dir, 'full')];
chmodSync(dir, 0o755);
chmodSync(join(dir, 'full'), 0o644);

type Seen = Record<string, string>;

function parse(output: string): Seen {
  return Object.fromEntries(
    output
      .trim()
      .split('\n')
      .map((line) => line.split(' ') as [string, string]),
  );
}

async function seenFromSeat(filter: keyof typeof filters, hasKvm = false): Promise<Seen> {
  const cgroup = cgroups.create(`seat-${filter}-${hasKvm}`, { memoryBytes: 256 * 1024 ** 2, pids: 4096, cpus: 1 });
  const [readEnd, writeEnd] = makePipe();
  const passed = new HandOver();
  passed.add(writeEnd);
  passed.add(filters.none);
  const qemu = startQemu(
    {
      jailPath: jail,
      bootPath: null,
      hasKvm,
      seat: { uid: UID, cgroup },
      seccompFd: filters[filter],
      threads: THREADS,
      fileSizeBytes: FILE_BYTES,
    },
    [QEMU_PROGRAM, ...args, ''],
    passed,
  );
  close(writeEnd);
  const output = await readAll(readEnd);
  t.same(await qemu.ended, { kind: 'exit', status: 0 }, qemu.complaint());
  await cgroup[Symbol.asyncDispose]();
  return parse(output.toString('latin1'));
}

async function seenUnconfined(): Promise<Seen> {
  const command = ['--mount', '--uts', '--propagation', 'private', '--', join(jail, QEMU_PROGRAM), ...args, jail];
  const child = spawn('/usr/bin/unshare', command, { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] });
  const output = child.stdio[3];
  return output === null || output === undefined || !('read' in output) ? {} : parse(await text(output));
}

/** What hinders a try in all of QEMU's confinement, and what without its filter of system calls; `ok` where the try itself is no harm. */
const TRIES: Record<string, [filtered: string, unfiltered: string]> = {
  'host-file': ['ENOENT', 'ENOENT'],
  proc: ['ENOENT', 'ENOENT'],
  sys: ['ENOENT', 'ENOENT'],
  'null-device': ['ENOENT', 'ENOENT'],
  'make-file': ['EPERM', 'EROFS'],
  'make-directory': ['EPERM', 'EROFS'],
  'make-device': ['EPERM', 'EROFS'],
  'make-writable': ['EPERM', 'EPERM'],
  'own-library': ['EROFS', 'EROFS'],
  'own-program-mode': ['EPERM', 'EROFS'],
  'inet-socket': ['EPERM', 'ok'],
  connect: ['EPERM', 'ENETUNREACH'],
  'packet-socket': ['EPERM', 'EPERM'],
  interfaces: ['none', 'lo'],
  signal: ['EPERM', 'ESRCH'],
  trace: ['EPERM', 'ESRCH'],
  'read-memory': ['EPERM', 'ESRCH'],
  pidfd: ['EPERM', 'ESRCH'],
  'priority-of-other': ['EPERM', 'ESRCH'],
  'host-name': ['EPERM', 'EPERM'],
  'become-root': ['EPERM', 'EPERM'],
  'set-groups': ['EPERM', 'EPERM'],
  'take-capabilities': ['EPERM', 'EPERM'],
  'raise-limit': ['EPERM', 'EPERM'],
  'unshare-mount': ['EPERM', 'EPERM'],
  'unshare-network': ['EPERM', 'EPERM'],
  'new-mount': ['EPERM', 'EPERM'],
  'mount-tmpfs': ['EPERM', 'EPERM'],
  'parent-root': ['EPERM', 'EPERM'],
};

/** What only the filter takes away: the kernel's own large surfaces, which any user of the host can reach. */
const ONLY_FILTERED: Record<string, string> = {
  'unix-socket': 'EPERM',
  'netlink-socket': 'EPERM',
  'shared-memory': 'EPERM',
  keyctl: 'EPERM',
  'add-key': 'EPERM',
  'io-uring': 'ENOSYS',
  userfaultfd: 'EPERM',
  'clone-user-namespace': 'EPERM',
  'clone3-user-namespace': 'ENOSYS',
  'unshare-user': 'EPERM',
  fork: 'EPERM',
  vfork: 'EPERM',
};

const STATE: Seen = {
  root: 'boot,dev,usr',
  devices: '',
  descriptors: '0,1,2,3,4',
  node: 'vm',
  capabilities: '0:0:0',
  'bounding-set': '0',
  ids: `${UID},${UID},${UID}:${UID},${UID},${UID}`,
  groups: '0',
  'no-new-privileges': '1',
  pid: '1',
  'limit-core': '0',
  'limit-files': '256',
  'limit-file-size': String(FILE_BYTES),
  'limit-locked': '0',
  'kvm-device': 'ENOENT',
  'new-listener': 'EPERM',
  'terminal-input': 'EPERM',
  bpf: 'EPERM',
  perf: 'EPERM',
  'kernel-log': 'EPERM',
  handle: 'EPERM',
  unmount: 'EPERM',
  'mount-proc': 'EPERM',
  done: 'ok',
};

const pick = (seen: Seen, names: object): Seen => Object.fromEntries(Object.keys(names).map((name) => [name, seen[name] ?? 'not told']));

t.test("V05 from QEMU's seat nothing of the host is reached", async (t) => {
  const seen = await seenFromSeat('full');
  const refusals = Object.fromEntries(Object.entries(TRIES).map(([name, [filtered]]) => [name, filtered]));
  t.same(pick(seen, TRIES), refusals);
  t.same(pick(seen, ONLY_FILTERED), ONLY_FILTERED);
  t.same(pick(seen, STATE), STATE);
  t.ok(Number(seen['threads']) < THREADS, `${seen['threads']} threads`);
});

t.test("V05 namespaces, root, user and capabilities hold from QEMU's seat also without the filter", async (t) => {
  const seen = await seenFromSeat('none');
  t.same(pick(seen, TRIES), Object.fromEntries(Object.entries(TRIES).map(([name, [, unfiltered]]) => [name, unfiltered])));
  const { descriptors, root, capabilities, ids, groups, pid } = STATE;
  const same = { descriptors, root, capabilities, ids, groups, pid, 'bounding-set': '0' };
  t.same(pick(seen, same), same);
  t.ok(Number(seen['threads']) < THREADS, `${seen['threads']} threads`);
});

t.test('V05 with KVM there is one device more, and it alone', async (t) => {
  if (!requires(t, 'kvm')) return;
  const seen = await seenFromSeat('full', true);
  t.same(pick(seen, { devices: '', 'kvm-device': '', 'null-device': '', root: '' }), {
    devices: 'kvm',
    'kvm-device': 'ok',
    'null-device': 'ENOENT',
    root: 'boot,dev,usr',
  });
});

t.test('V05 control: unconfined, each try does what it is meant to do', async (t) => {
  const seen = await seenUnconfined();
  const done = Object.keys({ ...TRIES, ...ONLY_FILTERED }).filter(
    (name) => !['take-capabilities', 'interfaces', 'read-memory'].includes(name),
  );
  t.same(
    done.filter((name) => seen[name] !== 'ok'),
    [],
    JSON.stringify(seen),
  );
  t.equal(seen['read-memory'], 'EFAULT', 'allowed, of an address that is not there');
  t.equal(seen['threads'], '400');
  t.match(seen['interfaces'], /lo/);
});
