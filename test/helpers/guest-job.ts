import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Test } from 'tap';
import { buildGuestImage } from '../../src/guest/guest-image.ts';
import { findKernel } from '../../src/guest/kernel.ts';
import { readTar } from './engine.ts';
import { makeBaseDisk, makeScratchDisk } from './guest-disks.ts';
import { type GuestJob, GuestMachine, type GuestRun } from './guest-vm.ts';
import { requires } from './requires.ts';

export const MIB = 1024 * 1024;

/** The memory limit of a test's job. */
export const MEMORY = 192 * MIB;

const BASH: GuestJob['records'] = [
  ['env', 'PATH=/usr/sbin:/usr/bin:/sbin:/bin'],
  ['env', 'HOME=/root'],
  ['exec', '/bin/bash'],
  ['arg', '-e'],
  ['arg', '/dev/rootlayer/script'],
];
const LIMITS: GuestJob['records'] = [
  ['memory', MEMORY],
  ['pids', 256],
  ['fsize', 64 * MIB],
];

/** A job as tests write it: further records of the host, and either variables for bash or another program. */
export type TestJob = Partial<GuestJob> & {
  scratchMib?: number;
  lowers?: string[];
  files?: string;
  env?: string[];
  program?: GuestJob['records'];
};

/** A guest for the tests of one file. */
export type TestGuest = {
  dir: string;
  /** A disk with the Debian base. */
  base: string;
  /** Runs a script on the base (or on other layers, topmost first), in a machine restored for it. */
  run(script: string | Buffer, job?: TestJob): Promise<GuestRun>;
};

/** Boots a guest with an agent, emulated. With nothing at `agentPath` it is the shell agent. */
export async function openTestGuest(t: Test, agentPath: string): Promise<TestGuest> {
  requires(t, 'root', 'base-image', 'vm-kernel', 'qemu-system-x86_64', 'mkfs.erofs', 'mkfs.ext4', 'busybox');
  const dir = mkdtempSync(path.join(tmpdir(), 'guest-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  const signal = new AbortController().signal;
  const image = await buildGuestImage({ kernel: findKernel(), agentPath, outputDir: path.join(dir, 'image') }, signal);
  const base = makeBaseDisk(path.join(dir, 'base'));
  const machine = await GuestMachine.boot(image, dir);
  const run: TestGuest['run'] = async (script, job = {}) => {
    const { lowers = [base], files, env = [], records = [], program = BASH } = job;
    const scratch = makeScratchDisk(path.join(dir, 'scratch'), job.scratchMib);
    const ran = await machine.run({
      ...job,
      disks: [scratch, ...lowers, ...(files === undefined ? [] : [files])],
      script,
      records: [
        ...lowers.map((_, index): [string, number] => ['lower', index + 1]),
        ...(files === undefined ? [] : ([['files', lowers.length + 1]] as [string, number][])),
        ['scratch', 0],
        ...LIMITS,
        ...records,
        ['end', ''],
        ...env.map((text): [string, string] => ['env', text]),
        ...program,
      ],
    });
    rmSync(scratch);
    return ran;
  };
  return { dir, base, run };
}

/** The members of a result by their names, as one line each: type, mode, owner, then what its type has. */
export function listResult(tar: Buffer): Record<string, string> {
  return Object.fromEntries(
    readTar(tar).map(({ header, body }) => {
      const { type, mode, uid, gid, linkName, devMajor, devMinor } = header;
      const isDevice = type === 'char' || type === 'block';
      const own = isDevice
        ? `${devMajor}:${devMinor}`
        : type === 'file'
          ? body.toString('latin1').slice(0, 40)
          : linkName.toString('latin1');
      return [header.name.toString('latin1'), `${type} ${mode.toString(8)} ${uid}:${gid} ${own}`.trim()];
    }),
  );
}

/** The attributes of one member, values in hex. */
export function xattrsOf(tar: Buffer, name: string): Record<string, string> {
  const found = readTar(tar).find(({ header }) => header.name.equals(Buffer.from(name, 'latin1')));
  return Object.fromEntries((found?.header.xattrs ?? []).map(({ name, value }) => [name.toString('latin1'), value.toString('hex')]));
}
