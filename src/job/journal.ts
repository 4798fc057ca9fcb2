import { RootlayerError } from '../core/errors.ts';
import type { JobId } from '../core/ids.ts';
import type { JobRecord } from '../core/job.ts';
import type { JobTable } from '../state/jobs.ts';

/** What the journal is made of; see `JobServiceParts`. */
export type JournalParts = {
  table: JobTable;
  atomically(action: () => void): void;
  releaseLayer(job: JobRecord): void;
  onTrouble(job: JobRecord, error: unknown): void;
};

/**
 * The records of all jobs, and the writing of last states. One that cannot be written, as on a full disk, counts all the same: it is told to whoever
 * asks, and written when there is room again. Should the daemon end before that, the next one finds the job unfinished, and tells it as lost.
 */
export class Journal {
  readonly #parts: JournalParts;
  /** Never more than the jobs that were there before the disk was full: without a row in the table no job comes in. */
  readonly #unwritten = new Map<JobId, JobRecord>();

  constructor(parts: JournalParts) {
    this.#parts = parts;
  }

  /**
   * Writes a last state; with it goes what an unsuccessful job holds, so that a job without a last state may hold something, and none with one. Gives
   * the record that counts: what is done and cannot be written has failed with `E_STATE`. Never throws.
   */
  end(record: JobRecord): JobRecord {
    this.catchUp();
    try {
      this.#write(record);
      return record;
    } catch (error) {
      const told = record.state === 'done' ? asFailed(record, error) : record;
      this.#unwritten.set(record.id, told);
      this.#parts.onTrouble(told, error);
      return told;
    }
  }

  /** Writes what could not be written before; gives up at the first that still cannot. */
  catchUp(): void {
    for (const [id, record] of this.#unwritten) {
      try {
        this.#write(record);
      } catch {
        return; // it has been told, and its turn comes again
      }
      this.#unwritten.delete(id);
    }
  }

  #write(record: JobRecord): void {
    this.#parts.atomically(() => {
      this.#parts.table.update(record);
      if (record.state !== 'done') this.#parts.releaseLayer(record);
    });
  }

  get(id: JobId): JobRecord | null {
    return this.#unwritten.get(id) ?? this.#parts.table.get(id);
  }

  /** Jobs of one caller, oldest first; of all callers for null. */
  list(uid: number | null): JobRecord[] {
    return this.#parts.table.list(uid).map((record) => this.#unwritten.get(record.id) ?? record);
  }

  /** Removes a job with all that it holds. Throws `E_STATE`: then nothing is removed. */
  remove(record: JobRecord): void {
    try {
      this.#parts.atomically(() => {
        this.#parts.table.delete(record.id);
        this.#parts.releaseLayer(record);
      });
    } catch (error) {
      throw journalError(error);
    }
    this.#unwritten.delete(record.id);
  }
}

function asFailed(record: JobRecord, error: unknown): JobRecord {
  return { ...record, state: 'failed', error: journalError(error).toBody(), layer: null };
}

/** What is told when the journal, or what belongs to it, cannot be written; errors that say more themselves stay as they are. */
export function journalError(cause: unknown): RootlayerError {
  if (cause instanceof RootlayerError) return cause;
  return new RootlayerError('E_STATE', 'Cannot write the journal', { hint: 'Make room in the state directory.', cause });
}
