import type Database from 'better-sqlite3';
import type { JobId } from '../core/ids.ts';
import { isFinal, type JobRecord } from '../core/job.ts';

/** The journal of jobs: one row a job, holding its record as JSON. A final state is written once and never changed. */
export class JobTable {
  readonly #insert: Database.Statement<[string, number, string, string, string]>;
  readonly #update: Database.Statement<[string, string, string]>;
  readonly #get: Database.Statement<[string], { record: string }>;
  readonly #ofUid: Database.Statement<[number], { record: string }>;
  readonly #all: Database.Statement<[], { record: string }>;
  readonly #open: Database.Statement<[], { record: string }>;
  readonly #delete: Database.Statement<[string]>;
  readonly #usage: Database.Statement<[number], { jobs: number; layerBytes: number }>;

  constructor(db: Database.Database) {
    this.#insert = db.prepare('INSERT INTO jobs (id, uid, state, created_at, record) VALUES (?, ?, ?, ?, ?)');
    this.#update = db.prepare(`UPDATE jobs SET state = ?, record = ? WHERE id = ? AND state NOT IN (${FINAL})`);
    this.#get = db.prepare('SELECT record FROM jobs WHERE id = ?');
    this.#ofUid = db.prepare('SELECT record FROM jobs WHERE uid = ? ORDER BY created_at, id');
    this.#all = db.prepare('SELECT record FROM jobs ORDER BY created_at, id');
    this.#open = db.prepare(`SELECT record FROM jobs WHERE state NOT IN (${FINAL})`);
    this.#usage = db.prepare(
      "SELECT count(*) AS jobs, coalesce(sum(json_extract(record, '$.layer.sizeBytes')), 0) AS layerBytes FROM jobs WHERE uid = ?",
    );
    this.#delete = db.prepare('DELETE FROM jobs WHERE id = ?');
  }

  insert(job: JobRecord): void {
    this.#insert.run(job.id, job.uid, job.state, job.createdAt, JSON.stringify(job));
  }

  /** Writes a new state; false when the job had ended already. */
  update(job: JobRecord): boolean {
    return this.#update.run(job.state, JSON.stringify(job), job.id).changes === 1;
  }

  get(id: JobId): JobRecord | null {
    const row = this.#get.get(id);
    return row === undefined ? null : (JSON.parse(row.record) as JobRecord);
  }

  /** Jobs of one caller, oldest first; of all callers for null. */
  list(uid: number | null): JobRecord[] {
    const rows = uid === null ? this.#all.all() : this.#ofUid.all(uid);
    return rows.map((row) => JSON.parse(row.record) as JobRecord);
  }

  /** Jobs that an earlier daemon did not end. */
  unfinished(): JobRecord[] {
    return this.#open.all().map((row) => JSON.parse(row.record) as JobRecord);
  }

  /** How many jobs of a caller are kept, and the bytes of their layers. */
  usage(uid: number): { jobs: number; layerBytes: number } {
    return this.#usage.get(uid) ?? { jobs: 0, layerBytes: 0 };
  }

  delete(id: JobId): void {
    this.#delete.run(id);
  }
}

const FINAL = (['done', 'failed', 'cancelled', 'lost'] as const)
  .filter(isFinal)
  .map((state) => `'${state}'`)
  .join(', ');
