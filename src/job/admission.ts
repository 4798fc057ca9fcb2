import { statfsSync } from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';
import { RootlayerError } from '../core/errors.ts';
import type { ImageRecord } from '../core/image.ts';
import type { Limits } from '../core/limits.ts';

const GIB = 1024 ** 3;

/** What is kept free on the disk of the state directory, and how much of it one caller may fill; root has no quota. */
export type AdmissionLimits = { freeFloorBytes: number; storeBytesPerUid: number; jobsPerUid: number; maxLimits: Limits };

/** What a caller other than root may ask for at most: nothing that the machine does not have, and no job of more than a day. */
const DEFAULT_MAX_LIMITS: Limits = {
  memoryBytes: totalmem(),
  cpus: availableParallelism(),
  pids: 32_768,
  diskBytes: 256 * GIB,
  inodes: 10_000_000,
  timeMs: 24 * 3_600_000,
  silenceMs: 24 * 3_600_000,
  outputBytes: GIB,
};

export const DEFAULT_ADMISSION: AdmissionLimits = {
  freeFloorBytes: 2 * GIB,
  storeBytesPerUid: 20 * GIB,
  jobsPerUid: 1000,
  maxLimits: DEFAULT_MAX_LIMITS,
};

/**
 * Throws `E_BUSY` when the disk has no room for `bytes` more above the floor (at most a twentieth of the disk), so that work is refused at its
 * start and does not fail half way for everybody.
 */
export function checkFreeSpace(stateDir: string, bytes: number, limits: AdmissionLimits): void {
  const { bavail, blocks, bsize } = statfsSync(stateDir);
  const floor = Math.min(limits.freeFloorBytes, (blocks * bsize) / 20);
  const free = bavail * bsize;
  if (free - bytes >= floor) return;
  throw new RootlayerError('E_BUSY', `Cannot take more: ${free} bytes are free in the state directory, want ${Math.ceil(floor + bytes)}`, {
    hint: 'Remove images and jobs that are no longer needed (rootlayer image rm, rootlayer job rm), or enlarge the disk.',
  });
}

/** Throws `E_QUOTA` when a caller's own images and `bytes` more are above their share. */
export function checkQuota(uid: number, images: readonly ImageRecord[], bytes: number, limits: AdmissionLimits): void {
  if (uid === 0) return;
  const used = images.filter((image) => image.uid === uid).reduce((sum, image) => sum + image.sizeBytes, 0);
  if (used + bytes <= limits.storeBytesPerUid) return;
  throw new RootlayerError('E_QUOTA', `Cannot store ${bytes} bytes: ${used} are used, want at most ${limits.storeBytesPerUid}`, {
    hint: 'Remove images that are no longer needed with rootlayer image rm.',
  });
}

/** Throws `E_FORBIDDEN` for a limit above what the administrator allows to callers other than root. */
export function checkLimits(uid: number, wanted: Limits, { maxLimits }: AdmissionLimits): void {
  if (uid === 0) return;
  for (const name of Object.keys(maxLimits) as (keyof Limits)[]) {
    if (wanted[name] <= maxLimits[name]) continue;
    throw new RootlayerError('E_FORBIDDEN', `Cannot allow limit ${name} = ${wanted[name]}: want at most ${maxLimits[name]}`);
  }
}

/** Throws `E_QUOTA` when a caller keeps too many jobs, or too much in their layers. */
export function checkKeptJobs(uid: number, kept: { jobs: number; layerBytes: number }, limits: AdmissionLimits): void {
  if (uid === 0 || (kept.jobs < limits.jobsPerUid && kept.layerBytes < limits.storeBytesPerUid)) return;
  throw new RootlayerError('E_QUOTA', `Cannot take the job: ${kept.jobs} of yours are kept, with ${kept.layerBytes} bytes of layers`, {
    hint: 'Remove old ones with rootlayer job rm.',
  });
}
