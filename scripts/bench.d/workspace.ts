import { existsSync, mkdirSync, mkdtempSync, rmdirSync } from 'node:fs';
import path from 'node:path';
import { Scope } from '../../src/core/scope.ts';
import { run } from './command.ts';

/** The directory in which everything happens, a filesystem of its own. Disposing it removes it with all that is in it. */
export type Workspace = { dir: string } & AsyncDisposable;

/** Larger than what is ever in it. */
const SIZE = '24G';

/**
 * Mounts the workspace, in this process's mount namespace only: on a root filesystem without a journal, creating files after deleting
 * many is twenty times as slow, and no figure could be repeated.
 */
export async function openWorkspace(kind: 'tmpfs' | 'ext4'): Promise<Workspace> {
  const scope = new Scope();
  const dir = mkdtempSync(kind === 'tmpfs' ? '/dev/shm/rootlayer-bench-' : '/var/tmp/rootlayer-bench-');
  scope.defer(() => rmdirSync(dir));
  try {
    if (kind === 'tmpfs') await run(['mount', '-t', 'tmpfs', '-o', `size=${SIZE},mode=0755`, 'rootlayer-bench', dir]);
    else await mountDisk(dir);
    scope.defer(async () => {
      await run(['umount', dir]);
    });
    await hideContainers(scope);
    return { dir, [Symbol.asyncDispose]: async () => await scope[Symbol.asyncDispose]() };
  } catch (error) {
    await scope[Symbol.asyncDispose]();
    throw error;
  }
}

/** The image loses its name as soon as it is attached, and its loop device ends with the mount. */
async function mountDisk(dir: string): Promise<void> {
  const image = `${dir}.img`;
  try {
    await run(['truncate', '-s', SIZE, image]);
    await run(['mkfs.ext4', '-q', '-F', '-E', 'lazy_itable_init=0,lazy_journal_init=0', image]);
    await run(['mount', '-o', 'loop', image, dir]);
  } finally {
    await run(['rm', '-f', image]);
  }
}

const CONTAINERS = '/var/lib/containers';

/** Buildah remembers blobs here, wherever its storage is: that stays ours, and this machine's stays as it is. */
async function hideContainers(scope: Scope): Promise<void> {
  if (!existsSync(CONTAINERS)) {
    mkdirSync(CONTAINERS, { mode: 0o755 });
    scope.defer(() => rmdirSync(CONTAINERS));
  }
  await run(['mount', '-t', 'tmpfs', 'rootlayer-bench', CONTAINERS]);
  scope.defer(async () => {
    await run(['umount', CONTAINERS]);
  });
}

/** Makes an empty directory of the workspace. */
export function makeDirectory(workspace: Workspace, name: string): string {
  const dir = path.join(workspace.dir, name);
  mkdirSync(dir, { mode: 0o755 });
  return dir;
}

/** Removes files and trees, whatever is in them. */
export async function remove(...paths: string[]): Promise<void> {
  await run(['rm', '-rf', '--one-file-system', '--', ...paths]);
}
