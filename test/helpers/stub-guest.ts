import { chmodSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import type { Test } from 'tap';
import { type Cgroup, CgroupManager } from '../../src/host/cgroup.ts';
import { close } from '../../src/host/libc.ts';
import { seccompArch } from '../../src/host/seccomp/arch.ts';
import { compileFilter } from '../../src/host/seccomp/bpf.ts';
import { qemuProfile } from '../../src/host/seccomp/qemu-profile.ts';
import { frame } from '../../src/isolation/vm/frames.ts';
import { QEMU_PROGRAM } from '../../src/isolation/vm/jail.ts';
import { type SavedState, Session, type SessionParts } from '../../src/isolation/vm/session.ts';
import type { VmJob } from '../../src/isolation/vm/types.ts';
import { compileFixture } from './compile-fixture.ts';

/** Instructions for the stub. Source: test/fixtures/vm-stub-guest.c. */
export const play = {
  send: (...frames: Buffer[]): Buffer => withBytes('w', Buffer.concat(frames)),
  /** `times` 0: for ever. */
  repeat: (times: number, bytes: Buffer): Buffer => Buffer.concat([Buffer.from('f'), number(times), number(bytes.length), bytes]),
  pause: (ms: number): Buffer => Buffer.concat([Buffer.from('p'), number(ms)]),
  readTo: (type: string): Buffer => Buffer.from(`r${type}`),
  complain: (text: string): Buffer => withBytes('e', Buffer.from(text)),
  closeAndSleep: Buffer.from('c'),
  sleep: Buffer.from('s'),
  exit: (status: number): Buffer => Buffer.concat([Buffer.from('x'), number(status)]),
  abort: Buffer.from('a'),
};

function withBytes(instruction: string, bytes: Buffer): Buffer {
  return Buffer.concat([Buffer.from(instruction), number(bytes.length), bytes]);
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

const mark = (name: string): Buffer => frame('M', Buffer.from(name));

/** What a good guest says. */
export const says = {
  ready: frame('R', Buffer.from([1, 0, 0, 0])),
  seeded: mark('seeded'),
  started: Buffer.concat(['bound', 'mounted', 'started'].map(mark)),
  output: (text: string): Buffer => frame('1', Buffer.from(text)),
  end: (records: string): Buffer => frame('X', Buffer.from(records)),
  result: (bytes: Buffer | string): Buffer => frame('T', Buffer.from(bytes)),
  whole: frame('F'),
};

/** Up to the script's start, in the order of a guest that boots. */
export const STARTED = [play.send(says.ready), play.readTo('S'), play.send(says.seeded), play.readTo('G'), play.send(says.started)];

/** How a session went. */
export type Played = {
  session: Session;
  output: { stream: string; text: string }[];
  outputBytes(): number;
  /** Descriptors that its control group keeps open until the end of the file. */
  groupDescriptors: number;
};

/** A place for sessions whose QEMU is the stub. */
export type StubSeat = {
  /** Starts a session whose stub follows these instructions, and those of `restore` when there is a saved state. */
  start(instructions: Buffer[], options?: { restore?: Buffer[] | undefined; maxResultBytes?: number; waitMs?: number }): Played;
  /** How the saved state did, in order. */
  stateOutcomes: string[];
  uid: number;
};

const UID = 0x7ffd_0000;

/** Gives a seat for stubs; it is given back at the end of the file, which then has left no process. */
export function openStubSeat(t: Test): StubSeat {
  const dir = mkdtempSync(join(tmpdir(), 'vm-stub-'));
  const jail = join(dir, 'jail');
  for (const name of ['dev', 'boot', 'usr/bin']) mkdirSync(join(jail, name), { recursive: true });
  chmodSync(jail, 0o755);
  compileFixture('vm-stub-guest', join(jail, QEMU_PROGRAM));
  const seccompFd = fileWith(join(dir, 'filter'), compileFilter(qemuProfile, seccompArch()));
  const emptyFd = fileWith(join(dir, 'empty'), Buffer.alloc(0));
  const cgroups = CgroupManager.open(`vm-stub-${process.pid}`, false);
  cgroups.removeLeftovers();
  const taken: { session: Session; cgroup: Cgroup }[] = [];
  const stateOutcomes: string[] = [];
  t.teardown(async () => {
    for (const { session, cgroup } of taken) {
      session.kill();
      await session.released;
      await cgroup[Symbol.asyncDispose]();
    }
    cgroups.close();
    close(seccompFd);
    close(emptyFd);
    rmSync(dir, { recursive: true });
  });
  const openState = async (): Promise<SavedState> => ({
    fd: emptyFd,
    close: () => {},
    worked: () => stateOutcomes.push('worked'),
    failed: (error) => stateOutcomes.push(error.code),
  });
  const start: StubSeat['start'] = (instructions, { restore, maxResultBytes = 1024 * 1024, waitMs = 5000 } = {}) => {
    writeFileSync(join(jail, 'play'), Buffer.concat(instructions), { mode: 0o644 });
    writeFileSync(join(jail, 'play-restore'), Buffer.concat(restore ?? []), { mode: 0o644 });
    const parts: SessionParts = {
      host: { jail: { path: jail, key: 'stub', qemuVersion: 'stub' }, bootPath: dir, seccompFd, emptyFd },
      acceleration: 'tcg',
      openState: async () => (restore === undefined ? null : await openState()),
      stepMs: () => waitMs,
    };
    const cgroup = cgroups.create(String(taken.length), { memoryBytes: 512 * 1024 ** 2, pids: 100, cpus: 2 });
    const output: Played['output'] = [];
    let bytes = 0;
    const session = new Session(
      jobFor(cgroup, emptyFd, maxResultBytes, (stream, piece) => {
        bytes += piece.length;
        if (output.length < 100) output.push({ stream, text: piece.toString('latin1', 0, 100) });
      }),
      Promise.resolve(parts),
    );
    taken.push({ session, cgroup });
    const groupDescriptors = cgroup.tasksFds.length + (cgroup.directoryFd === null ? 0 : 1);
    return { session, output, outputBytes: () => bytes, groupDescriptors };
  };
  return { start, stateOutcomes, uid: UID };
}

function fileWith(path: string, bytes: Buffer): number {
  writeFileSync(path, bytes);
  return openSync(path, 'r');
}

function jobFor(cgroup: Cgroup, scratchFd: number, maxResultBytes: number, onOutput: VmJob['onOutput']): VmJob {
  return {
    id: 'stub',
    lowerFds: [],
    filesFd: null,
    scratchFd,
    script: Buffer.from('true'),
    program: { candidates: [['/bin/sh', '/dev/rootlayer/script']], env: { A: '1' } },
    limits: { memoryBytes: 64 * 1024 ** 2, cpus: 1, pids: 10, diskBytes: 1024 ** 2 },
    hostname: 'rootlayer',
    terminal: null,
    uid: UID,
    cgroup,
    maxResultBytes,
    onOutput,
  };
}

/** Processes of the host that run as this user. */
export function processesOf(uid: number): string[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name) && uidOf(name) === uid);
}

function uidOf(pid: string): number | null {
  try {
    return Number(/^Uid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]);
  } catch {
    return null; // it has ended meanwhile
  }
}

/** Milliseconds that something takes. */
export async function timeOf(work: Promise<unknown>): Promise<number> {
  const begin = performance.now();
  await work;
  return performance.now() - begin;
}
