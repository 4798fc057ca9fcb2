import { availableParallelism, loadavg } from 'node:os';
import { RootlayerError } from '../../core/errors.ts';

/** How long a step of a machine may take on a quiet host, in milliseconds. */
export const STEP_MS = {
  /** From the start of QEMU to the first answer of a restored guest: 100 ms seen. */
  restore: 2000,
  /** From the start of QEMU to the first answer of a booting guest: 1,500 ms seen under emulation. */
  boot: 30_000,
  /** From the first answer to the script's first instruction: 250 ms seen. */
  start: 30_000,
  /** Longest pause within a result. */
  result: 60_000,
  /** Saving of a state: 200 ms seen. */
  save: 30_000,
} as const;

export type Step = keyof typeof STEP_MS;

const BUSY_FACTOR = 10;

/** Gives the time for a step: much more while others want the processors too. `machines` is how many virtual machines run. */
export function stepMs(step: Step, machines: number): number {
  const cores = availableParallelism();
  const isBusy = machines > cores || (loadavg()[0] ?? 0) > cores;
  return STEP_MS[step] * (isBusy ? BUSY_FACTOR : 1);
}

/** Least bytes a millisecond of a result: a guest that sends them one by one would hold its place for ever. */
const LEAST_RATE = 1024;

/** Whether a guest gives its result fast enough over all; the time in which nobody took anything from it does not count. */
export class Pace {
  readonly #graceMs: number;
  readonly #beginMs = performance.now();
  #bytes = 0;
  #heldMs = 0;
  #holdMs = 0;

  constructor(graceMs: number) {
    this.#graceMs = graceMs;
  }

  /** Counts what came, and judges. */
  isTooSlow(bytes: number): boolean {
    this.#bytes += bytes;
    return performance.now() - this.#beginMs - this.#heldMs > this.#graceMs + this.#bytes / LEAST_RATE;
  }

  hold(): void {
    this.#holdMs = performance.now();
  }

  goOn(): void {
    this.#heldMs += performance.now() - this.#holdMs;
  }
}

/** Calls `late` when a step takes longer than it may; one at a time. Dispose ends it. */
export class Deadline implements Disposable {
  #timer: NodeJS.Timeout | undefined;
  readonly #late: (error: RootlayerError) => void;

  constructor(late: (error: RootlayerError) => void) {
    this.#late = late;
  }

  /** Begins a step, in place of the one before. `what` it should do completes "the guest did not ...". */
  begin(what: string, ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#late(
        new RootlayerError('E_VM_TIMEOUT', `Cannot go on with the virtual machine: its guest did not ${what} within ${ms} ms`, {
          hint: 'The machine may be too busy; try again, or see rootlayer doctor.',
        }),
      );
    }, ms);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}
