import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { AGENT, buildGuestImage } from '../../../src/guest/guest-image.ts';
import { findKernel } from '../../../src/guest/kernel.ts';
import { CgroupManager } from '../../../src/host/cgroup.ts';
import { duplicate, seekHole } from '../../../src/host/libc.ts';
import { vmCgroupLimits } from '../../../src/isolation/vm/machine.ts';
import { VirtualMachines } from '../../../src/isolation/vm/machines.ts';
import type { VmEnd, VmJob, VmRun } from '../../../src/isolation/vm/types.ts';
import { readTar } from '../../helpers/engine.ts';
import { readAll } from '../../helpers/read-all.ts';
import { requires } from '../../helpers/requires.ts';
import { processesOf, timeOf } from '../../helpers/stub-guest.ts';
import { until } from '../../helpers/until.ts';

requires(t, 'root', 'launcher', 'qemu-system-x86_64', 'mkfs.erofs', 'mkfs.ext4', 'busybox', 'vm-kernel');

const MIB = 1024 ** 2;
const LIMITS = { memoryBytes: 256 * MIB, cpus: 1, pids: 100, diskBytes: 64 * MIB };
const UID = 0x7ffc_0000;
const signal = new AbortController().signal;

const dir = mkdtempSync(join(tmpdir(), 'vm-machines-'));
const vmDir = join(dir, 'vm');
mkdirSync(vmDir);
const cgroups = CgroupManager.open(`vm-machines-${process.pid}`, false);
cgroups.removeLeftovers();
let count = 0;

function open(emulation: 'allow' | 'refuse' = 'allow'): VirtualMachines {
  return VirtualMachines.open({
    directory: vmDir,
    emulation,
    removeOthers: true,
    findGuest: async (signal) => await buildGuestImage({ kernel: findKernel(), agentPath: AGENT, outputDir: join(vmDir, 'image') }, signal),
    takeSeat: async (limits) => {
      const cgroup = cgroups.create(`seat-${count++}`, limits);
      return { uid: UID, cgroup, [Symbol.asyncDispose]: async () => await cgroup[Symbol.asyncDispose]() };
    },
  });
}

const lower = openSync(makeBase(), 'r');
const machines = open();

t.teardown(async () => {
  await machines[Symbol.asyncDispose]();
  closeSync(lower);
  cgroups.close();
  rmSync(dir, { recursive: true });
});

/** A base image with a shell and little else. */
function makeBase(): string {
  const tree = join(dir, 'base');
  for (const name of ['bin', 'dev', 'proc', 'sys', 'tmp', 'mnt']) mkdirSync(join(tree, name), { recursive: true });
  chmodSync(tree, 0o755);
  copyFileSync('/bin/busybox', join(tree, 'bin/busybox'));
  chmodSync(join(tree, 'bin/busybox'), 0o755);
  for (const name of ['sh', 'cat', 'echo', 'sleep', 'mkdir', 'mount', 'mknod', 'stty', 'dd', 'kill', 'tty', 'rm', 'seq']) {
    symlinkSync('busybox', join(tree, 'bin', name));
  }
  const image = join(dir, 'base.erofs');
  execFileSync('mkfs.erofs', [image, tree], { stdio: 'pipe' });
  return image;
}

function openScratch(): number {
  const path = join(dir, `scratch-${count++}`);
  writeFileSync(path, '');
  execFileSync('mkfs.ext4', ['-q', '-F', '-m0', '-O', '^has_journal', path, '64M'], { stdio: 'pipe' });
  const fd = openSync(path, 'r+');
  unlinkSync(path);
  return fd;
}

function jobOf(script: string, scratchFd: number, cgroup: VmJob['cgroup']): Omit<VmJob, 'onOutput'> {
  return {
    id: 'test',
    lowerFds: [lower],
    filesFd: null,
    scratchFd,
    script: Buffer.from(script),
    program: { candidates: [['/bin/sh', '-e', '/dev/rootlayer/script']], env: { PATH: '/bin', GREETING: 'hello' } },
    limits: LIMITS,
    hostname: 'rootlayer',
    terminal: null,
    uid: UID + count,
    cgroup,
    maxResultBytes: 64 * MIB,
  };
}

type Ran = { end: VmEnd; stdout: string; stderr: string; members: string[]; run: VmRun };
type Options = { terminal?: VmJob['terminal']; during?: (run: VmRun, told: { stdout: string; stderr: string }) => Promise<void> };

async function run(script: string, { terminal = null, during }: Options = {}): Promise<Ran> {
  const scratchFd = openScratch();
  const cgroup = cgroups.create(`job-${count++}`, vmCgroupLimits(LIMITS));
  const told = { stdout: '', stderr: '' };
  const started = machines.start(
    {
      ...jobOf(script, scratchFd, cgroup),
      terminal,
      onOutput: (stream, bytes) => {
        told[stream] += bytes.toString('latin1');
      },
    },
    signal,
  );
  const result = readAll(duplicate(started.resultFd));
  try {
    await during?.(started, told);
    const end = await started.ended;
    const bytes = await started.resultDone.catch(() => 0);
    const members = bytes === 0 ? [] : readTar(await result).map(({ header }) => header.name.toString('latin1'));
    return { end, ...told, members, run: started };
  } finally {
    started.kill();
    await started.released;
    await result;
    await cgroup[Symbol.asyncDispose]();
    closeSync(scratchFd);
  }
}

const templates = (): string[] => readdirSync(join(vmDir, 'templates'));

t.test('status() boots a guest once, and remembers it', async (t) => {
  const status = await machines.status(LIMITS, signal);
  if (!status.ok) throw new Error(status.lacked);
  t.match(status.qemuVersion, /^\d+\.\d+/);
  t.equal(status.boundary, status.acceleration === 'kvm');
  t.ok(status.why.length > 0);
  const [name = '', ...others] = templates().filter((each) => status.acceleration === 'tcg' || each !== '');
  t.ok(status.acceleration === 'kvm' || others.length === 0, 'one state is saved');
  const before = statSync(join(vmDir, 'templates', name));
  t.equal(before.mode & 0o777, 0o400);
  await using again = open();
  t.same(await again.status(LIMITS, signal), status);
  t.equal(statSync(join(vmDir, 'templates', name)).ino, before.ino);
});

t.test('start() refuses emulation where the policy does, also when it shows only now', async (t) => {
  const status = await machines.status(LIMITS, signal);
  if (!status.ok || status.acceleration === 'kvm') return;
  await using strict = open('refuse');
  const scratchFd = openScratch();
  const cgroup = cgroups.create(`job-${count++}`, vmCgroupLimits(LIMITS));
  const job = strict.start({ ...jobOf('true', scratchFd, cgroup), onOutput: () => {} }, signal);
  t.match(await job.ended, { kind: 'failed', error: { code: 'E_FORBIDDEN', message: /policy refuses/ } });
  await job.released;
  await cgroup[Symbol.asyncDispose]();
  closeSync(scratchFd);
});

/** Descriptors of this process once all is there that the first job needs. */
let descriptors = 0;

t.test('a job is restored, prints, and gives what it changed', async (t) => {
  const ran = await run('echo $GREETING; echo wrong >&2; mkdir /made; echo new >/made/file; rm /bin/tty');
  t.match(ran.end, { kind: 'exit', status: 0, claims: { changed: true, oomKills: 0 } });
  t.equal(ran.run.way, 'restored');
  t.equal(ran.stdout, 'hello\n');
  t.equal(ran.stderr, 'wrong\n');
  t.same(ran.members.sort(), ['./', './bin/', './bin/tty', './made/', './made/file']);
  const marks = ['seeded', 'bound', 'mounted', 'started', 'firstByte', 'end', 'result'].map((mark) => ran.run.timingsMs[mark] ?? -1);
  t.same(
    marks,
    [...marks].sort((a, b) => a - b),
    'in this order',
  );
  t.ok((marks[0] ?? -1) > 0);
});

t.test('the end of a script is told, with what it used', async (t) => {
  descriptors = readdirSync('/proc/self/fd').length;
  t.match((await run('exit 7')).end, { kind: 'exit', status: 7, claims: { changed: false } });
  t.match((await run('kill -9 $$')).end, { kind: /exit|signal/ });
  const unchanged = await run('true');
  t.match(unchanged.end, { kind: 'exit', status: 0, claims: { changed: false } });
  t.same(unchanged.members, []);
});

t.test('a script may mount and make devices', async (t) => {
  const ran = await run('mount -t tmpfs none /mnt; echo x >/mnt/x; mknod /dev-null c 1 3; echo y >/dev-null; echo done');
  t.equal(ran.stdout, 'done\n', ran.stderr);
  t.same(ran.members.sort(), ['./', './dev-null']);
});

t.test('a terminal takes input and a new size', async (t) => {
  const ran = await run('stty size; cat; stty size', {
    terminal: { rows: 30, columns: 100 },
    during: async (run, told) => {
      await until('the first size', () => told.stdout.includes('30 100\r\n'));
      run.resize(40, 120);
      await run.input(Buffer.from('typed\n'));
      await until('the echo', () => told.stdout.includes('typed\r\ntyped\r\n'));
      await run.input(Buffer.alloc(0));
    },
  });
  t.match(ran.end, { kind: 'exit', status: 0 });
  t.equal(ran.stdout, '30 100\r\ntyped\r\ntyped\r\n40 120\r\n');
});

const PHASES: Record<string, (run: VmRun, told: { stdout: string }) => Promise<unknown>> = {
  'at once': async () => {},
  'when it answers': async (run) => await run.launched,
  'when the script starts': async (run) => await run.started,
  'while it prints': async (_run, told) => await until('output', () => told.stdout.length > 0),
};

for (const [when, wait] of Object.entries(PHASES)) {
  t.test(`kill() ${when} ends QEMU at once`, async (t) => {
    const ran = await run('while true; do echo x; done', {
      during: async (run, told) => {
        await wait(run, told);
        run.kill();
        t.ok((await timeOf(run.released)) < 2000);
      },
    });
    t.same(ran.end, { kind: 'killed' });
  });
}

t.test('V05 QEMU has no right, no namespace of the host and no file but its own', async (t) => {
  await run('echo up; sleep 60', {
    during: async (run, told) => {
      await until('the script', () => told.stdout === 'up\n');
      const [pid = ''] = processesOf(UID + count);
      const status = readFileSync(`/proc/${pid}/status`, 'latin1');
      const field = (name: string): string => new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(status)?.[1] ?? '';
      t.same(
        ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs', 'Seccomp', 'Groups'].map(
          (name) => `${name} ${field(name).trim()}`,
        ),
        [
          ...['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'].map((name) => `${name} 0000000000000000`),
          'NoNewPrivs 1',
          'Seccomp 2',
          'Groups ',
        ],
      );
      t.ok(Number(field('Seccomp_filters')) >= 2, 'our filter and its own');
      for (const namespace of ['mnt', 'net', 'pid', 'ipc', 'uts', 'cgroup']) {
        t.not(readlinkSync(`/proc/${pid}/ns/${namespace}`), readlinkSync(`/proc/self/ns/${namespace}`), namespace);
      }
      const mounts = readFileSync(`/proc/${pid}/mountinfo`, 'latin1')
        .trim()
        .split('\n')
        .map((line) => line.split(' ').slice(4, 6).join(' '));
      t.equal(mounts.length, 1);
      t.match(mounts[0] ?? '', /^\/ ro,nosuid,nodev/);
      const files = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
      const named = files.filter((file) => file.startsWith('/') && !file.includes('(deleted)') && !file.startsWith('/memfd:'));
      t.same([...new Set(named)], [join(dir, 'base.erofs')], 'the base alone has a name');
      for (const fd of emptyDisksOf('self')) t.equal(seekHole(Number(fd), 4096), 4096);
      const positions = emptyDisksOf(pid).map((fd) =>
        Number(/^pos:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1'))?.[1]),
      );
      t.ok(positions.length > 0 && !positions.includes(4096), 'its empty disks are open for it alone');
      run.kill();
    },
  });
});

/** Descriptors of a process that are open on a disk for slots without one. */
function emptyDisksOf(pid: string): string[] {
  const path = (fd: string): string => `/proc/${pid}/fd/${fd}`;
  const open = readdirSync(`/proc/${pid}/fd`).filter((fd) => existsSync(path(fd)));
  return open.filter((fd) => readlinkSync(path(fd)).startsWith(join(vmDir, 'new-')) && statSync(path(fd)).size === MIB);
}

t.test('two jobs at once do not see each other', async (t) => {
  const both = await Promise.all(['a', 'b'].map(async (name) => await run(`echo ${name} >/own; cat /own; sleep 0.3`)));
  t.same(
    both.map(({ stdout }) => stdout),
    ['a\n', 'b\n'],
  );
});

t.test('a guest that is ended from inside is told as a crash', async (t) => {
  const ran = await run('echo c >/proc/sysrq-trigger; sleep 60');
  t.match(ran.end, { kind: 'failed', error: { code: 'E_VM_CRASH' } });
});

t.test('a saved state that is broken is passed by, and made again', async (t) => {
  const path = brokenState(t);
  for (const turn of ['first', 'second']) {
    const ran = await run('echo still here');
    t.equal(ran.stdout, 'still here\n', turn);
    t.equal(ran.run.way, 'cold');
  }
  t.throws(() => statSync(path), { code: 'ENOENT' }, 'two failures: it is given up');
  const ran = await run('echo warm again');
  t.equal(ran.stdout, 'warm again\n');
  t.equal(ran.run.way, 'restored');
});

/** Overwrites the one saved state that the jobs of this file use: the newest. */
function brokenState(t: Test): string {
  const byUse = templates()
    .map((name) => join(vmDir, 'templates', name))
    .sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs);
  const [path = ''] = byUse;
  t.ok(statSync(path).size > MIB);
  writeFileSync(path, Buffer.alloc(MIB, 'x'));
  return path;
}

t.test('nothing is left behind', async (t) => {
  await until('the end of all descriptors', () => readdirSync('/proc/self/fd').length === descriptors);
  for (let uid = UID; uid <= UID + count; uid++) t.same(processesOf(uid), []);
  t.same(
    readdirSync(vmDir).filter((name) => /new/.test(name)),
    [],
  );
});
