import { setTimeout as sleep } from 'node:timers/promises';
import type { Session } from '../api/session.ts';
import { assertNever } from '../core/assert-never.ts';
import { RootlayerError } from '../core/errors.ts';
import type { JobId } from '../core/ids.ts';
import type { JobEvent, JobRecord } from '../core/job.ts';
import { type Output, whenDrained } from './output.ts';
import type { TerminalLink } from './terminal.ts';

/** A daemon that restarts is back within this time. */
const RECONNECT_TIME_MS = 15_000;
const RECONNECT_STEP_MS = 300;

/** What of a job's events is shown, and who else wants to know of them. */
export type FollowOptions = { from?: number; onEvent?: (event: JobEvent) => Promise<void> };

/** Shows a job's events from the first one (or another) to the last, and gives the job as it ended. Lives through a restart of the daemon. */
export async function followJob(
  session: Session,
  id: JobId,
  output: Output,
  signal: AbortSignal,
  { from = 1, onEvent }: FollowOptions = {},
): Promise<JobRecord> {
  let next = from;
  let lostMs: number | null = null;
  for (;;) {
    try {
      for await (const event of session.events(id, next, true, signal)) {
        next = event.n + 1;
        lostMs = null;
        await onEvent?.(event);
        if (event.type === 'end') return event.job;
        show(event, output);
        await whenDrained();
      }
      // The stream ended early: so it does when the daemon ends in order.
      lostMs ??= performance.now();
    } catch (error) {
      if (!(error instanceof RootlayerError) || error.code !== 'E_UNREACHABLE' || signal.aborted) throw error;
      lostMs ??= performance.now();
      if (performance.now() - lostMs > RECONNECT_TIME_MS) throw error;
    }
    signal.throwIfAborted();
    if (performance.now() - lostMs > RECONNECT_TIME_MS) {
      throw new RootlayerError('E_UNREACHABLE', `Cannot follow job ${id}: its events end without an end`);
    }
    await sleep(RECONNECT_STEP_MS);
  }
}

/** {@link followJob} with the terminal joined; gives null when the user has left. */
export async function followLinked(
  session: Session,
  id: JobId,
  output: Output,
  link: TerminalLink,
  signal: AbortSignal,
  from = 1,
): Promise<JobRecord | null> {
  try {
    return await followJob(session, id, output, signal, { from, onEvent: link.watch });
  } catch (error) {
    if (link.left.aborted) return null;
    throw error;
  } finally {
    link.close();
  }
}

/** Shows one event. */
export function show(event: JobEvent, output: Output): void {
  switch (event.type) {
    case 'log':
      output.log(event.stream, Buffer.from(event.data, event.encoding ?? 'utf8'));
      break;
    case 'progress':
      output.progress(event.stage, event.done, event.total, event.unit);
      break;
    case 'warning':
      output.note(`rootlayer: warning: ${event.message}`);
      break;
    case 'state':
    case 'end':
      break;
    default:
      assertNever(event);
  }
}
