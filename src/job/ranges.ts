import { RootlayerError } from '../core/errors.ts';
import { type IdMaps, openIdMaps, openUserNamespace, RANGE_SIZE } from '../host/idmap.ts';
import { close } from '../host/libc.ts';
import type { RangeLease } from './runner.ts';

/**
 * First host id of the store's own range; the jobs' ranges follow. Above systemd's container ranges and below 2^31,
 * where old programs stumble.
 */
export const DEFAULT_UID_BASE = 0x7000_0000;
/** Job ranges that fit between the default base and 2^31. */
export const MAX_RANGES = 256;

/** Hands out id ranges: each belongs to one job at a time, and is used again with the user namespaces it already has. */
export class RangePool {
  readonly #storeBase: number;
  readonly #free: IdMaps[] = [];
  readonly #all = new Set<IdMaps>();
  /** Bases whose namespaces could not be made. */
  readonly #spare: number[] = [];
  #making = 0;
  #next: number;
  #plain: Promise<number> | null = null;

  constructor(storeBase: number) {
    this.#storeBase = storeBase;
    this.#next = storeBase + RANGE_SIZE;
  }

  /** Throws `E_BUSY` when all ranges are in use. */
  async take(signal: AbortSignal): Promise<RangeLease> {
    signal.throwIfAborted();
    this.#plain ??= openUserNamespace([[this.#storeBase, 0, RANGE_SIZE]]).catch((error: unknown) => {
      this.#plain = null;
      throw error;
    });
    const plainFd = await this.#plain;
    const maps = this.#free.pop() ?? (await this.#make());
    return {
      maps,
      plainFd,
      [Symbol.asyncDispose]: async () => {
        this.#free.push(maps);
      },
    };
  }

  async #make(): Promise<IdMaps> {
    if (this.#all.size + this.#making >= MAX_RANGES)
      throw new RootlayerError('E_BUSY', `Cannot take an id range: all ${MAX_RANGES} are in use`);
    const base = this.#spare.pop() ?? this.#next;
    if (base === this.#next) this.#next += RANGE_SIZE;
    this.#making += 1;
    try {
      const maps = await openIdMaps(this.#storeBase, base);
      this.#all.add(maps);
      return maps;
    } catch (error) {
      this.#spare.push(base);
      throw error;
    } finally {
      this.#making -= 1;
    }
  }

  async close(): Promise<void> {
    for (const maps of this.#all) maps[Symbol.dispose]();
    this.#all.clear();
    this.#free.length = 0;
    if (this.#plain !== null) close(await this.#plain);
    this.#plain = null;
  }
}
