import { RootlayerError, toRootlayerError } from '../core/errors.ts';
import { escapeName } from '../core/names.ts';
import { SyscallError } from '../host/errno.ts';
import type { Stat } from '../host/libc.ts';
import type { Report } from '../host/worker-main.ts';
import type { CaptureRequest, CaptureResult } from './capture-protocol.ts';
import type { HashRing } from './hash-ring.ts';
import { LowerView } from './lower-view.ts';
import { Packer } from './packer.ts';
import { TarOutput } from './tar-output.ts';
import { UpperWalk } from './upper-walk.ts';
import { Warnings } from './warnings.ts';

/** The descriptors of a request, in the order in which they travel. */
export type CaptureFds = { upper: number; output: number; lower: number | null };

/** Time of everything under `compat=seed` when none is given: what nixpkgs sets, 1980-01-01. */
const SEED_EPOCH = 315_532_800;

/** Packs one directory into the output file and gives the sums. Synchronous: it runs in a worker that does nothing else. */
export function runCapture(
  request: CaptureRequest,
  fds: CaptureFds,
  ring: HashRing,
  report: Report,
): Omit<CaptureResult, 'diffId'> & { diffId: string } {
  const { sourceDateEpoch: epoch, compat, limits } = request;
  const isSeed = compat === 'seed';
  const mtimeOf = isSeed ? () => epoch ?? SEED_EPOCH : (stat: Stat) => (epoch === null ? stat.mtimeSec : Math.min(stat.mtimeSec, epoch));
  const warnings = new Warnings();
  const output = new TarOutput(fds.output, ring, limits.maxBytes, (done) => report({ stage: 'capture', done, total: null, unit: 'bytes' }));
  try {
    const packer = new Packer(output, {
      markerMtimeSec: isSeed ? (epoch ?? SEED_EPOCH) : (epoch ?? 0),
      links: isSeed ? 'copy' : 'link',
      maxEntries: limits.maxEntries,
    });
    using lower = fds.lower === null ? null : new LowerView(fds.lower, mtimeOf);
    using walk = new UpperWalk(fds.upper, lower, packer, warnings, { ...request, mtimeOf, maxXattrBytes: limits.maxXattrBytes });
    runNamed(walk);
    const sums = packer.finish();
    return { ...sums, entries: packer.entries, warnings: warnings.lines() };
  } catch (error) {
    output.abort();
    throw toRootlayerError(error);
  }
}

/** What a call says when a name is no longer what it was a moment ago; EINVAL is readlinkat's word for what is no symlink. */
const CHANGED = new Set(['ENOENT', 'ENOTDIR', 'ELOOP', 'EXDEV', 'ESTALE', 'EAGAIN', 'ENXIO', 'EINVAL']);

/** Gives a failed system call the path that it failed at. */
function runNamed(walk: UpperWalk): void {
  try {
    walk.run();
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === null) throw error;
    const code = CHANGED.has(errno) ? 'E_CAPTURE_CHANGED' : 'E_CAPTURE';
    const message = error instanceof Error ? error.message : String(error);
    throw new RootlayerError(code, `Cannot capture "${escapeName(walk.where())}": ${message}`, { cause: error });
  }
}

/** Of a call through libc.ts, or through node:fs; null for any other error. */
function errnoOf(error: unknown): string | null {
  if (error instanceof SyscallError) return error.errno;
  if (error instanceof RootlayerError || !(error instanceof Error) || !('errno' in error) || !('code' in error)) return null;
  return String(error.code);
}
