import { statfsSync } from 'node:fs';
import { RootlayerError } from '../core/errors.ts';
import type { ImageRecord } from '../core/image.ts';

const GIB = 1024 ** 3;

/** What is kept free on the disk of the state directory, and how much of it one caller may fill; root has no quota. */
export type AdmissionLimits = { freeFloorBytes: number; storeBytesPerUid: number };

export const DEFAULT_ADMISSION: AdmissionLimits = { freeFloorBytes: 2 * GIB, storeBytesPerUid: 20 * GIB };

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
