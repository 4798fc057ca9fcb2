import { closeSync, constants, mkdirSync, openSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { NEW } from './leftovers.ts';

/**
 * Gives a file without a name, open for reading, which the caller closes; `fill` writes to its descriptor. It has no name while it is filled either, so that
 * nothing is left of it however this process ends. The directory is made if need be.
 */
export async function openNameless(directory: string, fill: (fd: number) => Promise<void>): Promise<number> {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, `${NEW}${process.pid}.${Math.random().toString(16).slice(2)}`);
  const output = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
  try {
    unlinkSync(path);
    await fill(output);
    return openAgain(output);
  } finally {
    closeSync(output);
  }
}

/** A descriptor for reading of an open file that shares neither position nor flags with the first, as a duplicate would. The caller closes both. */
export function openAgain(fd: number): number {
  return openSync(`/proc/self/fd/${fd}`, constants.O_RDONLY);
}
