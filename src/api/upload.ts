import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';

/**
 * The body of a request as a stream of its own. Destroying a request closes its connection, and a reader that refuses an upload destroys what it
 * reads: with this in between, the answer still gets through. Reading begins with the first read.
 */
export class Upload extends Readable {
  readonly #request: IncomingMessage;
  #isReading = false;

  constructor(request: IncomingMessage) {
    super();
    this.#request = request;
  }

  override _read(): void {
    if (!this.#isReading) {
      this.#isReading = true;
      this.#request.on('data', this.#onData).once('end', this.#onEnd).once('error', this.#onError);
    }
    this.#request.resume();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#request.off('data', this.#onData).off('end', this.#onEnd);
    done(error);
  }

  #onData = (chunk: Buffer): void => {
    if (!this.push(chunk)) this.#request.pause();
  };

  #onEnd = (): void => {
    this.push(null);
  };

  #onError = (error: Error): void => {
    this.destroy(error);
  };
}
