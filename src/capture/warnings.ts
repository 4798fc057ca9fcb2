import { escapeName } from '../core/names.ts';

/** Kinds of warning that are kept apart; further ones are counted together. */
const MAX_KINDS = 50;

/** Collects what a capture leaves out: one line a kind, with a count and the first path, however many files there are. */
export class Warnings {
  readonly #kinds = new Map<string, { count: number; first: string }>();

  /** `what` completes the sentence "left out …", in the singular, such as `a socket, which layers cannot hold`. */
  add(what: string, path: Buffer): void {
    const key = this.#kinds.has(what) || this.#kinds.size < MAX_KINDS ? what : 'something else';
    const kind = this.#kinds.get(key);
    if (kind === undefined) this.#kinds.set(key, { count: 1, first: escapeName(path) });
    else kind.count += 1;
  }

  lines(): string[] {
    return [...this.#kinds].map(([what, { count, first }]) => {
      const others = count === 1 ? '' : ` and ${count - 1} more`;
      return `left out ${what}: "${first}"${others}`;
    });
  }
}
