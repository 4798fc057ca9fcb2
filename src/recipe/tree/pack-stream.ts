import { createHash } from 'node:crypto';
import { type DiffId, digestOf } from '../../core/digest.ts';
import { BLOCK, zeros } from '../../core/tar/layout.ts';
import { TarReader } from '../../core/tar/reader.ts';
import { TarSum, tarsumHandler } from '../../core/tarsum.ts';

/** What a layer's tar is: its sums, its size in bytes, and how many members it has. */
export type LayerFacts = {
  readonly diffId: DiffId;
  /** Version 1, sha256. */
  readonly tarsum: string;
  readonly sizeBytes: number;
  readonly entries: number;
};

/** A layer that can be read as often as wanted, always with the same bytes. */
export type LayerTar = LayerFacts & { open(signal: AbortSignal): AsyncIterable<Buffer> };

/** Takes the sums of a tar while it passes. */
export class LayerMeter {
  readonly #hash = createHash('sha256');
  readonly #sum = new TarSum();
  readonly #reader = new TarReader(tarsumHandler(this.#sum));
  #sizeBytes = 0;

  /** Hands the chunks on. Throws what {@link TarReader} throws for what is no tar. */
  async *pass(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void, undefined> {
    for await (const chunk of chunks) {
      this.#hash.update(chunk);
      this.#reader.write(chunk);
      this.#sizeBytes += chunk.length;
      yield chunk;
    }
    this.#reader.end();
  }

  /** Gives the facts, once all has passed. */
  facts(): LayerFacts {
    return {
      diffId: digestOf(this.#hash.digest()) as DiffId,
      tarsum: this.#sum.digest(),
      sizeBytes: this.#sizeBytes,
      entries: this.#reader.entries,
    };
  }
}

/** Reads a layer once for its facts; what it opens must give the same bytes each time. */
export async function measured(open: LayerTar['open'], signal: AbortSignal): Promise<LayerTar> {
  const meter = new LayerMeter();
  const chunks = meter.pass(open(signal));
  for (let next = await chunks.next(); next.done !== true; next = await chunks.next()) signal.throwIfAborted();
  return { ...meter.facts(), open };
}

/** Output below this is joined before it is handed on: a member of a few bytes is no reason to wake the reader. */
const BATCH_BYTES = 256 * 1024;

/** Joins small pieces to larger ones. */
export class Batch {
  #pieces: Buffer[] = [];
  #size = 0;
  #total = 0;

  /** Bytes that are held back. */
  get size(): number {
    return this.#size;
  }

  /** Bytes added in all. */
  get total(): number {
    return this.#total;
  }

  /** Gives all that is held back once it is worth it, else null. */
  add(piece: Buffer): Buffer | null {
    this.#pieces.push(piece);
    this.#size += piece.length;
    this.#total += piece.length;
    return this.#size < BATCH_BYTES ? null : this.take();
  }

  /** Gives all that is held back. */
  take(): Buffer {
    const [only] = this.#pieces;
    const joined = this.#pieces.length === 1 && only !== undefined ? only : Buffer.concat(this.#pieces, this.#size);
    this.#pieces = [];
    this.#size = 0;
    return joined;
  }
}

/** Blocks in a record of GNU tar and Python's tarfile: both fill up the last one. */
const RECORD = 20 * BLOCK;

/** Gives the zeros that fill up the last record of an archive of so many bytes. */
export function recordPadding(total: number): Buffer[] {
  const missing = (RECORD - (total % RECORD)) % RECORD;
  return missing === 0 ? [] : [zeros(missing)];
}
