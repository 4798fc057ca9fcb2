import { z } from 'zod';
import type { Progress } from '../core/engine.ts';
import { RootlayerError } from '../core/errors.ts';
import { CAP, type Worker, type WorkerKind } from '../host/worker.ts';
import { type DiskResult, diskLimitsSchema, diskResultSchema } from './disk-protocol.ts';

/** Reads any file and overlayfs' own attributes; SYS_ADMIN and SYS_CHROOT go with the seccomp filter, which lets no call through that needs them. */
export const diskWorkerKind: WorkerKind = {
  entry: 'erofs/disk-worker.ts',
  uidBase: null,
  capabilities: CAP.DAC_READ_SEARCH | CAP.SYS_ADMIN | CAP.SYS_CHROOT,
  heapMib: 512,
};

/** How large a disk may become; what is left out has the default of the request's schema. */
export type DiskLimits = z.input<typeof diskLimitsSchema>;

/**
 * Makes a read-only EROFS image of a tree (a directory open for reading) in an empty regular file open for writing; both stay the caller's. All is kept
 * but sockets: whiteouts and `trusted.overlay.*` too, so that overlayfs can use the disk as a layer; owners as the directory shows them. The
 * same tree gives the same bytes. A failed call leaves the file with no superblock: delete it. Nothing is synced. Throws what `writeImage` throws, `E_WORKER`,
 * and the signal's reason.
 */
export async function makeDisk(
  worker: Worker,
  fds: { root: number; output: number },
  limits: DiskLimits,
  progress: Progress | null,
  signal: AbortSignal,
): Promise<DiskResult> {
  const request = { limits: diskLimitsSchema.parse(limits) };
  const answer = diskResultSchema.safeParse(await worker.call(request, [fds.root, fds.output], progress, signal));
  if (answer.success) return answer.data;
  throw new RootlayerError('E_WORKER', `Cannot read the answer of a disk worker: ${z.prettifyError(answer.error)}`);
}
