import { readSync, writeSync } from 'node:fs';
import { RootlayerError } from '../core/errors.ts';
import { type HashRing, SLOT_BYTES } from './hash-ring.ts';

/** The sums and size of a finished tar. */
export type TarSums = { diffId: string; tarsum: string; sizeBytes: number };

/** Collects a tar in the slots of a ring: full slots are summed by its threads while they are written to the output file. */
export class TarOutput {
  readonly #fd: number;
  readonly #ring: HashRing;
  readonly #maxBytes: number;
  readonly #onProgress: (bytes: number) => void;
  #slot: Buffer;
  #filled = 0;
  #written = 0;

  /** The descriptor stays the caller's. */
  constructor(fd: number, ring: HashRing, maxBytes: number, onProgress: (bytes: number) => void) {
    this.#fd = fd;
    this.#ring = ring;
    this.#maxBytes = maxBytes;
    this.#onProgress = onProgress;
    this.#slot = ring.slot();
  }

  /** Bytes so far. */
  get sizeBytes(): number {
    return this.#written + this.#filled;
  }

  /** Throws `E_LIMIT_RESULT` when that many more bytes would pass the limit. Ask before every header and body. */
  reserve(bytes: number, describe: () => string): void {
    const total = this.sizeBytes + bytes;
    if (total <= this.#maxBytes) return;
    throw new RootlayerError(
      'E_LIMIT_RESULT',
      `Cannot capture ${describe()}: with it the layer has ${total} bytes, want at most ${this.#maxBytes}`,
    );
  }

  write(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const copied = bytes.copy(this.#slot, this.#filled, at);
      at += copied;
      this.#advance(copied);
    }
  }

  /**
   * Copies the whole of an open file. Gives false, with what was read written, when it does not have exactly `size` bytes.
   * Asking for one byte more than is left tells a file that has grown without another call.
   */
  copyFile(fd: number, size: number): boolean {
    for (let left = size; ; ) {
      const room = SLOT_BYTES - this.#filled;
      const wanted = Math.min(left + 1, room);
      const length = readSync(fd, this.#slot, this.#filled, wanted, null);
      if (length > left) return false;
      left -= length;
      this.#advance(length);
      if (left === 0 && length < wanted) return true;
      if (length === 0) return false;
    }
  }

  /** Writes what is left and gives the sums. */
  finish(): TarSums {
    this.#flush();
    const { diffid, tarsum } = this.#ring.finish();
    return { diffId: diffid, tarsum, sizeBytes: this.#written };
  }

  /** Gives up; the output file is then of no use. */
  abort(): void {
    this.#ring.abort();
  }

  #advance(length: number): void {
    this.#filled += length;
    if (this.#filled === SLOT_BYTES) this.#flush();
  }

  #flush(): void {
    if (this.#filled === 0) return;
    this.#ring.publish(this.#filled);
    for (let at = 0; at < this.#filled; ) at += writeSync(this.#fd, this.#slot, at, this.#filled - at);
    this.#written += this.#filled;
    this.#filled = 0;
    this.#onProgress(this.#written);
    this.#slot = this.#ring.slot();
  }
}
