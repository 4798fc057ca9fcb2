import { createHash } from 'node:crypto';
import { Writable } from 'node:stream';
import { type Deferred, deferred } from '../../core/deferred.ts';
import { type Digest, digestOf } from '../../core/digest.ts';
import { RootlayerError } from '../../core/errors.ts';

type Done = (error?: Error | null) => void;

/** What tells gzip and zstd from anything else. */
const HEAD_BYTES = 4;

/**
 * Counts and hashes the bytes of an upload and hands them on, as fast as they are taken. The first bytes can be looked at before it is decided
 * where all of them go. Fails with `E_LIMIT_INGEST` beyond `maxBytes`.
 */
export class SourceFeed extends Writable {
  readonly #hash = createHash('sha256');
  readonly #maxBytes: number;
  readonly #head: Deferred<Buffer> = deferred();
  #target: Writable | null = null;
  /** What came before the target, and who waits for it to be taken. */
  #held: Buffer[] = [];
  #waiting: (() => void) | null = null;
  #bytes = 0;

  constructor(maxBytes: number) {
    super({ highWaterMark: 256 * 1024 });
    this.#maxBytes = maxBytes;
  }

  /** The first four bytes or more, or all of a shorter upload. Rejects when the feed fails before. */
  get head(): Promise<Buffer> {
    return this.#head.promise;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Of all bytes, once the feed has finished. */
  digest(): Digest {
    return digestOf(this.#hash.digest());
  }

  /** Says where the bytes go; what was held back goes first. The target is ended with the upload. */
  attach(target: Writable): void {
    this.#target = target;
    for (const chunk of this.#held) target.write(chunk);
    this.#held = [];
    this.#waiting?.();
    this.#waiting = null;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: Done): void {
    this.#bytes += chunk.length;
    if (this.#bytes > this.#maxBytes) {
      done(new RootlayerError('E_LIMIT_INGEST', `Cannot take upload: it has more than ${this.#maxBytes} bytes`));
      return;
    }
    this.#hash.update(chunk);
    if (this.#target !== null) {
      this.#target.write(chunk, done);
      return;
    }
    this.#held.push(chunk);
    if (this.#bytes < HEAD_BYTES) {
      done();
      return;
    }
    this.#waiting = () => done();
    this.#head.resolve(Buffer.concat(this.#held));
  }

  override _final(done: Done): void {
    const finish = (): void => {
      this.#target?.end(done);
    };
    if (this.#target !== null) {
      finish();
      return;
    }
    this.#waiting = finish;
    this.#head.resolve(Buffer.concat(this.#held));
  }

  override _destroy(error: Error | null, done: Done): void {
    this.#head.reject(error ?? new Error('the feed was destroyed'));
    this.#target?.destroy();
    done(error);
  }
}
