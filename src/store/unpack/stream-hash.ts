import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { RootlayerError } from '../../core/errors.ts';
import { type HashRing, makeHashRing, RING, RING_COMMAND, slotOf } from './stream-hash-ring.ts';

/** A thread that does not move for this long is gone: one slot takes it less than a millisecond. */
const PATIENCE_MS = 60_000;

/**
 * The sha256 of a stream, computed by a second thread while the first one unpacks the same bytes: the two take about equally long, so it is
 * nearly free on two cores. The bytes are written into slots of shared memory; take one, fill it, give it, then read it as long as
 * you like, until as many as {@link RING} has were given after it.
 */
export class StreamHash {
  readonly #ring: HashRing;
  readonly #slots: Buffer;
  #given = 0;

  private constructor(ring: HashRing) {
    this.#ring = ring;
    this.#slots = Buffer.from(ring.slots.buffer);
  }

  /** Starts the thread and waits until it has loaded its code. It does not keep the process alive. */
  static async start(): Promise<StreamHash> {
    const ring = makeHashRing();
    const thread = new Worker(new URL('./stream-hash-thread.js', import.meta.url), {
      workerData: ring,
      env: {},
      resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 4 },
    });
    await once(thread, 'message');
    thread.unref();
    return new StreamHash(ring);
  }

  /** A free slot; waits until the thread is done with what was in it. */
  take(): Buffer {
    this.#waitFor(RING.slots - 1);
    const { start } = slotOf(this.#given);
    return this.#slots.subarray(start, start + RING.slotBytes);
  }

  /** Hands the first bytes of the slot taken last to the thread. */
  give(length: number): void {
    const { control } = this.#ring;
    control[slotOf(this.#given).length] = length;
    this.#given = (this.#given + 1) | 0;
    Atomics.store(control, RING.given, this.#given);
    Atomics.notify(control, RING.given);
  }

  /** The digest of all bytes given since the start or the last end, as 64 hex digits. */
  finish(): string {
    this.#command(RING_COMMAND.finish);
    return Buffer.from(this.#ring.digest).toString('hex');
  }

  /** Forgets the bytes given since the start or the last end. */
  reset(): void {
    this.#command(RING_COMMAND.reset);
  }

  #command(command: number): void {
    this.take();
    this.give(command);
    this.#waitFor(0);
  }

  /** Waits until at most so many slots are not hashed yet. */
  #waitFor(behind: number): void {
    const { control } = this.#ring;
    for (;;) {
      const hashed = Atomics.load(control, RING.hashed);
      if (((this.#given - hashed) | 0) <= behind) return;
      if (Atomics.wait(control, RING.hashed, hashed, PATIENCE_MS) === 'timed-out') {
        throw new RootlayerError('E_WORKER', 'Cannot hash layer: the hashing thread does not answer');
      }
    }
  }
}
