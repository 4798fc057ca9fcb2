import { type ChildProcess, spawn } from 'node:child_process';
import type { Duplex } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { deferred } from '../core/deferred.ts';
import { RootlayerError } from '../core/errors.ts';
import { errnoName } from './errno.ts';

/** The built launcher. */
export const LAUNCHER = fileURLToPath(new URL('../../bin/rootlayer-launch', import.meta.url));

/** Which of the launcher's services is asked for. Source: isolation/launcher.c. */
export type LauncherMode = 'job' | 'worker' | 'vm' | 'userns' | 'overlay';

/** `key=value` records for the launcher; the order matters only for `exec` and its `arg`s. */
export type LauncherRecords = [key: string, value: string | Buffer | number][];

/** How a launched program ended. */
export type LaunchEnd =
  | { kind: 'exit'; status: number }
  | { kind: 'signal'; signal: number }
  | { kind: 'error'; step: string; errno: string };

/** A running launcher. `fds` of the request appear to it from {@link FIRST_LAUNCH_FD} on, in order; 4 is `socket` for workers. */
export type Launched = {
  child: ChildProcess;
  /** The other end of descriptor 4; without a handle once it is closed. */
  socket: Duplex & { _handle: { fd: number } | null };
  /** Resolves when the program has been started; rejects with `E_INTERNAL` naming the step that failed. */
  started: Promise<void>;
  ended: Promise<LaunchEnd>;
  /** The process id of a held user namespace (mode `userns`). */
  usernsPid: Promise<number>;
  /** Resolves when the overlay's descriptor is on the socket (mode `overlay`). */
  mounted: Promise<void>;
  /** Ends the program at once; the launcher reaps it and tells the end. */
  kill(): void;
};

/** First descriptor number under which the launcher sees the `fds` that it is given. */
export const FIRST_LAUNCH_FD = 6;
const STATUS_FD = 5;

/**
 * Starts the launcher. Standard input, output and error are given as descriptors (or `pipe`, `ignore`); the caller keeps
 * its own ends and closes what it passed. Nothing of the request shows on a command line.
 */
export function launch(
  mode: LauncherMode,
  records: LauncherRecords,
  stdio: ['ignore' | 'pipe' | number, 'ignore' | 'pipe' | number, 'ignore' | 'pipe' | number],
  fds: number[],
  socketFd: number | 'pipe' = 'pipe',
): Launched {
  const request = encode([['status', STATUS_FD], ...records]);
  const child = spawn(LAUNCHER, [mode], { stdio: [...stdio, 'pipe', socketFd, 'pipe', ...fds], env: {}, cwd: '/' });
  // Without descriptors to spare there is neither a process nor its pipes; the error event comes later.
  child.on('error', () => {});
  const [, , , input, socket, status] = (child.stdio ?? []) as unknown as Duplex[];
  if (!input || !status) {
    throw new RootlayerError('E_BUSY', 'Cannot start the launcher: no descriptors or processes to spare', {
      hint: 'Try again later, or raise the limits of the daemon.',
    });
  }
  const report = readStatus(child, status);
  input.on('error', () => {}); // a launcher that died early says so on its status descriptor
  input.end(request);
  return { child, socket: socket as Launched['socket'], ...report, kill: () => end(child) };
}

const KILL_GRACE_MS = 2000;

/** The launcher ends its child on SIGTERM. Should it not answer, its own death takes the child with it. */
function end(child: ChildProcess): void {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), KILL_GRACE_MS);
  timer.unref();
  child.once('exit', () => clearTimeout(timer));
}

/** Keys whose values a stranger may have chosen: they come behind the end mark, where the launcher takes no others. */
const PROGRAM_KEYS = new Set(['env', 'exec', 'arg']);

/** NUL separates the records: a value that held one would be two. */
function encode(records: LauncherRecords): Buffer {
  const own = records.filter(([key]) => !PROGRAM_KEYS.has(key));
  const program = records.filter(([key]) => PROGRAM_KEYS.has(key));
  const parts: Buffer[] = [];
  for (const [key, value] of [...own, ['end', ''] as const, ...program]) {
    const bytes = Buffer.isBuffer(value) ? value : Buffer.from(String(value));
    if (bytes.includes(0)) throw new RootlayerError('E_INTERNAL', `Cannot start the launcher: the value of "${key}" holds a NUL byte`);
    parts.push(Buffer.from(`${key}=`), bytes, Buffer.of(0));
  }
  return Buffer.concat(parts);
}

/** Turns the status lines into promises; a launcher that ends without a word counts as an error of step `launcher`. */
function readStatus(child: ChildProcess, status: Duplex): Pick<Launched, 'started' | 'ended' | 'usernsPid' | 'mounted'> {
  const started = deferred<void>();
  const ended = deferred<LaunchEnd>();
  const usernsPid = deferred<number>();
  const mounted = deferred<void>();
  let failure: LaunchEnd | null = null;
  let text = '';
  const finish = (end: LaunchEnd): void => {
    const told = failure ?? end;
    const error = new RootlayerError('E_INTERNAL', `Cannot start the sandbox: ${describe(told)}`);
    started.reject(error);
    usernsPid.reject(error);
    mounted.reject(error);
    ended.resolve(told);
  };
  status.on('data', (chunk: Buffer) => {
    const lines = (text + chunk.toString('latin1')).split('\n');
    text = lines.pop() ?? '';
    for (const line of lines) {
      const [word, first = '', second = ''] = line.split(' ');
      if (word === 'started') started.resolve();
      else if (word === 'mounted') mounted.resolve();
      else if (word === 'userns') usernsPid.resolve(Number(first));
      else if (word === 'error') failure ??= { kind: 'error', step: first, errno: errnoName(Number(second)) };
      else if (word === 'exit') finish({ kind: 'exit', status: Number(first) });
      else if (word === 'signal') finish({ kind: 'signal', signal: Number(first) });
    }
  });
  status.on('error', () => {});
  status.on('close', () => finish({ kind: 'error', step: 'launcher', errno: 'EPIPE' }));
  child.on('error', (error) => finish({ kind: 'error', step: `launcher (${error.message})`, errno: 'ENOENT' }));
  return { started: started.promise, ended: ended.promise, usernsPid: usernsPid.promise, mounted: mounted.promise };
}

function describe(end: LaunchEnd): string {
  if (end.kind === 'error') return `step "${end.step}" failed with ${end.errno}`;
  return end.kind === 'exit' ? `it ended with status ${end.status}` : `it was ended by signal ${end.signal}`;
}
