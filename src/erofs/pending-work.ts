import { type Deferred, deferred } from '../core/deferred.ts';

/** Pieces of work that go on while the caller goes on too; the first failure of one is everybody's. */
export class PendingWork {
  readonly #most: number;
  #count = 0;
  #failures: unknown[] = [];
  #change: Deferred<void> = deferred();

  /** Waits, when asked to, until fewer than `most` are under way. */
  constructor(most: number) {
    this.#most = most;
  }

  /** Whether {@link room} would wait. */
  get isFull(): boolean {
    return this.#count >= this.#most || this.#failures.length > 0;
  }

  /** Takes note of work that has begun. */
  add(work: Promise<void>): void {
    this.#count += 1;
    const settle = (): void => {
      this.#count -= 1;
      const { resolve } = this.#change;
      this.#change = deferred();
      resolve();
    };
    work.then(settle, (error: unknown) => {
      this.#failures.push(error);
      settle();
    });
  }

  /** Resolves when there is room for more. Throws what failed. */
  async room(): Promise<void> {
    while (this.#failures.length === 0 && this.#count >= this.#most) await this.#change.promise;
    if (this.#failures.length > 0) throw this.#failures[0];
  }

  /** Resolves when nothing is under way. Throws what failed. */
  async done(): Promise<void> {
    await this.settled();
    if (this.#failures.length > 0) throw this.#failures[0];
  }

  /** Resolves when nothing is under way, also after a failure. */
  async settled(): Promise<void> {
    while (this.#count > 0) await this.#change.promise;
  }
}
