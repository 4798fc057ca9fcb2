import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** At the start of the name of what is being made; what a process left behind that ended meanwhile goes after an hour. */
export const NEW = 'new-';
const STALE_MS = 3600_000;

/**
 * Gives the directory `<kind>-<key>` below another, with what `fill` puts into it: whole or not there, readable by all, made once. Those of
 * other keys go. Several processes may do the same at once.
 */
export async function keepDirectory(parent: string, kind: string, key: string, fill: (path: string) => Promise<void>): Promise<string> {
  const path = join(parent, `${kind}-${key}`);
  if (existsSync(path)) return path;
  const temporary = await mkdtemp(join(parent, `${NEW}${kind}-`));
  try {
    await fill(temporary);
    await chmod(temporary, 0o755);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    // Another process has made the same one meanwhile.
    if (!existsSync(path)) throw error;
  }
  await removeOthers(parent, `${kind}-`, path);
  return path;
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
