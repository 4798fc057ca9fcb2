import { setTimeout as sleep } from 'node:timers/promises';
import type { Session } from '../api/session.ts';
import { RootlayerError } from '../core/errors.ts';
import type { JobId } from '../core/ids.ts';

/** What one request takes. */
const MAX_PIECE_BYTES = 64 * 1024;
/** More than that waits for nothing that will ever be read: it is a paste that went wrong. */
const MAX_WAITING_BYTES = 4 * 1024 * 1024;
const RETRY_MS = 100;

/** Sends what is typed to a job, in its order, one request at a time. */
export class TerminalInput {
  readonly #session: Session;
  readonly #id: JobId;
  #waiting: Buffer = Buffer.alloc(0);
  #isSending = false;
  #isOver = false;

  constructor(session: Session, id: JobId) {
    this.#session = session;
    this.#id = id;
  }

  push(bytes: Buffer): void {
    if (bytes.length === 0 || this.#waiting.length + bytes.length > MAX_WAITING_BYTES) return;
    this.#waiting = Buffer.concat([this.#waiting, bytes]);
    if (!this.#isSending) void this.#sendAll();
  }

  /** Sends no more: what still waits is dropped. */
  stop(): void {
    this.#isOver = true;
  }

  async #sendAll(): Promise<void> {
    this.#isSending = true;
    while (this.#waiting.length > 0 && !this.#isOver) {
      const piece = this.#waiting.subarray(0, MAX_PIECE_BYTES);
      if (await this.#send(piece)) this.#waiting = this.#waiting.subarray(piece.length);
      else await sleep(RETRY_MS);
    }
    this.#isSending = false;
  }

  /** Gives false for a script that does not read yet. All else that fails is told by the events of the job: it has ended, or the daemon has. */
  async #send(piece: Buffer): Promise<boolean> {
    try {
      await this.#session.sendInput(this.#id, piece);
      return true;
    } catch (error) {
      return !(error instanceof RootlayerError && error.code === 'E_BUSY');
    }
  }
}
