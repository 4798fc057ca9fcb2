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

/** What users type at a job's terminal, in the order in which it came, as fast as the script takes it. */
export class JobTerminal {
  readonly #device: TerminalDevice;
  #waiting: Buffer = Buffer.alloc(0);
  #hasEnded = false;
  #isTyping = false;

  constructor(device: TerminalDevice) {
    this.#device = device;
  }

  /** Takes bytes; none are the end of input. Throws `E_BUSY` while too much waits already, `E_CONFLICT` behind the end. */
  send(bytes: Buffer): void {
    if (this.#hasEnded) throw new RootlayerError('E_CONFLICT', 'Cannot type at the terminal: the end of its input has been sent');
    if (this.#waiting.length + bytes.length > MAX_WAITING_BYTES) {
      throw new RootlayerError('E_BUSY', `Cannot type at the terminal: the script has not read ${this.#waiting.length} bytes yet`, {
        hint: 'Send it again when the script has read some of them.',
      });
    }
    this.#waiting = Buffer.concat([this.#waiting, bytes]);
    this.#hasEnded = bytes.length === 0;
    if (!this.#isTyping) void this.#type();
  }

  /** A device that fails is a script that has ended: what is typed goes nowhere. */
  async #type(): Promise<void> {
    this.#isTyping = true;
    try {
      while (this.#waiting.length > 0) {
        const piece = this.#waiting.subarray(0, MAX_PIECE_BYTES);
        await this.#device.write(piece);
        this.#waiting = this.#waiting.subarray(piece.length);
      }
      if (this.#hasEnded) await this.#device.write(Buffer.alloc(0));
    } catch {
      this.#waiting = Buffer.alloc(0);
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
