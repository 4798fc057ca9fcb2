import { RootlayerError } from '../../core/errors.ts';
import type { TarReader } from '../../core/tar/reader.ts';
import type { StreamHash } from './stream-hash.ts';
import type { UnpackLimits } from './unpack-protocol.ts';

/** Takes the uncompressed bytes of a layer: counts them against the limits, hashes them, and has them read as a tar. */
export class LayerSink {
  /** Uncompressed bytes so far. */
  bytes = 0;
  readonly #hash: StreamHash;
  readonly #reader: TarReader;
  readonly #limits: UnpackLimits;
  /** Uncompressed bytes beyond which the compressed ones are too few for them. */
  readonly #ratioBytes: number;

  /** `compressedBytes` is the size of the whole blob, or null when it is not compressed. */
  constructor(hash: StreamHash, reader: TarReader, limits: UnpackLimits, compressedBytes: number | null) {
    this.#hash = hash;
    this.#reader = reader;
    this.#limits = limits;
    this.#ratioBytes =
      compressedBytes === null ? Number.POSITIVE_INFINITY : Math.max(limits.ratioFloorBytes, limits.maxRatio * compressedBytes);
  }

  /** A buffer to fill. */
  take(): Buffer {
    return this.#hash.take();
  }

  /**
   * Processes the first bytes of the buffer taken last. Throws `E_LIMIT_UNPACKED`, `E_LIMIT_RATIO`, and what the reader and its handler
   * throw.
   */
  give(slot: Buffer, length: number): void {
    this.bytes += length;
    if (this.bytes > this.#limits.maxUnpackedBytes) {
      throw new RootlayerError('E_LIMIT_UNPACKED', `Cannot unpack layer: it has more than ${this.#limits.maxUnpackedBytes} bytes`);
    }
    if (this.bytes > this.#ratioBytes) {
      throw new RootlayerError(
        'E_LIMIT_RATIO',
        `Cannot unpack layer: it expands to more than ${this.#limits.maxRatio} times its compressed size`,
      );
    }
    this.#hash.give(length);
    this.#reader.write(slot.subarray(0, length));
  }

  /** Like take and give, for bytes that lie elsewhere. */
  write(chunk: Buffer): void {
    for (let at = 0; at < chunk.length; ) {
      const slot = this.take();
      const length = chunk.copy(slot, 0, at);
      this.give(slot, length);
      at += length;
    }
  }
}
