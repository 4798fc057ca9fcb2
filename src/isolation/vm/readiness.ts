import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { toRootlayerError } from '../../core/errors.ts';
import type { VmReadiness } from '../choose.ts';
import { recallAcceleration } from './acceleration.ts';
import { QEMU_PROGRAM } from './jail.ts';

/** The file in an engine's directory for virtual machines that remembers what was found out. */
export const ACCELERATION_FILE = 'acceleration.json';

/**
 * What can be said of virtual machines at once, for choosing an isolation: whether their parts are there, and what is remembered of KVM.
 * `findGuest` throws when there is nothing to boot.
 */
export function vmReadiness(directory: string, findGuest: () => void): VmReadiness {
  if (!existsSync(QEMU_PROGRAM)) return { ok: false, lacked: `"${QEMU_PROGRAM}" is not there, want the package qemu-system-x86` };
  try {
    findGuest();
  } catch (error) {
    return { ok: false, lacked: toRootlayerError(error).message };
  }
  const known = recallAcceleration(join(directory, ACCELERATION_FILE));
  return known === null ? { ok: true, acceleration: 'untried', why: 'KVM has not been tried' } : { ok: true, ...known };
}
