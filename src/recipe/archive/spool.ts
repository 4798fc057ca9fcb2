import { randomBytes } from 'node:crypto';
import { closeSync, openSync, unlinkSync, write } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { RootlayerError } from '../../core/errors.ts';
import { rangeOf } from './members.ts';

const writeAsync = promisify(write);

function openNameless(directory: string): number {
  const file = path.join(directory, `rootlayer-image-${randomBytes(8).toString('hex')}`);
  try {
    const fd = openSync(file, 'wx+', 0o600);
    unlinkSync(file);
    return fd;
  } catch (error) {
    const what = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    throw new RootlayerError('E_SYSCALL', `Cannot make a temporary file in "${directory}": ${what}`, {
      hint: 'Set TMPDIR to a directory that can be written.',
      cause: error,
    });
  }
}

/** Bytes on disk that must be read at any place, in a file without a name: it is gone with the process, however that ends. Dispose it to free them. */
export class Spool implements AsyncDisposable {
  readonly #name: Buffer;
  #fd: number | null;
  #sizeBytes = 0;

  /** Takes the directory for temporary files; `name` is what messages call the bytes. Throws `E_SYSCALL` when nothing can be made there. */
  constructor(name: string) {
    this.#name = Buffer.from(name);
    this.#fd = openNameless(tmpdir());
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
