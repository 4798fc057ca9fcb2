import { close } from '../host/libc.ts';
import { closeLowers, openLowers, openLowerView } from '../overlay/lower.ts';
import type { Upper } from '../overlay/upper.ts';
import type { RangeLease, RunnableJob, RunnerParts } from './runner.ts';

/**
 * Puts the files that a job's context brings for the layer into its upper directory: those of root first, then those with owners of their own. They
 * go where the symlinks of the base lead (`/bin` is one in most images), and directories on the way look as the base's. `uidBase` is the host id
 * that the job's root has.
 */
export async function extractCopies(
  parts: Pick<RunnerParts, 'extractContext' | 'mounter'>,
  { contextId, layers }: Pick<RunnableJob, 'contextId' | 'layers'>,
  range: RangeLease,
  upper: Upper,
  uidBase: number,
  signal: AbortSignal,
): Promise<void> {
  if (contextId === null) return;
  const lowers = openLowers(
    layers.map(({ path }) => path),
    uidBase === 0 ? range.plainFd : range.maps.lowerFd,
  );
  try {
    const lower = lowers.length === 0 ? null : await openLowerView(parts.mounter, lowers);
    try {
      const fds = { directory: upper.upperDirFd, lower };
      await parts.extractContext(contextId, 'copy', fds, uidBase, signal);
      await parts.extractContext(contextId, 'exact', fds, uidBase, signal);
    } finally {
      if (lower !== null) close(lower);
    }
  } finally {
    closeLowers(lowers);
  }
}
