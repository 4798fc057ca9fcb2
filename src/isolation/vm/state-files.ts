import { constants } from 'node:fs';
import { open, readdir, rename, rm, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';

/** A file that is being written has this at the end of its name; one that a process left behind goes after an hour. */
const NEW = '.new';
const STALE_MS = 3600_000;

/** Makes a file that only its owner can read, and nobody write: whole and on the disk, or not there. `save` writes to its descriptor. */
export async function writeState(path: string, save: (fd: number) => Promise<void>): Promise<void> {
  const temporary = `${path}.${process.pid}${NEW}`;
  const file = await open(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, 0o600);
  try {
    await save(file.fd);
    await file.chmod(0o400);
    await file.sync();
    await rename(temporary, path);
  } catch (error) {
    await unlink(temporary).catch(() => {});
    throw error;
  } finally {
    await file.close();
  }
  const directory = await open(dirname(path), constants.O_RDONLY);
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

const SCRATCH_BYTES = 1024 * 1024;

/** The first disk of each machine can be written: this one has no name and is gone when it is closed. */
export async function openScratch(directory: string): Promise<{ fd: number } & AsyncDisposable> {
  const path = join(directory, `scratch.${process.pid}.${Math.random().toString(16).slice(2)}${NEW}`);
  const file = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
  await unlink(path);
  await file.truncate(SCRATCH_BYTES);
  return { fd: file.fd, [Symbol.asyncDispose]: async () => await file.close() };
}

/** Keeps the most recently used files of a directory (by their mtime) and removes the others, and what was left half-written. */
export async function collectStates(directory: string, kept: number): Promise<void> {
  const files = await Promise.all((await readdir(directory)).map(async (name) => await describe(join(directory, name))));
  const byUse = files.flatMap((file) => file ?? []).sort((a, b) => b.usedMs - a.usedMs);
  const isStale = ({ path, usedMs }: StateFile): boolean => path.endsWith(NEW) && Date.now() - usedMs > STALE_MS;
  const surplus = byUse.filter(({ path }) => !path.endsWith(NEW)).slice(kept);
  for (const { path } of [...surplus, ...byUse.filter(isStale)]) await rm(path, { force: true });
}

type StateFile = { path: string; usedMs: number };

async function describe(path: string): Promise<StateFile | null> {
  try {
    return { path, usedMs: (await stat(path)).mtimeMs };
  } catch {
    return null; // another process has removed it
  }
}
