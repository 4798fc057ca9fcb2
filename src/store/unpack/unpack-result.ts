import type { Progress } from '../../core/engine.ts';
import { type ErrorCode, RootlayerError } from '../../core/errors.ts';
import { startWorker, type Worker } from '../../host/worker.ts';
import { finishResult } from './finish-result.ts';
import { type ResultAnswer, type ResultLimits, resultAnswerSchema, resultLimitsSchema, resultRequestSchema } from './result-protocol.ts';
import { unpackWorkerKind } from './unpack-layer.ts';

/** What {@link unpackResult} needs. All descriptors stay the caller's. */
export type UnpackResultRequest = {
  /**
   * The read end of a blocking pipe or socket with the tar that the guest sends, read until its other end is closed. After an error nobody reads any
   * more: closing it then ends a writer that waits.
   */
  tarFd: number;
  /**
   * An empty upper directory on a mount with `nodev` and `nosuid`: through the mount that shows ids from `uidBase` on as the plain ones, and
   * through the plain one. An {@link Upper} has both.
   */
  upper: { readonly upperDirFd: number; readonly plainDirFd: number };
  /** Host id that owner 0 has on the first of these mounts: the worker is root of a user namespace over the 65,536 ids from there. */
  uidBase: number;
  limits?: Partial<ResultLimits>;
  /** The worker lives in these cgroups. */
  cgroupFds?: number[];
  /** Gives a fresh worker of {@link unpackWorkerKind}, from a pool perhaps; it is used once and disposed here. */
  takeWorker?: (signal: AbortSignal) => Promise<Worker>;
  signal: AbortSignal;
  progress?: Progress | null;
};

/** What came of a guest's result. */
export type UnpackedResult = {
  entries: number;
  /** Of the tar. */
  bytes: number;
  /** For people, one sentence each. */
  warnings: string[];
};

/**
 * Writes the result of a guest, a pax tar of its raw upper directory, into an upper of the host's own, so that a capture of it gives the layer that a
 * namespace would have given. A confined worker reads the tar while it comes and makes the files; what needs the host's root is done behind it,
 * when the worker is gone. After an error, or an abort, the upper holds whatever it holds: the caller throws it away.
 *
 * Throws, in words that name the guest, `E_ARCHIVE_*` for what no honest guest sends, `E_LIMIT_RESULT`, `E_LIMIT_XATTR` and `E_LIMIT_DISK` for what
 * does not fit; besides `E_SYSCALL`, `E_WORKER`, and the signal's reason. A tar that ends early is `E_ARCHIVE_TRUNCATED`: when the guest itself
 * failed, that is the better thing to tell.
 */
export async function unpackResult(request: UnpackResultRequest): Promise<UnpackedResult> {
  const { upper, signal } = request;
  try {
    const { entries, bytes, warnings, late } = await callWorker(request);
    await finishResult(upper.plainDirFd, late, signal);
    return { entries, bytes, warnings };
  } catch (error) {
    throw signal.aborted ? error : aboutGuest(error);
  }
}

/** When this returns, the worker is dead: what a guest may have made of it cannot disturb what follows. */
async function callWorker(request: UnpackResultRequest): Promise<ResultAnswer> {
  const { tarFd, upper, uidBase, cgroupFds = [], signal } = request;
  await using worker = await (request.takeWorker?.(signal) ?? startWorker(unpackWorkerKind(uidBase), cgroupFds, signal));
  const body = resultRequestSchema.parse({ kind: 'result', limits: resultLimitsSchema.parse(request.limits ?? {}) });
  const answer = await worker.call(body, [tarFd, upper.upperDirFd], request.progress ?? null, signal);
  const parsed = resultAnswerSchema.safeParse(answer);
  if (parsed.success) return parsed.data;
  throw new RootlayerError('E_WORKER', 'Cannot unpack the result: the worker gave no valid answer', { cause: parsed.error });
}

/** Gives an error the fact that the archive was a guest's, which the user has never seen; with a full disk, what to do. */
function aboutGuest(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const code = error instanceof RootlayerError ? error.code : 'E_INTERNAL';
  if (code === 'E_SYSCALL' || code === 'E_INTERNAL') return error.message.includes('ENOSPC') ? diskFull(error) : error;
  if (!code.startsWith('E_ARCHIVE_') && !code.startsWith('E_LIMIT_')) return error;
  const what = error.message.charAt(0).toLowerCase() + error.message.slice(1);
  // To a user, members are the entries of the layer that they asked for.
  const told: ErrorCode = code === 'E_LIMIT_ENTRIES' ? 'E_LIMIT_RESULT' : code;
  const hint = code.startsWith('E_ARCHIVE_')
    ? 'No untouched guest sends that: something in it has probably taken over its kernel or its agent.'
    : undefined;
  return new RootlayerError(told, `Cannot take the result of the virtual machine: ${what}`, { hint, cause: error });
}

function diskFull(cause: Error): RootlayerError {
  return new RootlayerError('E_LIMIT_DISK', 'Cannot take the result of the virtual machine: it does not fit on the disk of the job', {
    hint: 'Raise the limit with --disk, or --inodes for many small files.',
    cause,
  });
}
