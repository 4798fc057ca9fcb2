import { RootlayerError } from '../core/errors.ts';
import type { TerminalSize } from '../core/job.ts';
import { Pty, type PtyEnds } from '../host/pty.ts';
import type { SandboxStdio } from '../isolation/sandbox.ts';
import { type OutputSink, OutputText, type ScriptOutput } from './output.ts';

/** The terminal of a running script, wherever it is. */
export type TerminalDevice = {
  /** Types bytes; none are the end of input. Resolves once more can be taken. */
  write(bytes: Buffer): Promise<void>;
  resize(size: TerminalSize): void;
};

/** What may wait for a script that does not read. */
const MAX_WAITING_BYTES = 1024 * 1024;
/** Typed at once, so that little is lost track of in between. */
const MAX_PIECE_BYTES = 4096;

/** Bytes in their order, in pieces that are filled one after the other: each byte is copied once, however few come at a time. */
class Pieces {
  readonly #pieces: Buffer[] = [];
  /** Of the last piece. */
  #filled = 0;

  push(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const copied = bytes.copy(this.#last(), this.#filled, at);
      this.#filled += copied;
      at += copied;
    }
  }

  /** A piece with room. */
  #last(): Buffer {
    const last = this.#pieces.at(-1);
    if (last !== undefined && this.#filled < last.length) return last;
    const added = Buffer.alloc(MAX_PIECE_BYTES);
    this.#pieces.push(added);
    this.#filled = 0;
    return added;
  }

  /** The oldest piece, as far as it is filled; null when there is none. */
  shift(): Buffer | null {
    const first = this.#pieces.shift() ?? null;
    return this.#pieces.length === 0 ? (first?.subarray(0, this.#filled) ?? null) : first;
  }

  clear(): void {
    this.#pieces.length = 0;
  }
}

/** What users type at a job's terminal, in the order in which it came, as fast as the script takes it. */
export class JobTerminal {
  readonly #device: TerminalDevice;
  readonly #waiting = new Pieces();
  /** With the piece that the device is taking. */
  #waitingBytes = 0;
  #hasEnded = false;
  #isTyping = false;

  constructor(device: TerminalDevice) {
    this.#device = device;
  }

  /** Takes bytes; none are the end of input. Throws `E_BUSY` while too much waits already, `E_CONFLICT` behind the end. */
  send(bytes: Buffer): void {
    if (this.#hasEnded) throw new RootlayerError('E_CONFLICT', 'Cannot type at the terminal: the end of its input has been sent');
    if (this.#waitingBytes + bytes.length > MAX_WAITING_BYTES) {
      throw new RootlayerError('E_BUSY', `Cannot type at the terminal: the script has not read ${this.#waitingBytes} bytes yet`, {
        hint: 'Send it again when the script has read some of them.',
      });
    }
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    this.#hasEnded = bytes.length === 0;
    if (!this.#isTyping) void this.#type();
  }

  /** A device that fails is a script that has ended: what is typed goes nowhere. */
  async #type(): Promise<void> {
    this.#isTyping = true;
    try {
      for (let piece = this.#waiting.shift(); piece !== null; piece = this.#waiting.shift()) {
        await this.#device.write(piece);
        this.#waitingBytes -= piece.length;
      }
      if (this.#hasEnded) await this.#device.write(Buffer.alloc(0));
    } catch {
      this.#waiting.clear();
      this.#waitingBytes = 0;
    } finally {
      this.#isTyping = false;
    }
  }

  resize(size: TerminalSize): void {
    this.#device.resize(size);
  }
}

/** The terminal of a job in namespaces: a pty that the sandbox makes. */
export class TerminalOutput implements ScriptOutput {
  readonly stdio: SandboxStdio;
  bytes = 0;
  lastMs = performance.now();
  readonly #text: OutputText;
  #pty: Pty | null = null;

  constructor(size: TerminalSize, sink: OutputSink, onOpen: (device: TerminalDevice) => void) {
    this.#text = new OutputText('stdout', sink);
    this.stdio = {
      kind: 'terminal',
      size,
      onOpen: (ends) => onOpen(this.#open(ends)),
    };
  }

  #open(ends: PtyEnds): Pty {
    this.#pty = new Pty(ends, (chunk) => {
      this.bytes += chunk.length;
      this.lastMs = performance.now();
      this.#text.push(chunk);
    });
    return this.#pty;
  }

  /** The sandbox opens the far end by itself. */
  closeWriters(): void {}

  async drained(): Promise<void> {
    this.#pty?.finish();
    this.#text.end();
  }

  destroy(): void {
    this.#pty?.destroy();
  }
}
