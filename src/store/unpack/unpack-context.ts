import { RootlayerError } from '../../core/errors.ts';
import { statFd } from '../../host/libc.ts';
import { startWorker } from '../../host/worker.ts';
import type { ContextTop } from './context-filter.ts';
import { parseResult, unpackWorkerKind } from './unpack-layer.ts';
import { unpackLimitsSchema, unpackRequestSchema } from './unpack-protocol.ts';

/** What {@link unpackContext} needs. All descriptors stay the caller's. */
export type UnpackContextRequest = {
  /** The uploaded tar: a regular file, read from its start. */
  contextFd: number;
  /** Which part of it: `copy` goes into the layer as root's, `exact` goes there with its owners, `files` is shown to the script. */
  top: ContextTop;
  directoryFd: number;
  /**
   * The merged base below that directory, with the same ids, or null. What is copied to a path goes where the symlinks of the base lead, as `cp`
   * would do it in the job, and a directory that the context does not list looks as the base's.
   */
  lowerFd?: number | null;
  /** Host id that owner 0 becomes. */
  uidBase: number;
  signal: AbortSignal;
};

/**
 * Extracts one part of an uploaded context into a directory, under the rules of layers: in a confined worker, never outside of the
 * directory. Modes, times and attributes are the tar's; directories that are there take those of the tar. Gives the parts that the context has.
 * Throws `E_ARCHIVE_*` (an owner above 65535 below `exact` is `E_ARCHIVE_ID`), `E_LIMIT_*`, `E_SYSCALL`, `E_WORKER`.
 */
export async function unpackContext(request: UnpackContextRequest): Promise<ReadonlySet<ContextTop>> {
  const { contextFd, top, directoryFd, lowerFd = null, uidBase, signal } = request;
  const fds = lowerFd === null ? [contextFd, directoryFd] : [contextFd, directoryFd, lowerFd];
  await using worker = await startWorker(unpackWorkerKind(uidBase), [], signal);
  const body = unpackRequestSchema.parse({
    compression: 'none',
    blobBytes: statFd(contextFd).size,
    limits: unpackLimitsSchema.parse({}),
    context: top,
  });
  try {
    return new Set(parseResult(await worker.call(body, fds, null, signal)).tops);
  } catch (error) {
    if (!(error instanceof Error && error.message.includes('ENOSPC'))) throw error;
    throw new RootlayerError('E_LIMIT_DISK', 'Cannot put the files in place: they do not fit', {
      hint: top === 'files' ? 'Use --copy for more than 256 MiB of files.' : 'Raise the limit with --disk or --inodes.',
      cause: error,
    });
  }
}
