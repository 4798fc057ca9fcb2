import { deferred } from '../../core/deferred.ts';
import { RootlayerError, toRootlayerError } from '../../core/errors.ts';
import { statFd } from '../../host/libc.ts';
import { Deadline, Pace, type Step } from './deadlines.ts';
import { frame, frames, jobRecords, planDisks, seedFrame, windowFrame } from './frames.ts';
import { type Acceleration, shapeFor, type VmShape } from './machine.ts';
import { MachineLink, type VmHost } from './machine-link.ts';
import { mergeOutput } from './merge-output.ts';
import { TO_GUEST } from './protocol.ts';
import { ResultPipe } from './result-pipe.ts';
import { type GuestEvent, hasResult, type ScriptEnd } from './stream-reader.ts';
import type { VmEnd, VmJob, VmRun } from './types.ts';

/** What a session is given of the engine's machines. */
export type SessionParts = {
  host: VmHost;
  acceleration: Acceleration;
  /** Gives a saved state for machines of this shape, open for reading, or null when there is none. The session closes it. */
  openState(shape: VmShape): Promise<SavedState | null>;
  /** How long a step may take, in milliseconds. */
  stepMs(step: Step): number;
};

/** A saved state, and whom to tell how it did. */
export type SavedState = { fd: number; close(): void; worked(): void; failed(error: RootlayerError): void };

/** One job in one virtual machine: restored where a saved state is at hand and answers, else booted. */
export class Session implements VmRun {
  readonly launched: Promise<void>;
  readonly started: Promise<void>;
  readonly ended: Promise<VmEnd>;
  readonly resultDone: Promise<number>;
  readonly released: Promise<void>;
  readonly resultFd: number;
  readonly timingsMs: Record<string, number> = {};
  way: 'restored' | 'cold' = 'restored';

  readonly #job: VmJob;
  readonly #result: ResultPipe;
  readonly #launched = deferred<void>();
  readonly #started = deferred<void>();
  readonly #ended = deferred<VmEnd>();
  readonly #done = deferred<void>();
  readonly #seeded = deferred<void>();
  readonly #deadline = new Deadline((error) => this.#link?.fail(error));
  #parts: SessionParts | null = null;
  #link: MachineLink | null = null;
  #beginMs = performance.now();
  #place: 'coming' | 'running' | 'result' | 'over' = 'coming';
  #inputEnded = false;
  #isHeldBack = false;
  #size: Buffer | null = null;
  #isSizing = false;
  #pace: Pace | null = null;

  /** `parts` may take a while, when the first saved state is made. */
  constructor(job: VmJob, parts: Promise<SessionParts>) {
    this.#job = job;
    this.#result = new ResultPipe(job.maxResultBytes);
    this.#result.done.catch((error: unknown) => this.#link?.fail(toRootlayerError(error)));
    this.resultFd = this.#result.fd;
    this.resultDone = this.#result.done;
    this.launched = this.#launched.promise;
    this.started = this.#started.promise;
    this.ended = this.#ended.promise;
    this.released = this.#run(parts);
  }

  get acceleration(): Acceleration | null {
    return this.#parts?.acceleration ?? null;
  }

  kill(): void {
    this.#end({ kind: 'killed' }, new RootlayerError('E_CANCELLED', 'The virtual machine was ended'));
    void this.released.then(() => this.#result.closeReader());
  }

  async input(bytes: Buffer): Promise<void> {
    if (this.#place !== 'running' || this.#inputEnded) return;
    this.#inputEnded = bytes.length === 0;
    for (const each of bytes.length === 0 ? [frame(TO_GUEST.input)] : frames(TO_GUEST.input, bytes)) this.#link?.write(each);
    await this.#link?.drained();
  }

  /** Only the last size counts for a guest that takes nothing at the moment. */
  resize(rows: number, columns: number): void {
    this.#size = windowFrame(rows, columns);
    if (!this.#isSizing) void this.#sendSizes();
  }

  async #sendSizes(): Promise<void> {
    this.#isSizing = true;
    for (let size = this.#size; size !== null && this.#place === 'running'; size = this.#size) {
      this.#size = null;
      this.#link?.write(size);
      await this.#link?.drained();
    }
    this.#isSizing = false;
  }

  async #run(parts: Promise<SessionParts>): Promise<void> {
    try {
      await this.#bring(await this.#orDone(parts));
      this.#link?.write(frame(TO_GUEST.go));
      this.#launched.resolve();
      const error = await Promise.race([this.#done.promise, this.#link?.failed]);
      if (error !== undefined) throw error;
    } catch (thrown) {
      const error = toRootlayerError(thrown);
      this.#end({ kind: 'failed', error }, error);
    } finally {
      this.#deadline[Symbol.dispose]();
      await this.#link?.gone;
    }
  }

  /** Brings a machine to where it waits for the job's start. A saved state that gives no answer is no reason to give up: nothing has run yet. */
  async #bring(parts: SessionParts): Promise<void> {
    this.#parts = parts;
    const shape = shapeFor(this.#job.limits, planDisks(this.#job.lowerFds.length, this.#job.filesFd !== null).count);
    const opening = parts.openState(shape);
    const state = await this.#orDone(opening).catch((error: unknown) => {
      opening.then((late) => late?.close()).catch(() => {});
      throw error;
    });
    if (state !== null) {
      const error = await this.#tryState(parts, shape, state);
      if (error === null) return;
      await this.#link?.gone;
    }
    this.way = 'cold';
    const error = await this.#try(parts, shape, null);
    if (error !== null) throw error;
  }

  async #tryState(parts: SessionParts, shape: VmShape, state: SavedState): Promise<RootlayerError | null> {
    try {
      const error = await this.#try(parts, shape, state.fd);
      if (error === null) state.worked();
      else if (this.#place !== 'over') state.failed(error);
      return error;
    } finally {
      state.close();
    }
  }

  /** Gives null when the guest has answered and taken the time and the entropy, else why not. Throws when the session is over. */
  async #try(parts: SessionParts, shape: VmShape, stateFd: number | null): Promise<RootlayerError | null> {
    this.#throwIfOver();
    const { seat, diskFds } = seatAndDisks(this.#job);
    this.#beginMs = performance.now();
    const fileSizeBytes = statFd(this.#job.scratchFd).size;
    const link = new MachineLink(
      parts.host,
      { shape, acceleration: parts.acceleration, seat, diskFds, stateFd, fileSizeBytes, hasMonitor: false },
      (events) => this.#receive(events),
    );
    this.#link = link;
    this.#deadline.begin('answer', parts.stepMs(stateFd === null ? 'boot' : 'restore'));
    if (stateFd !== null) this.#sendJob(link);
    const error = await this.#orDone(Promise.race([link.failed, this.#seeded.promise]));
    return error ?? null;
  }

  /** Waits for something, but no longer than the session lasts. */
  async #orDone<T>(waited: Promise<T>): Promise<T> {
    const value = await Promise.race([waited, this.#done.promise.then(() => this.#throwIfOver())]);
    this.#throwIfOver();
    return value as T;
  }

  #throwIfOver(): void {
    if (this.#place === 'over') throw new RootlayerError('E_CANCELLED', 'The virtual machine was ended');
  }

  /** All but the word to start: up to there nothing of the job has happened, and another machine could take it. */
  #sendJob(link: MachineLink): void {
    const plan = planDisks(this.#job.lowerFds.length, this.#job.filesFd !== null);
    link.write(seedFrame());
    for (const each of frames(TO_GUEST.job, jobRecords(this.#job, plan))) link.write(each);
    for (const each of frames(TO_GUEST.script, this.#job.script)) link.write(each);
  }

  #receive(events: Iterable<GuestEvent>): void {
    for (const event of mergeOutput(events)) {
      if (this.#place === 'over') return;
      this.#handle(event);
    }
  }

  #handle(event: GuestEvent): void {
    switch (event.kind) {
      case 'ready':
        this.#mark('answer');
        if (this.#link !== null) this.#sendJob(this.#link);
        break;
      case 'mark':
        this.#mark(event.mark);
        this.#reach(event.mark);
        break;
      case 'output':
        if (this.timingsMs['firstByte'] === undefined) this.#mark('firstByte');
        this.#job.onOutput(event.stream, event.bytes);
        break;
      case 'end':
        this.#scriptEnded(event.end);
        break;
      case 'result':
        this.#pass(event.bytes);
        break;
      case 'whole':
        this.#mark('result');
        this.#finish();
        break;
      case 'error':
        this.#stepFailed(event.step, event.errno);
    }
  }

  #reach(mark: string): void {
    if (mark === 'seeded') {
      this.#seeded.resolve();
      this.#deadline.begin('start the script', this.#stepMs('start'));
    } else if (mark === 'started') {
      this.#place = 'running';
      this.#deadline[Symbol.dispose]();
      this.#started.resolve();
    }
  }

  #scriptEnded(end: ScriptEnd): void {
    this.#mark('end');
    this.#place = 'result';
    const { claims } = end;
    this.#ended.resolve('status' in end ? { kind: 'exit', status: end.status, claims } : { kind: 'signal', signal: end.signal, claims });
    if (!hasResult(end)) {
      this.#finish();
      return;
    }
    this.#pace = new Pace(this.#stepMs('result'));
    this.#deadline.begin('give its result', this.#stepMs('result'));
  }

  #pass(bytes: Buffer): void {
    const hasRoom = this.#result.write(bytes);
    if (this.#pace?.isTooSlow(bytes.length) === true) {
      this.#link?.fail(new RootlayerError('E_VM_TIMEOUT', 'Cannot go on with the virtual machine: its guest gives its result too slowly'));
      return;
    }
    if (this.#isHeldBack) return;
    if (hasRoom) this.#deadline.begin('go on with its result', this.#stepMs('result'));
    else this.#holdBack();
  }

  /** The reader is slower than the guest. It has a limit of time of its own. */
  #holdBack(): void {
    this.#isHeldBack = true;
    this.#pace?.hold();
    this.#deadline[Symbol.dispose]();
    this.#link?.pause();
    this.#result.onceDrained(() => {
      this.#isHeldBack = false;
      this.#pace?.goOn();
      if (this.#place === 'over') return;
      this.#deadline.begin('go on with its result', this.#stepMs('result'));
      this.#link?.resume();
    });
  }

  #stepFailed(step: string, errno: string): void {
    this.#end({ kind: 'error', step, errno }, stepError(step, errno));
  }

  #finish(): void {
    this.#result.end();
    this.#over();
  }

  /** Tells everybody who still waits, and ends QEMU. */
  #end(end: VmEnd, error: RootlayerError): void {
    if (this.#place === 'over') return;
    this.#ended.resolve(end);
    this.#started.reject(error);
    this.#result.fail(error);
    this.#over();
  }

  #over(): void {
    this.#place = 'over';
    this.#deadline[Symbol.dispose]();
    this.#link?.end();
    this.#launched.resolve();
    this.#done.resolve();
  }

  #mark(name: string): void {
    this.timingsMs[name] = Math.round((performance.now() - this.#beginMs) * 10) / 10;
  }

  #stepMs(step: Step): number {
    return this.#parts?.stepMs(step) ?? 0;
  }
}

/** What a guest could not do is its own affair, but for what it lost because the host's disk is full. */
export function stepError(step: string, errno: string): RootlayerError {
  if (step === 'sync' && LOST.includes(errno)) {
    return new RootlayerError('E_STATE', 'Cannot keep what the script wrote: the disk of the state directory is full or failing', {
      hint: 'Make room in the state directory and run the job again.',
    });
  }
  return new RootlayerError('E_VM_CRASH', `Cannot run the virtual machine: step "${step}" of its guest failed with ${errno}`);
}

const LOST = ['EIO', 'ENOSPC', 'EDQUOT'];

/** The disks in the order of their numbers: see planDisks(). */
function seatAndDisks(job: VmJob): { seat: Pick<VmJob, 'uid' | 'cgroup'>; diskFds: number[] } {
  return {
    seat: { uid: job.uid, cgroup: job.cgroup },
    diskFds: [job.scratchFd, ...job.lowerFds, ...(job.filesFd === null ? [] : [job.filesFd])],
  };
}
