import { copyFileSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { RootlayerError } from '../../../src/core/errors.ts';
import { AGENT, buildGuestImage } from '../../../src/guest/guest-image.ts';
import { findKernel } from '../../../src/guest/kernel.ts';
import { writeNewc } from '../../../src/guest/newc.ts';
import { CgroupManager } from '../../../src/host/cgroup.ts';
import { close } from '../../../src/host/libc.ts';
import { seccompArch } from '../../../src/host/seccomp/arch.ts';
import { compileFilter } from '../../../src/host/seccomp/bpf.ts';
import { qemuProfile } from '../../../src/host/seccomp/qemu-profile.ts';
import { openJail } from '../../../src/isolation/vm/jail.ts';
import { shapeFor } from '../../../src/isolation/vm/machine.ts';
import { VirtualMachines } from '../../../src/isolation/vm/machines.ts';
import { Templates } from '../../../src/isolation/vm/templates.ts';
import type { VmOptions } from '../../../src/isolation/vm/types.ts';
import { requires } from '../../helpers/requires.ts';
import { processesOf } from '../../helpers/stub-guest.ts';

requires(t, 'root', 'launcher', 'qemu-system-x86_64', 'busybox', 'vm-kernel');

const UID = 0x7ffb_0000;
const signal = new AbortController().signal;
const dir = mkdtempSync(join(tmpdir(), 'vm-templates-'));
const cgroups = CgroupManager.open(`vm-templates-${process.pid}`, false);
cgroups.removeLeftovers();
let seats = 0;
const takeSeat: VmOptions['takeSeat'] = async (limits) => {
  seats += 1;
  const cgroup = cgroups.create(String(seats), limits);
  return { uid: UID, cgroup, [Symbol.asyncDispose]: async () => await cgroup[Symbol.asyncDispose]() };
};

const guest = await buildGuestImage({ kernel: findKernel(), agentPath: AGENT, outputDir: join(dir, 'good') }, signal);
const jail = await openJail(dir, true, signal);
writeFileSync(join(dir, 'filter'), compileFilter(qemuProfile, seccompArch()));
writeFileSync(join(dir, 'empty'), '');
truncateSync(join(dir, 'empty'), 1024 * 1024);
const fds = { seccompFd: openSync(join(dir, 'filter'), 'r'), emptyFd: openSync(join(dir, 'empty'), 'r') };
t.teardown(() => {
  for (const fd of Object.values(fds)) close(fd);
  cgroups.close();
  rmSync(dir, { recursive: true });
});

const SMALL = shapeFor({ memoryBytes: 64 * 1024 ** 2, cpus: 1 }, 1);

/** States of a guest with this initramfs, in a directory of their own. */
function templatesOf(name: string, initramfs: Buffer, waitMs: number): Templates {
  const bootPath = join(dir, name);
  mkdirSync(bootPath, { mode: 0o755 });
  copyFileSync(guest.kernelPath, join(bootPath, 'kernel'));
  writeFileSync(join(bootPath, 'initramfs'), initramfs);
  const host = { jail, bootPath, ...fds };
  return new Templates(join(dir, `${name}-states`), { host, guestDigest: name, hostKey: '', takeSeat, stepMs: () => waitMs });
}

/** A first root whose init is this shell script. */
function initramfsWith(script: string): Buffer {
  return writeNewc([
    ...['bin', 'dev'].map((name) => ({ name, mode: 0o040755 })),
    { name: 'dev/console', mode: 0o020600, device: [5, 1] },
    { name: 'bin/busybox', mode: 0o100755, data: readFileSync('/bin/busybox') },
    { name: 'init', mode: 0o100755, data: Buffer.from(`#!/bin/busybox sh\n${script}\n`) },
  ]);
}

t.test('ensure() makes one state for all who ask at once, and keeps it', async (t) => {
  const templates = templatesOf('good-guest', readFileSync(guest.initramfsPath), 60_000);
  seats = 0;
  await Promise.all([1, 2, 3].map(async () => await templates.ensure(SMALL, 'tcg', null, signal)));
  await templates.ensure(SMALL, 'tcg', null, signal);
  t.equal(seats, 1);
  t.equal(readdirSync(join(dir, 'good-guest-states/templates')).length, 1);
  t.same(processesOf(UID), []);
});

t.test('a guest that never answers is ended in time, and its console is told', async (t) => {
  const templates = templatesOf('silent-guest', initramfsWith('echo this guest waits for nothing; exec busybox sleep 1000'), 8000);
  await t.rejects(templates.ensure(SMALL, 'tcg', null, signal), {
    code: 'E_VM_TIMEOUT',
    message: /did not answer within 8000 ms .*waits for nothing/,
  });
  t.same(readdirSync(join(dir, 'silent-guest-states/templates')), []);
  t.same(processesOf(UID), []);
});

t.test('a guest that ends is told as a crash, and its job may boot all the same', async (t) => {
  const templates = templatesOf('short-guest', initramfsWith('exit 0'), 60_000);
  await t.rejects(templates.ensure(SMALL, 'tcg', null, signal), { code: 'E_VM_CRASH', message: /QEMU ended with status 0/ });
  t.equal(await templates.open(SMALL, 'tcg', signal), null);
  t.same(processesOf(UID), []);
});

t.test('an abort ends the making of a state', async (t) => {
  const templates = templatesOf('aborted-guest', initramfsWith('exec busybox sleep 1000'), 60_000);
  const abort = new AbortController();
  const made = templates.ensure(SMALL, 'tcg', null, abort.signal);
  setTimeout(() => abort.abort(new RootlayerError('E_CANCELLED', 'ending')), 300);
  await t.rejects(made, { code: 'E_CANCELLED' });
  await t.rejects(templates.open(SMALL, 'tcg', abort.signal), { code: 'E_CANCELLED' });
  t.same(processesOf(UID), []);
});

t.test('status() tells what is missing, and what to do', async (t) => {
  const missing = new RootlayerError('E_MISSING_FEATURE', 'Cannot find a kernel', { hint: 'Fetch one.' });
  await using machines = VirtualMachines.open({
    directory: join(dir, 'none'),
    emulation: 'allow',
    findGuest: async () => Promise.reject(missing),
    removeOthers: true,
    takeSeat,
  });
  t.same(await machines.status({ memoryBytes: 1024 ** 3, cpus: 1 }, signal), {
    ok: false,
    lacked: 'Cannot find a kernel',
    remedy: 'Fetch one.',
  });
  await t.rejects(machines.prepare({ memoryBytes: 1024 ** 3, cpus: 1 }, 1, signal), { code: 'E_MISSING_FEATURE' });
  await t.rejects(machines.status({ memoryBytes: 1024 ** 3, cpus: 1 }, AbortSignal.abort(new Error('gone'))), /gone/);
});
