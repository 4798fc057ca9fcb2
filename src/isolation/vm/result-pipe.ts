import { Socket } from 'node:net';
import { type Deferred, deferred } from '../../core/deferred.ts';
import { RootlayerError } from '../../core/errors.ts';
import { close, makePipe, setPipeSize } from '../../host/libc.ts';

const PIPE_BYTES = 1024 * 1024;

/** Carries the bytes of a result to whoever reads {@link fd}, counts them, and holds back a guest that is faster than the reader. */
export class ResultPipe {
  /** The end to read from, until {@link closeReader}. */
  readonly fd: number;
  /** Bytes of the whole result; rejects when it will never be whole. */
  readonly done: Promise<number>;
  readonly #outcome: Deferred<number> = deferred();
  readonly #writer: Socket;
  readonly #maxBytes: number;
  #bytes = 0;
  #isReaderOpen = true;

  constructor(maxBytes: number) {
    const [readEnd, writeEnd] = makePipe();
    setPipeSize(writeEnd, PIPE_BYTES);
    this.fd = readEnd;
    this.done = this.#outcome.promise;
    this.#maxBytes = maxBytes;
    this.#writer = new Socket({ fd: writeEnd, readable: false, writable: true });
    this.#writer.on('error', () => this.fail(readerGone()));
  }

  /** Gives false when there is no room at the moment: see {@link onceDrained}. Throws `E_LIMIT_RESULT`. */
  write(bytes: Buffer): boolean {
    this.#bytes += bytes.length;
    if (this.#bytes > this.#maxBytes) {
      throw new RootlayerError('E_LIMIT_RESULT', `Cannot take the result of the virtual machine: more than ${this.#maxBytes} bytes`, {
        hint: 'The script wrote more than its disk limit could hold, or the guest makes it up.',
      });
    }
    return this.#writer.write(bytes);
  }

  /** Calls back when there is room again. */
  onceDrained(callback: () => void): void {
    this.#writer.once('drain', callback);
  }

  /** Everything has been written. Once the reader has all of it but what a pipe holds, {@link done} resolves. */
  end(): void {
    this.#writer.end((error?: Error | null) => {
      if (error === undefined || error === null) this.#outcome.resolve(this.#bytes);
      else this.fail(readerGone());
    });
  }

  /** The result will never be whole; the reader sees its end. */
  fail(error: RootlayerError): void {
    this.#outcome.reject(error);
    this.#writer.destroy();
  }

  /** Nobody will read any more. Idempotent. */
  closeReader(): void {
    if (this.#isReaderOpen) close(this.fd);
    this.#isReaderOpen = false;
  }
}

function readerGone(): RootlayerError {
  return new RootlayerError('E_WORKER', 'Cannot take the result of the virtual machine: its reader is gone');
}
