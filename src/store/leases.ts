import type { Digest } from '../core/digest.ts';

/** What a lease keeps: a blob or an unpacked layer. */
export type LeaseKey = `blob ${Digest}` | `layer ${Digest}`;

/** Counts in memory what is in use. A process that dies uses nothing, so nothing of it is on disk. */
export class LeaseTable {
  readonly #counts = new Map<LeaseKey, number>();

  isHeld(key: LeaseKey): boolean {
    return this.#counts.has(key);
  }

  /** Keeps these until the function it gives is called; a second call of that does nothing. */
  acquire(keys: Iterable<LeaseKey>): () => void {
    const held = [...new Set(keys)];
    for (const key of held) this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1);
    let isReleased = false;
    return () => {
      if (isReleased) return;
      isReleased = true;
      for (const key of held) this.#drop(key);
    };
  }

  #drop(key: LeaseKey): void {
    const left = (this.#counts.get(key) ?? 0) - 1;
    if (left > 0) this.#counts.set(key, left);
    else this.#counts.delete(key);
  }
}
