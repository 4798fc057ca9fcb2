import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { RootlayerError } from '../core/errors.ts';

/** One slot holds this much: large writes, and so few that waking the threads costs nothing. */
export const SLOT_BYTES = 1024 * 1024;
/** A power of two, so that counts may wrap around. */
const SLOTS = 8;

/** The two sums taken of one stream, each on a thread of its own: one thread could not keep up with one 2 GiB file. */
export const SUMS = ['diffid', 'tarsum'] as const;
export type Sum = (typeof SUMS)[number];

const RESULT_BYTES = 4096;
const STUCK_MS = 120_000;

/** Lengths that are none. */
export const END = 0;
export const ABORT = -1;

/** What the packing thread and the hashing threads share. */
export type RingMemory = {
  slots: SharedArrayBuffer;
  /** Length of what lies in each slot, {@link END} or {@link ABORT}. */
  lengths: SharedArrayBuffer;
  /** Slots produced so far, then slots consumed by each thread. */
  counts: SharedArrayBuffer;
  /** For each thread: 1 for a sum or 2 for an error, the length of the text, and the text. */
  results: SharedArrayBuffer;
};

export const RESULT_SUM = 1;
export const RESULT_ERROR = 2;

/** A view of the n-th slot, counted from the first ever produced. */
export function slotOf(memory: RingMemory, n: number): Buffer {
  return Buffer.from(memory.slots, (n % SLOTS) * SLOT_BYTES, SLOT_BYTES);
}

/** The place in `lengths` of the n-th slot. */
export function lengthIndexOf(n: number): number {
  return n % SLOTS;
}

/** The part of `results` of a thread: its state and length, and the bytes of its text. */
export function resultOf(memory: RingMemory, index: number): { head: Int32Array; text: Buffer } {
  const start = index * RESULT_BYTES;
  return { head: new Int32Array(memory.results, start, 2), text: Buffer.from(memory.results, start + 8, RESULT_BYTES - 8) };
}

/**
 * A ring of buffers that this thread fills and the hashing threads read at the same time, without a copy. One stream at a time:
 * {@link slot}, {@link publish}, … and at last {@link finish} or {@link abort}. The threads live as long as the process.
 */
export class HashRing {
  readonly #memory: RingMemory;
  readonly #lengths: Int32Array;
  readonly #counts: Int32Array;
  readonly #slots: Buffer[];
  #produced = 0;

  private constructor(memory: RingMemory) {
    this.#memory = memory;
    this.#lengths = new Int32Array(memory.lengths);
    this.#counts = new Int32Array(memory.counts);
    this.#slots = Array.from({ length: SLOTS }, (_slot, n) => slotOf(memory, n));
  }

  /** Starts the threads and waits until they have loaded their code: after that the process may lose sight of its files. */
  static async start(): Promise<HashRing> {
    const memory: RingMemory = {
      slots: new SharedArrayBuffer(SLOTS * SLOT_BYTES),
      lengths: new SharedArrayBuffer(SLOTS * 4),
      counts: new SharedArrayBuffer((1 + SUMS.length) * 4),
      results: new SharedArrayBuffer(SUMS.length * RESULT_BYTES),
    };
    await Promise.all(SUMS.map((sum, index) => startThread(memory, sum, index)));
    return new HashRing(memory);
  }

  /** The slot to fill next, once the threads have let go of it. Throws `E_CAPTURE` when they do not. */
  slot(): Buffer {
    this.#waitUntilConsumed(this.#produced - SLOTS + 1);
    return this.#slots[lengthIndexOf(this.#produced)] ?? Buffer.alloc(0);
  }

  /** Hands the first `length` bytes of the present slot, at least one, to the threads; they may still be read, but not changed. */
  publish(length: number): void {
    this.#lengths[lengthIndexOf(this.#produced)] = length;
    this.#produced += 1;
    Atomics.store(this.#counts, 0, this.#produced | 0);
    Atomics.notify(this.#counts, 0);
  }

  /** Ends the stream and gives its sums. Throws `E_CAPTURE` when a thread failed. */
  finish(): Record<Sum, string> {
    this.slot();
    this.publish(END);
    this.#waitUntilConsumed(this.#produced);
    return { diffid: this.#result(0), tarsum: this.#result(1) };
  }

  /** Ends the stream without a result. */
  abort(): void {
    this.slot();
    this.publish(ABORT);
    this.#waitUntilConsumed(this.#produced);
  }

  #waitUntilConsumed(count: number): void {
    for (let index = 1; index <= SUMS.length; index += 1) {
      for (;;) {
        const consumed = Atomics.load(this.#counts, index);
        // The counts wrap around at 2^32: their difference does not.
        if (((consumed - count) | 0) >= 0) break;
        if (Atomics.wait(this.#counts, index, consumed, STUCK_MS) === 'timed-out') {
          throw new RootlayerError('E_CAPTURE', `Cannot sum layer: the ${SUMS[index - 1]} thread has not moved for ${STUCK_MS} ms`);
        }
      }
    }
  }

  #result(index: number): string {
    const { head, text } = resultOf(this.#memory, index);
    const value = text.toString('utf8', 0, head[1]);
    if (head[0] === RESULT_SUM) return value;
    throw new RootlayerError('E_CAPTURE', `Cannot sum layer: the ${SUMS[index]} thread failed: ${value}`);
  }
}

/** The threads' heap holds 64 digits and a name for every member. */
const THREAD_HEAP_MIB = 768;

async function startThread(memory: RingMemory, sum: Sum, index: number): Promise<void> {
  const entry = new URL(import.meta.url.replace(/hash-ring(\.[jt]s)$/, 'hash-thread$1'));
  const thread = new Worker(entry, {
    workerData: { memory, sum, index },
    resourceLimits: { maxOldGenerationSizeMb: THREAD_HEAP_MIB, maxYoungGenerationSizeMb: 8 },
  });
  await once(thread, 'message');
  thread.unref();
}
