/** A thread of the capture worker: takes one sum of every stream that goes through the ring. */
import { createHash } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { digestOf } from '../core/digest.ts';
import { TarReader } from '../core/tar/reader.ts';
import { TarSum, tarsumHandler } from '../core/tarsum.ts';
import { ABORT, END, lengthIndexOf, RESULT_ERROR, RESULT_SUM, type RingMemory, resultOf, type Sum, slotOf } from './hash-ring.ts';

/** Takes the sum of one stream. */
interface Summer {
  write(chunk: Buffer): void;
  end(): string;
}

const { memory, sum, index } = workerData as { memory: RingMemory; sum: Sum; index: number };
function consume(): never {
  const counts = new Int32Array(memory.counts);
  const lengths = new Int32Array(memory.lengths);
  let stream = new Stream();
  for (let consumed = 0; ; consumed = (consumed + 1) >>> 0) {
    while (Atomics.load(counts, 0) === (consumed | 0)) Atomics.wait(counts, 0, consumed | 0);
    const length = lengths[lengthIndexOf(consumed)] ?? ABORT;
    if (length > 0) {
      stream.write(slotOf(memory, consumed).subarray(0, length));
    } else {
      if (length === END) stream.end();
      stream = new Stream();
    }
    Atomics.store(counts, index + 1, (consumed + 1) | 0);
    Atomics.notify(counts, index + 1);
  }
}

/** One stream: after a failure its bytes are thrown away, and the failure is its result. */
class Stream {
  readonly #summer = sum === 'diffid' ? diffIdSummer() : tarsumSummer();
  #failure: unknown;

  write(chunk: Buffer): void {
    if (this.#failure !== undefined) return;
    try {
      this.#summer.write(chunk);
    } catch (error) {
      this.#failure = error;
    }
  }

  end(): void {
    try {
      if (this.#failure !== undefined) throw this.#failure;
      report(RESULT_SUM, this.#summer.end());
    } catch (error) {
      report(RESULT_ERROR, error instanceof Error ? error.message : String(error));
    }
  }
}

function report(state: number, value: string): void {
  const { head, text } = resultOf(memory, index);
  head[1] = text.write(value, 'utf8');
  head[0] = state;
}

function diffIdSummer(): Summer {
  const hash = createHash('sha256');
  return { write: (chunk) => hash.update(chunk), end: () => digestOf(hash.digest()) };
}

/** Reads the tar back with the strict reader, so that a tar we could not read ourselves is never handed out. */
function tarsumSummer(): Summer {
  const sums = new TarSum();
  const reader = new TarReader(tarsumHandler(sums), { maxEntries: Number.MAX_SAFE_INTEGER, maxMetaBytes: 2 * 1024 * 1024 });
  return {
    write: (chunk) => reader.write(chunk),
    end: () => {
      reader.end();
      return sums.digest();
    },
  };
}

// The classes above must have been defined; from here on the thread only waits for slots.
parentPort?.postMessage('ready');
consume();
