import type { ErrorCode } from '../core/errors.ts';
import type { JobRecord } from '../core/job.ts';

/** rootlayer itself failed, or was used wrongly. */
export const EXIT_FAILURE = 125;
/** A limit of time or silence ended the job; as timeout(1) has it. */
export const EXIT_TIME_LIMIT = 124;
/** The memory limit ended the job: 128 + SIGKILL. */
export const EXIT_MEMORY_LIMIT = 137;
/** Cancelled: 128 + SIGINT. */
export const EXIT_CANCELLED = 130;

const STATUS_OF: Partial<Record<ErrorCode, number>> = {
  E_LIMIT_TIME: EXIT_TIME_LIMIT,
  E_LIMIT_SILENCE: EXIT_TIME_LIMIT,
  E_LIMIT_MEMORY: EXIT_MEMORY_LIMIT,
  E_CANCELLED: EXIT_CANCELLED,
};

/** Gives the exit status of a command for a job that has ended: the script's own where it has one. */
export function exitStatusOf(job: JobRecord): number {
  if (job.state === 'done') return job.exitStatus ?? 0;
  if (job.state === 'cancelled') return EXIT_CANCELLED;
  const byCode = job.error === null ? undefined : STATUS_OF[job.error.code];
  if (byCode !== undefined) return byCode;
  // A script that ended with 0 and a job that failed all the same: that is our failure.
  return job.exitStatus === null || job.exitStatus === 0 ? EXIT_FAILURE : job.exitStatus;
}
