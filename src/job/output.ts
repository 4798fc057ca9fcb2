import { isUtf8 } from 'node:buffer';
import { Socket } from 'node:net';
import { chmodFd, chownAt, close, makePipe } from '../host/libc.ts';
import type { SandboxStdio } from '../isolation/sandbox.ts';

export type OutputStream = 'stdout' | 'stderr';
/** Called for each piece of output, in order within a stream. */
export type OutputSink = (stream: OutputStream, data: string, encoding: 'base64' | null) => void;

/** Where a script prints to, from the daemon's side. */
export interface ScriptOutput {
  /** What the sandbox is given; {@link closeWriters} once it has started. */
  readonly stdio: SandboxStdio;
  readonly bytes: number;
  /** Time of the last output, by performance.now(). */
  readonly lastMs: number;
  closeWriters(): void;
  /** Waits until all that was written has been passed on: once no process of the job is left. Gives up after `limitMs`. */
  drained(limitMs: number): Promise<void>;
  destroy(): void;
}

/**
 * The standard output and error of a job: real pipes, since a script that opens /dev/stdout cannot open the sockets that
 * Node calls pipes.
 */
export class JobOutput implements ScriptOutput {
  /** The ends for the sandbox; {@link closeWriters} once it has started. */
  readonly stdoutFd: number;
  readonly stderrFd: number;
  bytes = 0;
  /** Time of the last output, by performance.now(). */
  lastMs = performance.now();
  readonly #readers: Socket[];
  readonly #closed: Promise<unknown>;
  #writersOpen = true;

  /** `owner` is the sandbox's root: a script may open /dev/stdout by name, also after it changed to another user. */
  constructor(owner: number, sink: OutputSink) {
    const [stdoutRead, stdoutWrite] = makePipe();
    const [stderrRead, stderrWrite] = makePipe();
    for (const fd of [stdoutWrite, stderrWrite]) {
      chownAt(fd, '', owner, owner);
      chmodFd(fd, 0o666);
    }
    this.stdoutFd = stdoutWrite;
    this.stderrFd = stderrWrite;
    this.#readers = [this.#reader(stdoutRead, 'stdout', sink), this.#reader(stderrRead, 'stderr', sink)];
    this.#closed = Promise.all(this.#readers.map((reader) => new Promise((resolve) => reader.once('close', resolve))));
  }

  #reader(fd: number, stream: OutputStream, sink: OutputSink): Socket {
    const reader = new Socket({ fd, readable: true, writable: false });
    const text = new OutputText(stream, sink);
    reader.on('data', (chunk: Buffer) => {
      this.bytes += chunk.length;
      this.lastMs = performance.now();
      text.push(chunk);
    });
    reader.on('end', () => text.end());
    reader.on('error', () => {}); // a pipe that fails ends like one that is closed
    return reader;
  }

  get stdio(): SandboxStdio {
    return { kind: 'pipes', stdoutFd: this.stdoutFd, stderrFd: this.stderrFd };
  }

  closeWriters(): void {
    if (!this.#writersOpen) return;
    this.#writersOpen = false;
    close(this.stdoutFd);
    close(this.stderrFd);
  }

  async drained(limitMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise((resolve) => {
      timer = setTimeout(resolve, limitMs);
    });
    await Promise.race([this.#closed, timeout]);
    clearTimeout(timer);
  }

  destroy(): void {
    this.closeWriters();
    for (const reader of this.#readers) reader.destroy();
  }
}

/** Passes the bytes of one stream on as text where they are UTF-8, with characters kept whole, else as base64, so that no byte is lost. */
export class OutputText {
  readonly #stream: OutputStream;
  readonly #sink: OutputSink;
  #held: Buffer = Buffer.alloc(0);

  constructor(stream: OutputStream, sink: OutputSink) {
    this.#stream = stream;
    this.#sink = sink;
  }

  push(chunk: Buffer): void {
    const bytes = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    const end = bytes.length - incompleteTail(bytes);
    this.#held = Buffer.from(bytes.subarray(end));
    this.#pass(bytes.subarray(0, end));
  }

  /** Passes on what was held back: no more will come. */
  end(): void {
    this.#pass(this.#held);
    this.#held = Buffer.alloc(0);
  }

  #pass(bytes: Buffer): void {
    if (bytes.length === 0) return;
    if (isUtf8(bytes) && !escapesBadly(bytes)) this.#sink(this.#stream, bytes.toString('utf8'), null);
    else this.#sink(this.#stream, bytes.toString('base64'), 'base64');
  }
}

/** Whether JSON would spell these bytes longer than base64 does: a control byte takes six. */
function escapesBadly(bytes: Buffer): boolean {
  let extra = 0;
  for (const byte of bytes) {
    if (byte < 0x20) extra += byte === 0x0a || byte === 0x0d || byte === 0x09 ? 1 : 5;
    else if (byte === 0x22 || byte === 0x5c) extra += 1;
  }
  return extra > bytes.length / 2;
}

/** How many bytes at the end begin a UTF-8 sequence that is not complete yet: 0 to 3. */
function incompleteTail(bytes: Buffer): number {
  for (let back = 1; back <= 3 && back <= bytes.length; back++) {
    const byte = bytes[bytes.length - back] ?? 0;
    if ((byte & 0xc0) === 0x80) continue;
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}
