import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import type { Test } from 'tap';
import { type CommandOptions, type Ended, rootlayer, rootlayerOk, startCommand } from './command.ts';

/** A daemon in a process of its own, as users start it. */
export type Daemon = {
  pid: number;
  socket: string;
  stateDir: string;
  /** Its log so far, a JSON line each. */
  log(): string[];
  /** Runs `rootlayer ARGS --socket …`. */
  client(args: readonly string[], options?: CommandOptions): Promise<Ended>;
  /** The same, throwing unless the status is 0. */
  clientOk(args: readonly string[], options?: CommandOptions): Promise<Ended>;
  /** Sends a signal. */
  signal(name: NodeJS.Signals): void;
  /** Its exit status, and null after a kill; resolves when it has ended. */
  ended: Promise<number | null>;
};

/** What makes two starts the same daemon, and how long a start may take. */
export type DaemonOptions = { directory: string; args?: readonly string[] };

/** How long a start may take; it removes what an earlier one left. */
const START_MS = 30_000;

/**
 * Starts a daemon with its socket and state below a directory (`rl.sock`, `state`), and waits until it listens. It is killed when the test ends, if it
 * still lives. Throws with its log when it ends instead.
 */
export async function startDaemon(t: Test, options: DaemonOptions): Promise<Daemon> {
  const socket = path.join(options.directory, 'rl.sock');
  const stateDir = path.join(options.directory, 'state');
  const child = startCommand(['daemon', '--socket', socket, '--state-dir', stateDir, ...(options.args ?? [])]);
  const lines: string[] = [];
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  t.teardown(async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
    await ended;
  });
  await untilReady(child, lines);
  const withSocket = (args: readonly string[]): string[] => [...args, '--socket', socket];
  return {
    pid: child.pid ?? 0,
    socket,
    stateDir,
    log: () => [...lines],
    client: (args, over) => rootlayer(withSocket(args), over),
    clientOk: (args, over) => rootlayerOk(withSocket(args), over),
    signal: (name) => void child.kill(name),
    ended,
  };
}

function untilReady(child: ChildProcessWithoutNullStreams, lines: string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => reject(new Error(`Cannot start the daemon: ${why}\n${lines.join('\n')}`));
    const timer = setTimeout(() => fail(`it is not ready after ${START_MS} ms`), START_MS);
    let rest = '';
    child.stdout.resume();
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      const parts = (rest + text).split('\n');
      rest = parts.pop() ?? '';
      lines.push(...parts);
      if (!parts.some((line) => line.includes('"msg":"ready"'))) return;
      clearTimeout(timer);
      resolve();
    });
    child.once('close', (status) => {
      clearTimeout(timer);
      fail(`it ended with status ${status}`);
    });
  });
}

/** A process that cannot be mistaken for a later one with the same number. */
export type ProcessId = { pid: number; parent: number; startTime: string; command: string };

/** All processes that descend from one, by /proc. */
export function descendantsOf(pid: number): ProcessId[] {
  const parents = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    const stat = /^\d+$/.test(name) ? readStat(Number(name)) : null;
    if (stat !== null) parents.set(stat.parent, [...(parents.get(stat.parent) ?? []), Number(name)]);
  }
  const found: ProcessId[] = [];
  const visit = (parent: number): void => {
    for (const child of parents.get(parent) ?? []) {
      const stat = readStat(child);
      if (stat !== null) found.push({ pid: child, parent, startTime: stat.startTime, command: readCommand(child) });
      visit(child);
    }
  };
  visit(pid);
  return found;
}

/** Tells whether the process still runs; a zombie does not. */
export function isAlive({ pid, startTime }: ProcessId): boolean {
  const stat = readStat(pid);
  return stat !== null && stat.startTime === startTime && stat.state !== 'Z' && stat.state !== 'X';
}

/** Fields of /proc/PID/stat, behind the name, which can hold anything. Source: proc_pid_stat(5). */
function readStat(pid: number): { state: string; parent: number; startTime: string } | null {
  const text = readIfThere(`/proc/${pid}/stat`);
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return text === '' ? null : { state: fields[0] ?? '', parent: Number(fields[1]), startTime: fields[19] ?? '' };
}

function readCommand(pid: number): string {
  return readIfThere(`/proc/${pid}/cmdline`).replaceAll('\0', ' ');
}

function readIfThere(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
