import type { LimitName, Limits } from '../core/limits.ts';
import type { CgroupUsage } from '../host/cgroup.ts';

/** A limit that was reached: its value, and the peak where it is known. */
export type ReachedLimit = { limit: LimitName; value: number; peak: number | null };

/** What the watch looks at. */
export type Watched = {
  limits: Limits;
  outputBytes(): number;
  lastOutputMs(): number;
  usage(): CgroupUsage;
  /** Ends the job. */
  kill(): void;
};

const INTERVAL_MS = 100;

/**
 * Ends a running job at the first limit that the kernel does not end it at by itself: time, silence, output, and memory (the kernel
 * may kill one process of many; the job would go on half dead). Clocks are monotonic. Dispose stops the watch.
 */
export class LimitWatch implements Disposable {
  /** The limit that ended the job, if one did. */
  reached: ReachedLimit | null = null;
  readonly #watched: Watched;
  readonly #deadline: NodeJS.Timeout;
  readonly #ticker: NodeJS.Timeout;
  readonly #startMs = performance.now();

  constructor(watched: Watched) {
    this.#watched = watched;
    const { timeMs } = watched.limits;
    this.#deadline = setTimeout(() => this.#end({ limit: 'time', value: timeMs, peak: timeMs }), Math.min(timeMs, 2 ** 31 - 1));
    this.#ticker = setInterval(() => this.#check(), INTERVAL_MS);
  }

  /** To be called on each output too, so that a flood is stopped at once and not at the next tick. */
  checkOutput(): void {
    const { outputBytes } = this.#watched.limits;
    const bytes = this.#watched.outputBytes();
    if (bytes > outputBytes) this.#end({ limit: 'output', value: outputBytes, peak: bytes });
  }

  #check(): void {
    const { silenceMs, memoryBytes } = this.#watched.limits;
    const quietMs = performance.now() - Math.max(this.#watched.lastOutputMs(), this.#startMs);
    if (silenceMs > 0 && quietMs > silenceMs) this.#end({ limit: 'silence', value: silenceMs, peak: Math.round(quietMs) });
    const usage = this.#watched.usage();
    if (usage.oomKills > 0) this.#end({ limit: 'memory', value: memoryBytes, peak: usage.memoryPeakBytes });
  }

  #end(reached: ReachedLimit): void {
    if (this.reached !== null) return;
    this.reached = reached;
    this.#watched.kill();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#deadline);
    clearInterval(this.#ticker);
  }
}

/** What is known once a job has ended, to tell which limit made its script fail. */
export type Aftermath = { usage: CgroupUsage; exitStatus: number; bytesLeft: number; inodesLeft: number; diskBytesUsed: number };

/**
 * Free space below which a failing script has most likely met the limit: the write that fails is larger than what is left, and
 * ext4 keeps some blocks for its own metadata. The kernel counts no refused writes that could be asked for.
 */
function fullBytes(diskBytes: number): number {
  return Math.max(2 * 1024 * 1024, diskBytes / 128);
}
const FULL_INODES = 1;

/** Names the limit that a script with a failing status ran into, from what the kernel counted; null when none did. */
export function limitBehindFailure(limits: Limits, after: Aftermath): ReachedLimit | null {
  if (after.usage.oomKills > 0) return { limit: 'memory', value: limits.memoryBytes, peak: after.usage.memoryPeakBytes };
  if (after.exitStatus === 0) return null;
  if (after.bytesLeft < fullBytes(limits.diskBytes) || after.inodesLeft < FULL_INODES) {
    return { limit: 'disk', value: limits.diskBytes, peak: after.diskBytesUsed };
  }
  if (after.usage.forksRefused > 0) return { limit: 'pids', value: limits.pids, peak: after.usage.pidsPeak };
  return null;
}
