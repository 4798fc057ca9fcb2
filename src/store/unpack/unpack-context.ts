import { RootlayerError } from '../../core/errors.ts';
import { statFd } from '../../host/libc.ts';
import { startWorker } from '../../host/worker.ts';
import { unpackWorkerKind } from './unpack-layer.ts';
import { unpackLimitsSchema, unpackRequestSchema } from './unpack-protocol.ts';

/** What {@link unpackContext} needs. All descriptors stay the caller's. */
export type UnpackContextRequest = {
  /** The uploaded tar: a regular file, read from its start. */
  contextFd: number;
  /** Which part of it: `copy` goes into the layer, `files` is shown to the script. */
  top: 'copy' | 'files';
  directoryFd: number;
  /** Host id that owner 0 becomes. */
  uidBase: number;
  signal: AbortSignal;
};

/**
 * Extracts one part of an uploaded context into a directory, under the rules of layers: in a confined worker, never outside of the
 * directory. Throws `E_ARCHIVE_*`, `E_LIMIT_*`, `E_SYSCALL` (a full disk), `E_WORKER`.
 */
export async function unpackContext(request: UnpackContextRequest): Promise<void> {
  const { contextFd, top, directoryFd, uidBase, signal } = request;
  await using worker = await startWorker(unpackWorkerKind(uidBase), [], signal);
  const body = unpackRequestSchema.parse({
    compression: 'none',
    blobBytes: statFd(contextFd).size,
    limits: unpackLimitsSchema.parse({}),
    context: top,
  });
  try {
    await worker.call(body, [contextFd, directoryFd], null, signal);
  } catch (error) {
    if (!(error instanceof Error && error.message.includes('ENOSPC'))) throw error;
    throw new RootlayerError('E_LIMIT_DISK', 'Cannot put the files in place: they do not fit', {
      hint: top === 'copy' ? 'Raise the limit with --disk or --inodes.' : 'Use --copy for more than 256 MiB of files.',
      cause: error,
    });
  }
}
