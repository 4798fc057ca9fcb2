import { createHash } from 'node:crypto';
import { closeSync, constants, existsSync, openSync } from 'node:fs';
import { mkdir, rm, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { deferred } from '../../core/deferred.ts';
import { RootlayerError, toRootlayerError } from '../../core/errors.ts';
import { Deadline, type Step } from './deadlines.ts';
import { type Acceleration, qemuCommand, readTscKhz, type VmShape, vmSeatLimits } from './machine.ts';
import { MachineLink, type MachineParts, type VmHost } from './machine-link.ts';
import { Monitor } from './monitor.ts';
import type { SavedState } from './session.ts';
import { collectStates, openScratch, writeState } from './state-files.ts';
import type { GuestEvent } from './stream-reader.ts';
import type { VmOptions } from './types.ts';

const MIB = 1024 * 1024;
/** As many are kept as one machine's jobs are likely to need; each takes some 80 MiB. */
const KEPT = 8;
/** A state that fails so often in a row is made anew. */
const MAX_FAILURES = 2;

/** What the states of an engine depend on. */
export type TemplateParts = {
  host: VmHost;
  guestDigest: string;
  /** What else makes a state invalid: for KVM, the processor and the kernel of the host. */
  hostKey: string;
  takeSeat: VmOptions['takeSeat'];
  stepMs(step: Step): number;
};

/**
 * States of guests that have booted and wait for a job, saved once and restored for each job. A file is whole or not there; only root can write
 * it, and what it depends on is in its name.
 */
export class Templates {
  readonly #directory: string;
  readonly #parts: TemplateParts;
  readonly #making = new Map<string, Promise<void>>();
  readonly #failures = new Map<string, number>();

  constructor(directory: string, parts: TemplateParts) {
    this.#directory = join(directory, 'templates');
    this.#parts = parts;
  }

  /** Makes the state for a shape unless it is there; whoever asks meanwhile waits for the same. Throws why the guest does not boot or cannot be saved. */
  async ensure(shape: VmShape, acceleration: Acceleration, bootMs: number | null, signal: AbortSignal): Promise<void> {
    const key = this.#key(shape, acceleration);
    const path = join(this.#directory, key);
    if (existsSync(path)) return;
    let making = this.#making.get(key);
    if (making === undefined) {
      making = this.#make(path, shape, acceleration, bootMs, signal).finally(() => this.#making.delete(key));
      this.#making.set(key, making);
    }
    await making;
  }

  /** Gives the state for a shape, made if need be; null when it cannot be made: then a guest must boot. */
  async open(shape: VmShape, acceleration: Acceleration, signal: AbortSignal): Promise<SavedState | null> {
    const key = this.#key(shape, acceleration);
    const path = join(this.#directory, key);
    try {
      await this.ensure(shape, acceleration, null, signal);
      const now = new Date();
      await utimes(path, now, now);
      const fd = openSync(path, constants.O_RDONLY);
      return { fd, close: () => closeSync(fd), worked: () => this.#failures.delete(key), failed: () => this.#failed(key, path) };
    } catch {
      // The guest itself may boot all the same; if it does not, the job tells why.
      signal.throwIfAborted();
      return null;
    }
  }

  /** Waits for what is being made. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#making.values());
  }

  #failed(key: string, path: string): void {
    const failures = (this.#failures.get(key) ?? 0) + 1;
    this.#failures.set(key, failures);
    if (failures < MAX_FAILURES) return;
    this.#failures.delete(key);
    rm(path, { force: true }).catch(() => {}); // the next failure tries again
  }

  /** The name tells all that a state depends on. */
  #key(shape: VmShape, acceleration: Acceleration): string {
    const { host, guestDigest, hostKey } = this.#parts;
    const fds = { control: 0, disks: Array<number>(shape.slots).fill(0), qmp: null };
    const command = qemuCommand(shape, acceleration, fds, { kind: 'boot', tscKhz: readTscKhz() });
    const depends = JSON.stringify([host.jail.key, guestDigest, command, acceleration === 'kvm' ? hostKey : '']);
    return createHash('sha256').update(depends).digest('hex').slice(0, 32);
  }

  async #make(path: string, shape: VmShape, acceleration: Acceleration, bootMs: number | null, signal: AbortSignal): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    await using seat = await this.#parts.takeSeat(vmSeatLimits(shape), signal);
    await writeState(path, async (fd) => await this.#bootAndSave(fd, { shape, acceleration, seat }, bootMs, signal));
    await collectStates(this.#directory, KEPT);
  }

  async #bootAndSave(
    fd: number,
    machine: Pick<MachineParts, 'shape' | 'acceleration' | 'seat'>,
    bootMs: number | null,
    signal: AbortSignal,
  ): Promise<void> {
    const ready = deferred<void>();
    const { host, stepMs } = this.#parts;
    await using scratch = await openScratch(this.#directory);
    const fileSizeBytes = (machine.shape.ramMib * 2 + 256) * MIB;
    const link = new MachineLink(host, { ...machine, diskFds: [scratch.fd], stateFd: null, fileSizeBytes, hasMonitor: true }, (events) => {
      if (isReady(events)) ready.resolve();
    });
    const monitor = new Monitor(link.takeMonitor());
    using deadline = new Deadline((error) => void withConsole(error, monitor).then((told) => link.fail(told)));
    const onAbort = (): void => link.fail(toRootlayerError(signal.reason));
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      if (signal.aborted) onAbort();
      deadline.begin('answer', bootMs ?? stepMs('boot'));
      await orBroken(
        link,
        monitor.open().then(async () => await ready.promise),
      );
      deadline.begin('get saved', stepMs('save'));
      await orBroken(link, monitor.saveState(fd, signal));
    } finally {
      signal.removeEventListener('abort', onAbort);
      monitor.close();
      link.end();
      await link.gone;
    }
  }
}

function isReady(events: Iterable<GuestEvent>): boolean {
  let ready = false;
  for (const event of events) ready = event.kind === 'ready';
  return ready;
}

const BREAK_MS = 1000;

/** Waits for work that needs the link. When both fail, what ended QEMU tells more than what could not be asked of it. */
async function orBroken(link: MachineLink, work: Promise<void>): Promise<void> {
  const error = await Promise.race([link.failed, work]).catch(async (failure: unknown) => {
    return await Promise.race([link.failed, sleep(BREAK_MS, failure, { ref: false })]);
  });
  if (error !== undefined) throw error;
}

const CONSOLE_MS = 500;
const CONSOLE_CHARACTERS = 300;

/** A guest that does not get on may have told its console why. */
async function withConsole(error: RootlayerError, monitor: Monitor): Promise<RootlayerError> {
  const nothing = sleep(CONSOLE_MS, '', { ref: false });
  const text = await Promise.race([monitor.readConsole(), nothing]).catch(() => '');
  const end = text
    .replace(/[^\x20-\x7e]+/g, ' ')
    .trim()
    .slice(-CONSOLE_CHARACTERS);
  return end === ''
    ? error
    : new RootlayerError(error.code, `${error.message} (its console ends with: ${end})`, { hint: error.hint, cause: error });
}
