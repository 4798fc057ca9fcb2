import process from 'node:process';
import { type PrintableStream as Printable, PrintableStream, printable } from './printable.ts';

/** How a command prints. */
export type OutputOptions = {
  /** Standard output is for one JSON document, or for bytes: a script's output goes to standard error. */
  keepsStdout: boolean;
  /** A script's output goes to a terminal as it is. */
  raw: boolean;
};

type LogName = 'stdout' | 'stderr';

/** Progress more often than this only makes a terminal flicker. */
const PROGRESS_INTERVAL_MS = 100;
const CLEAR_LINE = '\r\u001b[K';

/** Everything a running job shows: its log as it comes, one line of progress on a terminal, and notes. */
export class Output {
  readonly #options: OutputOptions;
  readonly #filters: Record<LogName, Printable> = { stdout: new PrintableStream(), stderr: new PrintableStream() };
  #hasProgress = false;
  #lastProgressMs = 0;
  /** The log ended within a line: what follows on a terminal begins a new one. */
  #isMidLine = false;
  #lineEnd: '\n' | '\r\n' = '\n';

  constructor(options: OutputOptions) {
    this.#options = options;
  }

  /** A terminal that shows bytes as they are needs a carriage return at the end of a line. */
  endLinesWith(lineEnd: '\n' | '\r\n'): void {
    this.#lineEnd = lineEnd;
  }

  /** Prints what a script printed: standard output to standard output, standard error to standard error. */
  log(stream: LogName, data: Buffer): void {
    this.#clearProgress();
    const target = stream === 'stdout' && !this.#options.keepsStdout ? process.stdout : process.stderr;
    const isRaw = this.#options.raw || !target.isTTY;
    const text = isRaw ? data : this.#filters[stream].write(data);
    if (text.length === 0) return;
    this.#isMidLine = data.at(-1) !== 0x0a;
    target.write(text);
  }

  /** Shows how far something is, on a terminal only. */
  progress(stage: string, done: number, total: number | null, unit: 'bytes' | 'entries'): void {
    if (!process.stderr.isTTY) return;
    const now = performance.now();
    if (now - this.#lastProgressMs < PROGRESS_INTERVAL_MS) return;
    this.#lastProgressMs = now;
    const show = unit === 'bytes' ? formatBytes : String;
    const text = total === null ? show(done) : `${show(done)} of ${show(total)}`;
    this.#startLine();
    process.stderr.write(`${CLEAR_LINE}${printable(stage)}: ${text}`);
    this.#hasProgress = true;
  }

  /** Prints a line for people to standard error. */
  note(line: string): void {
    this.#clearProgress();
    this.#startLine();
    process.stderr.write(`${printable(line)}${this.#lineEnd}`);
  }

  /** Takes the line of progress away. */
  end(): void {
    this.#clearProgress();
  }

  #startLine(): void {
    if (this.#isMidLine && process.stderr.isTTY) process.stderr.write(this.#lineEnd);
    this.#isMidLine = false;
  }

  #clearProgress(): void {
    if (!this.#hasProgress) return;
    process.stderr.write(CLEAR_LINE);
    this.#hasProgress = false;
  }
}

/** Waits until a slow reader has taken most of what was printed, so that a log never piles up here. */
export async function whenDrained(): Promise<void> {
  for (const stream of [process.stdout, process.stderr]) {
    if (!stream.writableNeedDrain || isBroken(stream)) continue;
    await new Promise<void>((resolve) => {
      const finish = (): void => {
        for (const name of DRAIN_EVENTS) stream.off(name, finish);
        resolve();
      };
      for (const name of DRAIN_EVENTS) stream.once(name, finish);
    });
  }
}

/** A reader that is gone ends the waiting too. */
const DRAIN_EVENTS = ['drain', 'close', 'error'] as const;

/** Waits until all that was printed is with the kernel: at the end of the process the rest would be lost. */
export async function whenFlushed(): Promise<void> {
  for (const stream of [process.stdout, process.stderr]) {
    if (!isBroken(stream)) await new Promise<void>((resolve) => stream.once('error', () => resolve()).write('', () => resolve()));
  }
}

/** Streams whose reader is gone. Node makes a standard stream as good as new after an error, so it cannot be asked, and nobody would ever drain it. */
const broken = new Set<NodeJS.WriteStream>();

/** A reader such as `head` that has had enough is no error. */
export function ignoreBrokenPipes(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error;
      broken.add(stream);
    });
  }
}

function isBroken(stream: NodeJS.WriteStream): boolean {
  return broken.has(stream) || stream.destroyed || stream.errored !== null;
}

/** Prints lines for people, or other programs, to standard output. */
export function print(text: string): void {
  process.stdout.write(`${process.stdout.isTTY ? printable(text) : text}\n`);
}

/** Prints one JSON document to standard output. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, process.stdout.isTTY ? 2 : 0)}\n`);
}

/** Gives `1.5 MB` for 1500000. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let at = 0;
  while (value >= 999.5 && at < units.length - 1) {
    value /= 1000;
    at += 1;
  }
  return `${at === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${units[at] ?? ''}`;
}

/** Gives rows as columns of even width; the last column is not filled up. */
export function formatTable(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) for (const [at, cell] of row.entries()) widths[at] = Math.max(widths[at] ?? 0, cell.length);
  const lines = rows.map((row) => row.map((cell, at) => (at === row.length - 1 ? cell : cell.padEnd(widths[at] ?? 0))).join('  '));
  return lines.join('\n');
}
