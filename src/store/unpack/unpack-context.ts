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
  await worker.call(body, [contextFd, directoryFd], null, signal);
}
