import { RootlayerError } from '../core/errors.ts';

/** How much may wait and run; per caller and in all. */
export type QueueLimits = { running: number; runningPerUid: number; queuedPerUid: number; queued: number };

/** One waiting job: `start` is called when its turn comes and resolves when it has released everything. */
export type Waiting = { uid: number; id: string; start: () => Promise<void> };

/** A bounded queue, fair between callers: the next job is taken from the caller who has waited longest for a turn. */
export class JobQueue {
  readonly #limits: QueueLimits;
  readonly #waiting = new Map<number, Waiting[]>();
  readonly #running = new Map<number, number>();
  readonly #active = new Set<Promise<void>>();
  #closed = false;

  constructor(limits: QueueLimits) {
    this.#limits = limits;
  }

  /** Throws `E_BUSY` when the queue, or the caller's share of it, is full or the engine is closing. */
  admit(uid: number): void {
    if (this.#closed)
      throw new RootlayerError('E_BUSY', 'Cannot take the job: the daemon is stopping', { hint: 'Try again when it has restarted.' });
    const own = this.#waiting.get(uid)?.length ?? 0;
    const all = [...this.#waiting.values()].reduce((sum, jobs) => sum + jobs.length, 0);
    if (own >= this.#limits.queuedPerUid || all >= this.#limits.queued) {
      throw new RootlayerError('E_BUSY', `Cannot take the job: ${own} of yours are waiting, want at most ${this.#limits.queuedPerUid}`, {
        hint: 'Wait for one to end and try again.',
      });
    }
  }

  add(job: Waiting): void {
    const own = this.#waiting.get(job.uid) ?? [];
    own.push(job);
    this.#waiting.set(job.uid, own);
    this.#pump();
  }

  /** Takes a waiting job out; false when it has started or is unknown. */
  remove(id: string): boolean {
    for (const [uid, jobs] of this.#waiting) {
      const at = jobs.findIndex((job) => job.id === id);
      if (at < 0) continue;
      jobs.splice(at, 1);
      if (jobs.length === 0) this.#waiting.delete(uid);
      return true;
    }
    return false;
  }

  /** Takes nothing more; gives the jobs that were waiting. */
  close(): Waiting[] {
    this.#closed = true;
    const left = [...this.#waiting.values()].flat();
    this.#waiting.clear();
    return left;
  }

  /** Resolves when no job is running. */
  async idle(): Promise<void> {
    while (this.#active.size > 0) await Promise.all(this.#active);
  }

  #pump(): void {
    while (this.#active.size < this.#limits.running) {
      const next = this.#take();
      if (next === null) return;
      this.#begin(next);
    }
  }

  /** Callers are kept in the order of their last turn: whoever is served goes to the end. */
  #take(): Waiting | null {
    for (const [uid, jobs] of this.#waiting) {
      if ((this.#running.get(uid) ?? 0) >= this.#limits.runningPerUid) continue;
      const job = jobs.shift();
      this.#waiting.delete(uid);
      if (jobs.length > 0) this.#waiting.set(uid, jobs);
      if (job !== undefined) return job;
    }
    return null;
  }

  #begin(job: Waiting): void {
    this.#count(job.uid, 1);
    const done = job.start().finally(() => {
      this.#active.delete(done);
      this.#count(job.uid, -1);
      this.#pump();
    });
    this.#active.add(done);
  }

  #count(uid: number, change: number): void {
    const count = (this.#running.get(uid) ?? 0) + change;
    if (count === 0) this.#running.delete(uid);
    else this.#running.set(uid, count);
  }
}
