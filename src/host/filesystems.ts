import { readSync } from 'node:fs';
import { RootlayerError } from '../core/errors.ts';
import { close, fsCreate, fsMount, fsOpen, fsSetFlag, fsSetString } from './libc.ts';

/**
 * Mounts a filesystem detached: it is in no mount table, and gone when the descriptor is closed, also after a SIGKILL.
 * A value of `true` is a flag option. The caller closes the descriptor. Source: fsopen(2), fsmount(2).
 */
export function mountDetached(type: string, options: Record<string, string | true>, attributes: number): number {
  const context = fsOpen(type);
  try {
    for (const [key, value] of Object.entries(options)) {
      if (value === true) fsSetFlag(context, key);
      else fsSetString(context, key, value);
    }
    createFilesystem(context, type);
    return fsMount(context, attributes);
  } finally {
    close(context);
  }
}

/** fsconfig(2) CREATE; a refusal is told in the kernel's own words, which wait to be read from the context. Throws `E_SYSCALL`. */
export function createFilesystem(context: number, type: string): void {
  try {
    fsCreate(context);
  } catch (cause) {
    const words = kernelMessages(context);
    throw new RootlayerError('E_SYSCALL', `Cannot mount ${type}: ${words === '' ? String(cause) : words}`, { cause });
  }
}

function kernelMessages(context: number): string {
  const lines: string[] = [];
  const line = Buffer.alloc(4096);
  try {
    for (;;) lines.push(line.toString('latin1', 0, readSync(context, line)).trim());
  } catch {
    // ENODATA ends the list.
    return lines.join('; ');
  }
}
