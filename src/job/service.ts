import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Deferred, deferred } from '../core/deferred.ts';
import type { Caller } from '../core/engine.ts';
import { RootlayerError, toRootlayerError } from '../core/errors.ts';
import { type JobId, newJobId } from '../core/ids.ts';
import type { ImageRecord } from '../core/image.ts';
import {
  type IsolationReport,
  isFinal,
  type JobEvent,
  type JobRecord,
  type JobRequest,
  type JobState,
  type LayerSummary,
} from '../core/job.ts';
import { isolationWarning, settleIsolation } from '../isolation/choose.ts';
import { scriptCandidates } from '../isolation/job-files.ts';
import type { JobTable } from '../state/jobs.ts';
import { EventLog, readEndedLog } from './event-log.ts';
import { Journal, journalError } from './journal.ts';
import { JobQueue, type QueueLimits } from './queue.ts';
import { type BaseLayer, type Outcome, type RunnerParts, runJob } from './runner.ts';
import { JobTerminal } from './terminal.ts';

/** A base image held against removal while a job uses it; layers topmost first. */
export type BaseLease = { layers: BaseLayer[] } & AsyncDisposable;

/** What the service needs of the rest of the engine. */
export type JobServiceParts = {
  directory: string;
  table: JobTable;
  queue: QueueLimits;
  runner: RunnerParts;
  /** The image that a request's `from` names, null for `scratch`. Throws `E_NOT_FOUND`. */
  findBase(caller: Caller, ref: string): ImageRecord | null;
  leaseBase(image: ImageRecord | null, signal: AbortSignal): Promise<BaseLease>;
  /** Throws `E_BUSY` when the disk is too full to start anything, `E_QUOTA` and `E_FORBIDDEN` when the caller asks for too much. */
  checkRequest(caller: Caller, request: JobRequest): void;
  chooseIsolation(caller: Caller, request: JobRequest): IsolationReport;
  /** Takes an uploaded context for one job. Throws `E_NOT_FOUND`. */
  takeContext(caller: Caller, contextId: string): AsyncDisposable;
  /** The config text of the image that base and layer make. */
  imageConfig(job: JobRecord, base: ImageRecord | null, request: JobRequest): string;
  /** Puts that image into the store under the asked name; gives the name as stored. */
  nameImage(job: JobRecord, base: ImageRecord | null, request: JobRequest, config: string): Promise<string>;
  /** Does all of it or nothing. */
  atomically(action: () => void): void;
  /** Keeps what the result is made of, until {@link JobServiceParts.releaseLayer}. */
  hold(job: JobRecord, base: ImageRecord | null): void;
  /** Lets go of what a job holds. */
  releaseLayer(job: JobRecord): void;
  /** Called for each job that has ended, with what could not be released. */
  onTrouble(job: JobRecord, error: unknown): void;
};

/** What is kept of a done job besides its record and layer. */
type JobResult = { config: string; base: ImageRecord | null };

type LiveJob = {
  record: JobRecord;
  context: AsyncDisposable | null;
  request: JobRequest;
  base: ImageRecord | null;
  log: EventLog;
  abort: AbortController;
  finished: Deferred<JobRecord>;
  /** From the start of the script on, where it has one. */
  terminal: JobTerminal | null;
};

/** Base64 characters of the first line of a script, and more. */
const FIRST_LINE_BASE64 = 1024;

/** Takes jobs, runs them in turn, and tells about them: the journal, the event logs, and who may see what. */
export class JobService {
  readonly #parts: JobServiceParts;
  readonly #queue: JobQueue;
  readonly #journal: Journal;
  readonly #live = new Map<JobId, LiveJob>();

  constructor(parts: JobServiceParts) {
    this.#parts = parts;
    this.#queue = new JobQueue(parts.queue);
    this.#journal = new Journal(parts);
  }

  /** Tells the truth about jobs that an earlier daemon left unfinished: they are lost. Directories of jobs that the journal does not have go. */
  recover(): void {
    for (const record of this.#parts.table.unfinished()) {
      const error = new RootlayerError('E_JOB_LOST', 'The daemon ended while the job was running or waiting', {
        hint: 'Submit the job again.',
      });
      // The kill may have come between its layer and the last line of the journal: the layer goes as well.
      this.#journal.end({ ...record, state: 'lost', finishedAt: new Date().toISOString(), error: error.toBody() });
    }
    for (const name of readdirSync(this.#parts.directory)) {
      if (this.#parts.table.get(name as JobId) === null) rmSync(join(this.#parts.directory, name), { recursive: true, force: true });
    }
  }

  /** Throws what the parts throw, `E_BUSY` when too many wait, and `E_STATE` when the job cannot be written down. */
  submit(caller: Caller, request: JobRequest): JobRecord {
    this.#journal.catchUp();
    this.#queue.admit(caller.uid);
    this.#parts.checkRequest(caller, request);
    const base = this.#parts.findBase(caller, request.from);
    const isolation = this.#parts.chooseIsolation(caller, request);
    // What is wrong with the script's first line is told now, and not by a job that fails.
    scriptCandidates(Buffer.from(request.script.slice(0, FIRST_LINE_BASE64), 'base64'));
    const record = newRecord(caller, request, base, isolation);
    const context = request.contextId === null ? null : this.#parts.takeContext(caller, request.contextId);
    try {
      this.#accept({
        record,
        request,
        base,
        context,
        log: this.#record(record, base),
        abort: new AbortController(),
        finished: deferred(),
        terminal: null,
      });
    } catch (error) {
      void this.#dropContext(record, context);
      throw error;
    }
    return record;
  }

  /** Makes the job's directory and log, and its row together with the hold on its base: nothing of it can be collected while the job waits. */
  #record(record: JobRecord, base: ImageRecord | null): EventLog {
    let log: EventLog | null = null;
    try {
      mkdirSync(this.#directory(record.id), { mode: 0o700 });
      log = EventLog.create(join(this.#directory(record.id), 'events.ndjson'));
      if (!log.append({ type: 'state', state: 'queued' })) throw logError();
      this.#parts.atomically(() => {
        this.#parts.hold(record, base);
        this.#parts.table.insert(record);
      });
      return log;
    } catch (error) {
      log?.close();
      rmSync(this.#directory(record.id), { recursive: true, force: true });
      throw journalError(error);
    }
  }

  #accept(job: LiveJob): void {
    const { id, uid } = job.record;
    this.#live.set(id, job);
    this.#queue.add({ uid, id, start: async () => await this.#run(job) });
  }

  async #run(job: LiveJob): Promise<void> {
    const { signal } = job.abort;
    try {
      this.#enter(job, 'preparing');
      await using lease = await this.#parts.leaseBase(job.base, signal);
      const { outcome, released } = runJob(this.#parts.runner, this.#runnable(job, lease), signal);
      // Awaited below; until then nobody listens.
      released.catch(() => {});
      try {
        await this.#conclude(job, await outcome);
      } catch (error) {
        this.#fail(job, error);
      }
      await released;
    } catch (error) {
      if (isFinal(job.record.state)) this.#parts.onTrouble(job.record, error);
      else this.#fail(job, error);
    } finally {
      await this.#forget(job);
    }
  }

  async #forget(job: LiveJob): Promise<void> {
    this.#live.delete(job.record.id);
    this.#journal.catchUp();
    await this.#dropContext(job.record, job.context);
  }

  async #dropContext(job: JobRecord, context: AsyncDisposable | null): Promise<void> {
    try {
      await context?.[Symbol.asyncDispose]();
    } catch (error) {
      this.#parts.onTrouble(job, error);
    }
  }

  #runnable(job: LiveJob, lease: BaseLease): Parameters<typeof runJob>[1] {
    const { request, record, log } = job;
    return {
      id: record.id,
      request,
      isolation: record.isolation ?? { used: 'userns', why: 'default', boundary: 'kernel', refused: [] },
      layers: lease.layers,
      contextId: request.contextId,
      sink: (stream, data, encoding) => {
        if (log.append({ type: 'log', stream, data, ...(encoding === null ? {} : { encoding }) })) return;
        job.abort.abort(logError());
      },
      onProgress: (progress) => {
        log.append({ type: 'progress', ...progress });
      },
      onTerminal: (device) => {
        job.terminal = new JobTerminal(device);
      },
      onRunning: (acceleration) => {
        const isolation = job.record.isolation === null ? null : settleIsolation(job.record.isolation, acceleration);
        const warning = isolation === null ? null : isolationWarning(isolation);
        if (warning !== null) log.append({ type: 'warning', message: warning });
        job.record = { ...job.record, isolation, startedAt: new Date().toISOString() };
        this.#enter(job, 'running');
      },
      onCapturing: () => this.#enter(job, 'capturing'),
    };
  }

  /** The journal needs only the first and the last state: after a crash, whatever was in between is lost. */
  #enter(job: LiveJob, state: JobState): void {
    job.record = { ...job.record, state };
    job.log.append({ type: 'state', state });
  }

  async #conclude(job: LiveJob, outcome: Outcome): Promise<void> {
    const { exitStatus, usage, layer, timingsMs, error } = outcome;
    const endedByLimit = outcome.reached;
    const exitStatusBy = exitStatus === null ? null : job.record.isolation?.used === 'vm' ? 'guest' : 'kernel';
    job.record = { ...job.record, exitStatus, exitStatusBy, usage, layer, timingsMs, endedByLimit };
    if (error !== null) {
      this.#finish(job, 'failed', error);
      return;
    }
    for (const message of layer?.warnings ?? []) job.log.append({ type: 'warning', message });
    const config = this.#parts.imageConfig(job.record, job.base, job.request);
    this.#writeResult(job.record.id, { config, base: job.base });
    if (job.request.name !== null) {
      job.record = { ...job.record, imageName: await this.#parts.nameImage(job.record, job.base, job.request, config) };
    }
    this.#finish(job, 'done', null);
  }

  #writeResult(id: JobId, result: JobResult): void {
    try {
      writeFileSync(this.#resultPath(id), JSON.stringify(result), { flag: 'wx', mode: 0o600 });
    } catch (error) {
      throw journalError(error);
    }
  }

  #fail(job: LiveJob, thrown: unknown): void {
    const { signal } = job.abort;
    const error = toRootlayerError(signal.aborted ? signal.reason : thrown);
    this.#finish(job, error.code === 'E_CANCELLED' ? 'cancelled' : 'failed', error);
  }

  /** Whatever can be written, the job has ended: followers learn it from the record when the log does not take it. */
  #finish(job: LiveJob, state: 'done' | 'failed' | 'cancelled', error: RootlayerError | null): void {
    if (isFinal(job.record.state)) return;
    const layer = state === 'done' ? job.record.layer : null;
    const finishedAt = new Date().toISOString();
    job.record = this.#journal.end({ ...job.record, state, layer, finishedAt, error: error?.toBody() ?? null });
    job.log.append({ type: 'end', job: job.record });
    job.finished.resolve(job.record);
    if (error?.code === 'E_INTERNAL') this.#parts.onTrouble(job.record, error.cause ?? error);
  }

  list(caller: Caller): JobRecord[] {
    const records = this.#journal.list(caller.uid === 0 ? null : caller.uid);
    return records.map((record) => this.#live.get(record.id)?.record ?? record);
  }

  /** Throws `E_NOT_FOUND` for what is not the caller's, exactly as for what does not exist. */
  get(caller: Caller, id: JobId): JobRecord {
    const record = this.#live.get(id)?.record ?? this.#journal.get(id);
    if (record === null || (record.uid !== caller.uid && caller.uid !== 0)) {
      throw new RootlayerError('E_NOT_FOUND', `Cannot find job "${id}": no such job`);
    }
    return record;
  }

  /** A job that is done and has a layer. Throws `E_NOT_FOUND`, or `E_CONFLICT` telling the state. */
  getDone(caller: Caller, id: JobId): JobRecord & { layer: LayerSummary } {
    const record = this.get(caller, id);
    const { layer, state } = record;
    if (state !== 'done' || layer === null) {
      throw new RootlayerError('E_CONFLICT', `Cannot give the layer of job "${id}": the job is ${state}, want done`);
    }
    return { ...record, layer };
  }

  /** The config text of the image that a done job made. */
  imageConfigText(id: JobId): string {
    return this.#readResult(id).config;
  }

  /** The base image of a done job, as it was then; null for `scratch`. */
  baseOf(id: JobId): ImageRecord | null {
    return this.#readResult(id).base;
  }

  #readResult(id: JobId): JobResult {
    return JSON.parse(readFileSync(this.#resultPath(id), 'utf8')) as JobResult;
  }

  #resultPath(id: JobId): string {
    return join(this.#directory(id), 'result.json');
  }

  async cancel(caller: Caller, id: JobId): Promise<JobRecord> {
    const record = this.get(caller, id);
    const job = this.#live.get(id);
    if (job === undefined || isFinal(record.state)) return record;
    job.abort.abort(new RootlayerError('E_CANCELLED', 'The job was cancelled'));
    if (this.#queue.remove(id)) {
      this.#fail(job, job.abort.signal.reason);
      await this.#forget(job);
    }
    return await job.finished.promise;
  }

  /** Throws `E_NOT_FOUND`, `E_CONFLICT` for a job that has not ended, and `E_STATE`. */
  remove(caller: Caller, id: JobId): void {
    const record = this.get(caller, id);
    if (!isFinal(record.state))
      throw new RootlayerError('E_CONFLICT', `Cannot remove job "${id}": it is ${record.state}`, { hint: 'Cancel it first.' });
    this.#journal.remove(record);
    rmSync(this.#directory(id), { recursive: true, force: true });
    this.#journal.catchUp();
  }

  /** The terminal of a running job. Throws `E_NOT_FOUND`, or `E_CONFLICT` telling what is in the way. */
  terminalOf(caller: Caller, id: JobId): JobTerminal {
    const { state } = this.get(caller, id);
    const job = this.#live.get(id);
    const refuse = (why: string): RootlayerError => new RootlayerError('E_CONFLICT', `Cannot use the terminal of job "${id}": ${why}`);
    if (job !== undefined && job.request.terminal === null) throw refuse('the job has none');
    if (state !== 'running' || !job?.terminal) throw refuse(`the job is ${state}, want running`);
    return job.terminal;
  }

  /** A job that was lost, or whose log could not be written to its end, still gets its last event: from the journal. */
  async *events(caller: Caller, id: JobId, from: number, follow: boolean, signal: AbortSignal): AsyncIterable<JobEvent> {
    this.get(caller, id);
    const live = this.#live.get(id);
    const path = join(this.#directory(id), 'events.ndjson');
    let last = { n: from - 1, timeMs: 0, type: '' };
    for await (const event of live?.log.read(from, follow, signal) ?? readEndedLog(path, from)) {
      if (signal.aborted) return;
      last = event;
      yield event;
    }
    const record = live?.record ?? this.get(caller, id);
    if (last.type !== 'end' && isFinal(record.state) && !signal.aborted)
      yield { n: last.n + 1, timeMs: last.timeMs, type: 'end', job: record };
  }

  /** Takes no more jobs, cancels the waiting ones, and the running ones when the signal aborts. */
  async close(drain: AbortSignal): Promise<void> {
    for (const waiting of this.#queue.close()) {
      const job = this.#live.get(waiting.id as JobId);
      if (job === undefined) continue;
      job.abort.abort(new RootlayerError('E_CANCELLED', 'The daemon stopped before the job started', { hint: 'Submit it again.' }));
      this.#fail(job, job.abort.signal.reason);
      await this.#forget(job);
    }
    const cancelAll = (): void => {
      for (const job of this.#live.values()) job.abort.abort(new RootlayerError('E_CANCELLED', 'The daemon stopped'));
    };
    drain.addEventListener('abort', cancelAll, { once: true });
    if (drain.aborted) cancelAll();
    await this.#queue.idle();
    drain.removeEventListener('abort', cancelAll);
    this.#journal.catchUp();
  }

  #directory(id: JobId): string {
    return join(this.#parts.directory, id);
  }
}

function logError(): RootlayerError {
  return new RootlayerError('E_STATE', 'Cannot write the log of the job', { hint: 'Make room in the state directory.' });
}

function newRecord(caller: Caller, request: JobRequest, base: ImageRecord | null, isolation: IsolationReport): JobRecord {
  return {
    id: newJobId(),
    state: 'queued',
    uid: caller.uid,
    from: request.from,
    baseImage: base?.id ?? null,
    createdAt: new Date().toISOString(),
    startedAt: null,
    finishedAt: null,
    isolation,
    limits: request.limits,
    exitStatus: null,
    exitStatusBy: null,
    endedByLimit: null,
    usage: null,
    error: null,
    layer: null,
    imageName: null,
    timingsMs: {},
  };
}
