import { randomBytes } from 'node:crypto';
import { closeSync, openSync, unlinkSync, write } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { rangeOf } from './members.ts';

const writeAsync = promisify(write);

/** Bytes on disk that must be read at any place, in a file without a name: it is gone with the process, however that ends. Dispose it to free them. */
export class Spool implements AsyncDisposable {
  readonly #name: Buffer;
  #fd: number | null;
  #sizeBytes = 0;

  /** Takes the directory for temporary files; `name` is what messages call the bytes. */
  constructor(name: string) {
    this.#name = Buffer.from(name);
    const file = path.join(tmpdir(), `rootlayer-image-${randomBytes(8).toString('hex')}`);
    this.#fd = openSync(file, 'wx+', 0o600);
    unlinkSync(file);
  }

  /** The descriptor, to be read by position. */
  get fd(): number {
    if (this.#fd === null) throw new Error(`Cannot read "${this.#name.toString()}": it has been disposed of`);
    return this.#fd;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Adds bytes at the end. */
  async append(chunk: Buffer): Promise<void> {
    for (let at = 0; at < chunk.length; ) {
      const { bytesWritten } = await writeAsync(this.fd, chunk, at, chunk.length - at, this.#sizeBytes);
      at += bytesWritten;
      this.#sizeBytes += bytesWritten;
    }
  }

  /** Gives some of the bytes. */
  openRange(start: number, sizeBytes: number, signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
    return rangeOf(this.fd, start, sizeBytes, this.#name, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#fd !== null) closeSync(this.#fd);
    this.#fd = null;
  }
}
