import { readSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { ReadStream } from 'node:tty';
import type { TerminalSize } from '../core/job.ts';
import { close, duplicate, ioctlBuffer, setNonBlocking } from './libc.ts';

/** Both ends of a pty: what is written to the far one comes out of the near one. */
export type PtyEnds = { nearFd: number; farFd: number };

/** Requests of ioctl_tty(2), the same on x86-64 and arm64. */
const TCGETS = 0x5401;
const TCSETS = 0x5402;
const TIOCSWINSZ = 0x5414;
/** struct termios of the kernel: four words of flags, a line discipline, then the control characters. Source: <asm-generic/termbits.h>. */
const TERMIOS_BYTES = 60;
const OUTPUT_FLAGS_AT = 4;
const CONTROLS_AT = 17;
const VEOF = 4;
const OPOST = 1;

/** What the kernel holds between the two ends is less. */
const MAX_REST_BYTES = 1024 * 1024;
/** A program that is slow to read what was typed is asked again after this time. */
const RETRY_MS = 20;

/**
 * The near end of a pty whose far end is a stranger's. Nothing here waits for the stranger: both directions are non-blocking, and errors of the
 * kernel count as the end. The far end is held open too: else the kernel would tell the end as soon as the stranger closes its own.
 */
export class Pty {
  readonly #ends: PtyEnds;
  readonly #reader: ReadStream;
  readonly #onData: (bytes: Buffer) => void;
  #isOpen = true;

  /** Takes both descriptors over. */
  constructor(ends: PtyEnds, onData: (bytes: Buffer) => void) {
    this.#ends = ends;
    this.#onData = onData;
    try {
      setNonBlocking(ends.nearFd, true);
      // A descriptor of its own: the stream closes it when it likes, and its number may be another file's then.
      this.#reader = new ReadStream(duplicate(ends.nearFd));
    } catch (error) {
      close(ends.farFd);
      close(ends.nearFd);
      throw error;
    }
    this.#reader.on('data', onData);
    this.#reader.on('error', () => {}); // the far end is gone: there is no more to read
  }

  /** Types bytes at the terminal; none are the end of input, in the character that the terminal has for it. Resolves once all are taken. */
  async write(bytes: Buffer): Promise<void> {
    const typed = bytes.length === 0 && this.#isOpen ? this.#endOfInput() : bytes;
    for (let at = 0; at < typed.length && this.#isOpen; ) {
      const taken = this.#take(typed.subarray(at));
      at += taken;
      if (taken === 0) await sleep(RETRY_MS, undefined, { ref: false });
    }
  }

  #endOfInput(): Buffer {
    return readSettings(this.#ends.nearFd).subarray(CONTROLS_AT + VEOF, CONTROLS_AT + VEOF + 1);
  }

  /** Gives how many bytes the kernel took; all of them, when there is nobody left to read them. */
  #take(bytes: Buffer): number {
    try {
      return writeSync(this.#ends.nearFd, bytes);
    } catch (error) {
      return error instanceof Error && 'code' in error && error.code === 'EAGAIN' ? 0 : bytes.length;
    }
  }

  /** Tells the programs at the terminal its size, by SIGWINCH. */
  resize(size: TerminalSize): void {
    if (!this.#isOpen) return;
    const window = Buffer.alloc(8);
    window.writeUInt16LE(size.rows, 0);
    window.writeUInt16LE(size.columns, 2);
    ioctlBuffer(this.#ends.nearFd, TIOCSWINSZ, window);
  }

  /** Passes on what is still in the kernel, once nobody writes any more, and closes both ends. Idempotent. */
  finish(): void {
    if (!this.#isOpen) return;
    this.#reader.destroy();
    const chunk = Buffer.alloc(65_536);
    for (let rest = 0; rest < MAX_REST_BYTES; ) {
      const length = this.#readRest(chunk);
      if (length === 0) break;
      rest += length;
      this.#onData(Buffer.from(chunk.subarray(0, length)));
    }
    this.destroy();
  }

  #readRest(chunk: Buffer): number {
    try {
      return readSync(this.#ends.nearFd, chunk);
    } catch {
      return 0; // EAGAIN: nothing is left; EIO: the far end is gone
    }
  }

  /** Closes both ends at once. Idempotent. */
  destroy(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#reader.destroy();
    close(this.#ends.farFd);
    close(this.#ends.nearFd);
  }
}

function readSettings(fd: number): Buffer {
  const settings = Buffer.alloc(TERMIOS_BYTES);
  ioctlBuffer(fd, TCGETS, settings);
  return settings;
}

/** Lets bytes that are written to a terminal reach it as they are: no line feed becomes two characters. */
export function stopOutputProcessing(fd: number): void {
  const settings = readSettings(fd);
  settings.writeUInt32LE((settings.readUInt32LE(OUTPUT_FLAGS_AT) & ~OPOST) >>> 0, OUTPUT_FLAGS_AT);
  ioctlBuffer(fd, TCSETS, settings);
}
