import { startWorker, type Worker, type WorkerKind } from './worker.ts';

/**
 * Keeps one confined worker started and unused, so that the next request finds it ready. A worker serves one request only: what it has
 * read was written by a stranger, and must not meet the next stranger's files.
 */
export class WorkerPool {
  readonly #kind: WorkerKind;
  readonly #life = new AbortController();
  #idle: Promise<Worker> | null = null;
  readonly #used = new Set<Promise<void>>();

  constructor(kind: WorkerKind) {
    this.#kind = kind;
  }

  /** Starts the idle worker if there is none; when it fails, another is started once it is wanted. */
  prepare(): void {
    if (this.#idle !== null || this.#life.signal.aborted) return;
    this.#idle = startWorker(this.#kind, [], this.#life.signal);
    this.#idle.catch(() => {});
  }

  /** Gives the idle worker, or a new one. Disposing it ends it. Throws `E_WORKER`. */
  async take(): Promise<Worker> {
    this.prepare();
    const worker = this.#idle;
    this.#idle = null;
    if (worker === null) throw this.#life.signal.reason;
    const ready = await worker.catch(() => null);
    if (ready?.hasEnded === false) return ready;
    // Killed before it had anything to do, by an operator or for want of memory: that is no fault of the request.
    if (ready !== null) this.release(ready);
    return await startWorker(this.#kind, [], this.#life.signal);
  }

  /** Ends a worker without waiting for it; {@link close} waits. */
  release(worker: Worker): void {
    const ended = Promise.resolve(worker[Symbol.asyncDispose]()).finally(() => this.#used.delete(ended));
    this.#used.add(ended);
  }

  async close(): Promise<void> {
    const idle = this.#idle;
    this.#idle = null;
    this.#life.abort(new Error('the worker pool is closed'));
    if (idle !== null)
      await idle.then(
        (worker) => worker[Symbol.asyncDispose](),
        () => {},
      );
    await Promise.all(this.#used);
  }
}
