import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Caller } from '../../../src/core/engine.ts';
import type { RootlayerError } from '../../../src/core/errors.ts';
import { type JobEvent, type JobRecord, jobRequestSchema } from '../../../src/core/job.ts';
import type { RunnerParts } from '../../../src/job/runner.ts';
import { JobService } from '../../../src/job/service.ts';
import { type Database, openDatabase } from '../../../src/state/database.ts';
import { JobTable } from '../../../src/state/jobs.ts';

const ROOT: Caller = { uid: 0 };

/** A service over a real journal, one job at a time; no job gets as far as its script. */
export class ServiceFixture {
  readonly db: Database;
  readonly table: JobTable;
  readonly service: JobService;
  readonly jobsDirectory: string;
  readonly troubles: unknown[] = [];
  droppedContexts = 0;
  #proceed: (error: RootlayerError) => void = () => {};

  constructor(directory: string) {
    this.jobsDirectory = join(directory, 'jobs');
    mkdirSync(this.jobsDirectory);
    this.db = openDatabase(join(directory, 'state.db'));
    this.db.exec('CREATE TABLE held (owner TEXT)');
    this.table = new JobTable(this.db);
    this.service = new JobService({
      directory: this.jobsDirectory,
      table: this.table,
      queue: { running: 1, runningPerUid: 1, queuedPerUid: 8, queued: 8 },
      runner: {} as RunnerParts,
      findBase: () => null,
      leaseBase: async (_base, signal) =>
        await new Promise((_resolve, reject) => {
          this.#proceed = reject;
          signal.addEventListener('abort', () => reject(signal.reason));
        }),
      checkRequest: () => {},
      chooseIsolation: () => ({ used: 'userns', why: 'test', boundary: 'kernel', refused: [] }),
      takeContext: () => ({
        [Symbol.asyncDispose]: async () => {
          this.droppedContexts += 1;
        },
      }),
      imageConfig: () => '{}',
      nameImage: async () => 'none',
      atomically: (action) => this.db.transaction(action)(),
      hold: ({ id }) => this.db.prepare('INSERT INTO held VALUES (?)').run(id),
      releaseLayer: ({ id }) => this.db.prepare('DELETE FROM held WHERE owner = ?').run(id),
      onTrouble: (_job, error) => this.troubles.push(error),
    });
  }

  submit(): JobRecord {
    const script = Buffer.from('true').toString('base64');
    return this.service.submit(ROOT, jobRequestSchema.parse({ from: 'scratch', script, contextId: '0'.repeat(32) }));
  }

  /** Lets the running job fail. */
  fail(error: RootlayerError): void {
    this.#proceed(error);
  }

  get(job: JobRecord): JobRecord {
    return this.service.get(ROOT, job.id);
  }

  list(): JobRecord[] {
    return this.service.list(ROOT);
  }

  async cancel(job: JobRecord): Promise<JobRecord> {
    return await this.service.cancel(ROOT, job.id);
  }

  async events(job: JobRecord, follow: boolean): Promise<JobEvent[]> {
    const events: JobEvent[] = [];
    for await (const event of this.service.events(ROOT, job.id, 1, follow, new AbortController().signal)) events.push(event);
    return events;
  }

  /** Jobs that hold something. */
  holders(): unknown[] {
    return this.db.prepare('SELECT owner FROM held').pluck().all();
  }

  /** Nothing can be written to the journal any more, or it can again. */
  setWritable(isWritable: boolean): void {
    this.db.pragma(`query_only = ${isWritable ? 'OFF' : 'ON'}`);
  }

  /** Ends all jobs. */
  async close(): Promise<void> {
    await this.service.close(AbortSignal.abort());
    this.db.close();
  }
}
