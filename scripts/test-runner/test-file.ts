import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import process from 'node:process';
import { readLoopsBelow, readMountsBelow } from './leftovers.ts';
import { type Tally, TapTally } from './tally.ts';

/** One compiled test file that ran to its end. */
export type FileResult = {
  readonly tally: Tally;
  readonly durationMs: number;
  /** The end of what it wrote to standard error. */
  readonly errorTail: string;
};

/** How a test file is run. */
export type FileOptions = {
  /** Its own directory for temporary state; it is made here. */
  readonly stateDir: string;
  readonly timeoutMs: number;
  readonly env: NodeJS.ProcessEnv;
};

const TAIL_BYTES = 16_384;
/** Time for a test to clean up between SIGTERM and SIGKILL. */
const GRACE_MS = 10_000;

/**
 * Runs one test file with Node and counts its tests. What goes wrong around the tests counts as a failed test, too:
 * a crash, an end in time, processes, mounts or loop devices that are left.
 */
export async function runTestFile(file: string, options: FileOptions, signal: AbortSignal): Promise<FileResult> {
  mkdirSync(options.stateDir);
  const startedMs = performance.now();
  const child = spawn(process.execPath, ['--enable-source-maps', file], {
    // A process group of its own, to end all that the test started.
    detached: true,
    env: makeEnv(options),
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  child.stdin.end();
  const reader = new TapTally();
  const tail = new Tail();
  child.stdout.on('data', (chunk: Buffer) => reader.write(chunk));
  child.stderr.on('data', (chunk: Buffer) => tail.write(chunk));
  const guard = new Guard(child, options.timeoutMs, signal);
  const [status, killedBy] = await waitForEnd(child, guard);
  const tally = reader.end();
  const ends = guard.timedOut ? [`it did not end within ${options.timeoutMs / 1000} s`] : explainEnd(status, killedBy, tally);
  for (const detail of [...ends, ...findLeftovers(guard, options.stateDir)]) tally.failures.push({ name: 'the process', detail });
  return { tally, durationMs: performance.now() - startedMs, errorTail: tail.toString() };
}

function makeEnv(options: FileOptions): NodeJS.ProcessEnv {
  return {
    ...options.env,
    ROOTLAYER_TEST_DIR: options.stateDir,
    TMPDIR: options.stateDir,
    // node-tap's own limit (seconds) strikes first, because it can name the test.
    TAP_TIMEOUT: String(Math.max(1, options.timeoutMs / 1000 - 5)),
  };
}

type End = [status: number | null, signal: NodeJS.Signals | null];

/** Waits for the end of the process and of its output; a grandchild that holds a pipe does not hold the run up for ever. */
async function waitForEnd(child: ChildProcess, guard: Guard): Promise<End> {
  const closed = once(child, 'close');
  const [status, killedBy] = (await once(child, 'exit')) as End;
  guard.onExit();
  await closed;
  guard.stop();
  return [status, killedBy];
}

function explainEnd(status: number | null, killedBy: NodeJS.Signals | null, tally: Tally): string[] {
  if (killedBy !== null) return [`it was ended by ${killedBy}`];
  if (status !== 0 && tally.failures.length === 0) return [`it ended with status ${status} though no test failed`];
  return [];
}

function findLeftovers(guard: Guard, stateDir: string): string[] {
  return [
    ...(guard.leftProcesses ? ['it left processes running'] : []),
    ...readMountsBelow(stateDir).map((mount) => `it left the mount ${mount}`),
    ...readLoopsBelow(stateDir).map((device) => `it left the loop device ${device}`),
  ];
}

/** Ends the process group when its time is over, when the run is cancelled, and what is left of it after the test itself. */
class Guard {
  timedOut = false;
  leftProcesses = false;
  readonly #child: ChildProcess;
  readonly #signal: AbortSignal;
  readonly #timer: NodeJS.Timeout;
  readonly #onAbort = (): void => this.#end();
  #killTimer: NodeJS.Timeout | undefined;

  constructor(child: ChildProcess, timeoutMs: number, signal: AbortSignal) {
    this.#child = child;
    this.#signal = signal;
    this.#timer = setTimeout(() => {
      this.timedOut = true;
      this.#end();
    }, timeoutMs);
    if (signal.aborted) this.#end();
    else signal.addEventListener('abort', this.#onAbort, { once: true });
  }

  onExit(): void {
    this.leftProcesses = !this.timedOut && !this.#signal.aborted && hasLiveProcess(this.#child.pid ?? 0);
    this.#kill('SIGKILL');
  }

  stop(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#killTimer);
    this.#signal.removeEventListener('abort', this.#onAbort);
  }

  #end(): void {
    this.#kill('SIGTERM');
    this.#killTimer = setTimeout(() => this.#kill('SIGKILL'), GRACE_MS);
  }

  /** Tells whether the group still has a process. */
  #kill(signal: NodeJS.Signals | 0): boolean {
    if (this.#child.pid === undefined) return false;
    try {
      return process.kill(-this.#child.pid, signal);
    } catch {
      return false;
    }
  }
}

const SETTLE_TRIES = 40;
const SETTLE_MS = 50;

/**
 * Whether a process of the group still runs. What has ended and only waits for the machine's init to take note does not count, and
 * what a killed daemon takes down with it gets two seconds.
 */
function hasLiveProcess(group: number): boolean {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  for (let tries = 0; tries < SETTLE_TRIES; tries++) {
    if (!readStates(group).some((state) => state !== 'Z' && state !== 'X')) return false;
    Atomics.wait(pause, 0, 0, SETTLE_MS);
  }
  return true;
}

/** The states of a group's processes (proc_pid_stat(5): the fields behind the name in parentheses are state, parent, group). */
function readStates(group: number): string[] {
  return readdirSync('/proc').flatMap((pid) => {
    if (!/^\d+$/.test(pid)) return [];
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
      const [state = '', , processGroup] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return processGroup === String(group) ? [state] : [];
    } catch {
      return [];
    }
  });
}

/** Keeps the last bytes of a stream. */
class Tail {
  #kept = Buffer.alloc(0);

  write(chunk: Buffer): void {
    this.#kept = Buffer.concat([this.#kept, chunk]).subarray(-TAIL_BYTES);
  }

  toString(): string {
    return this.#kept.toString('utf8').trimEnd();
  }
}
