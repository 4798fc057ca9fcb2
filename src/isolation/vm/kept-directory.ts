import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { RootlayerError } from '../../core/errors.ts';
import { NEW } from './leftovers.ts';

/** What a process left behind that ended meanwhile goes after this time. */
const STALE_MS = 3600_000;

/** Which directory is wanted, and whether those of the same kind with other keys are nobody's any more. */
export type KeptPlace = { parent: string; kind: string; key: string; removeOthers: boolean };

/**
 * Gives the directory `<kind>-<key>` below another, with what `fill` puts into it: whole or not there, readable by all, made once. With `removeOthers`,
 * those of other keys go. Several processes may do the same at once. Throws `E_STATE` when the disk is full.
 */
export async function keepDirectory(place: KeptPlace, fill: (path: string) => Promise<void>): Promise<string> {
  const path = join(place.parent, `${place.kind}-${place.key}`);
  if (!existsSync(path)) await make(place, path, fill);
  if (place.removeOthers) await removeOthers(place.parent, `${place.kind}-`, path);
  return path;
}

async function make({ parent, kind }: KeptPlace, path: string, fill: (path: string) => Promise<void>): Promise<void> {
  let temporary: string | null = null;
  try {
    temporary = await mkdtemp(join(parent, `${NEW}${kind}-`));
    await fill(temporary);
    await chmod(temporary, 0o755);
    await rename(temporary, path);
  } catch (error) {
    if (temporary !== null) await rm(temporary, { recursive: true, force: true });
    // Another process has made the same one meanwhile.
    if (!existsSync(path)) throw explain(error, path);
  }
}

function explain(error: unknown, path: string): unknown {
  const { code } = error as NodeJS.ErrnoException;
  if (code !== 'ENOSPC' && code !== 'EDQUOT') return error;
  return new RootlayerError('E_STATE', `Cannot keep "${path}": the disk of the state directory is full`, {
    hint: 'Make room in the state directory.',
    cause: error,
  });
}

async function removeOthers(parent: string, prefix: string, kept: string): Promise<void> {
  for (const name of await readdir(parent)) {
    const path = join(parent, name);
    const isOther = name.startsWith(prefix) && path !== kept;
    if (isOther || (name.startsWith(NEW) && (await isStale(path)))) await rm(path, { recursive: true, force: true });
  }
}

async function isStale(path: string): Promise<boolean> {
  try {
    return Date.now() - (await stat(path)).mtimeMs > STALE_MS;
  } catch {
    return false; // its maker has finished it
  }
}
