import { closeSync, createReadStream, existsSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { JobEvent } from '../core/job.ts';

type WithoutNumber<T> = T extends unknown ? Omit<T, 'n' | 'timeMs'> : never;
/** An event before it has its number and time. */
export type NewEvent = WithoutNumber<JobEvent>;

/** An event with its place in the file. */
type Recent = { start: number; end: number; event: JobEvent };
/** At most as many pieces of output as fit into a megabyte or two. */
const MAX_RECENT = 32;

/**
 * The events of one job: a file of JSON lines that only grows, and wakes its readers. Replaying it and following it live
 * are the same loop, so a reader can come at any time and miss nothing.
 */
export class EventLog {
  readonly #path: string;
  readonly #start: number;
  #fd: number;
  #count = 0;
  #bytes = 0;
  #ended = false;
  readonly #waiting = new Set<() => void>();
  /** The last events, for readers who are up to date: they need not open the file. */
  readonly #recent: Recent[] = [];

  private constructor(path: string, fd: number) {
    this.#path = path;
    this.#fd = fd;
    this.#start = performance.now();
  }

  /** Makes the file; it must not exist. */
  static create(path: string): EventLog {
    return new EventLog(path, openSync(path, 'ax', 0o600));
  }

  /** Gives false when the file cannot be written (a full disk): the event is lost, and the caller ends the job. With `end` all readers end even so. */
  append(event: NewEvent): boolean {
    if (this.#ended) return true;
    const n = this.#count + 1;
    const numbered = { n, timeMs: Math.round(performance.now() - this.#start), ...event } as JobEvent;
    const start = this.#bytes;
    const isWritten = this.#write(Buffer.from(`${JSON.stringify(numbered)}\n`));
    if (isWritten) {
      this.#count = n;
      this.#recent.push({ start, end: this.#bytes, event: numbered });
      if (this.#recent.length > MAX_RECENT) this.#recent.shift();
    }
    if (event.type === 'end') this.#end();
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
    return isWritten;
  }

  /** All or nothing: what a full disk took of a line is cut off again. */
  #write(line: Buffer): boolean {
    try {
      for (let at = 0; at < line.length; ) at += writeSync(this.#fd, line, at);
      this.#bytes += line.length;
      return true;
    } catch {
      try {
        ftruncateSync(this.#fd, this.#bytes);
      } catch {
        // A line cut short is left out by every reader.
      }
      return false;
    }
  }

  #end(): void {
    this.#ended = true;
    const fd = this.#fd;
    this.#fd = -1;
    try {
      closeSync(fd);
    } catch {
      // The descriptor is gone all the same; what the file has not taken is an event that is lost.
    }
  }

  /** Releases the file of a log that will get no `end` event. Idempotent. */
  close(): void {
    if (!this.#ended) this.#end();
    for (const wake of this.#waiting) wake();
  }

  /** Events from number `from` on; with `follow` until the end, else what is there now. */
  async *read(from: number, follow: boolean, signal: AbortSignal): AsyncIterable<JobEvent> {
    let position = 0;
    while (!signal.aborted) {
      const end = this.#bytes;
      if (position < end) {
        const known = this.#recent.filter((one) => one.start >= position && one.end <= end);
        if (known[0]?.start === position) {
          for (const { event } of known) if (event.n >= from) yield event;
        } else {
          yield* readEvents(this.#path, position, end, from);
        }
        position = end;
      } else if (!follow || this.#ended) {
        return;
      } else {
        await this.#changed(signal);
      }
    }
  }

  #changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        signal.removeEventListener('abort', wake);
        this.#waiting.delete(wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener('abort', wake, { once: true });
    });
  }
}

/** Events of a job that has ended, from its file. Gives nothing when the file is gone. */
export async function* readEndedLog(path: string, from: number): AsyncIterable<JobEvent> {
  if (existsSync(path)) yield* readEvents(path, 0, Number.POSITIVE_INFINITY, from);
}

/** Lines that lie wholly within [start, end); a last line cut short by a crash is left out. */
async function* readEvents(path: string, start: number, end: number, from: number): AsyncIterable<JobEvent> {
  if (start >= end) return;
  const input = createReadStream(path, { start, end: end - 1 });
  try {
    for await (const line of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
      const event = parseLine(line);
      if (event !== null && event.n >= from) yield event;
    }
  } finally {
    input.destroy();
  }
}

function parseLine(line: string): JobEvent | null {
  try {
    return JSON.parse(line) as JobEvent;
  } catch {
    return null;
  }
}
