import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { isErrno } from './errno.ts';
import { openUserNamespace, RANGE_SIZE } from './idmap.ts';
import { AT_FDCWD, cloneTree, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, setMountAttributes } from './libc.ts';

/** Where the launcher attaches a worker's program. Source: isolation/launcher.c, worker_child. */
const PLACE = '/sys';

/** The directory that holds the modules which this program loads: that of a checkout, or the one into which the package is installed. */
const ROOT = (() => {
  const module = createRequire(import.meta.url).resolve('koffi');
  return module.slice(0, module.lastIndexOf(`${path.sep}node_modules${path.sep}`));
})();

/** Whether this program lies in that directory, so that one mount shows a worker all it needs. */
export const isCodeInOnePlace = import.meta.dirname.startsWith(`${ROOT}${path.sep}`);

/** Ids of root, as a worker of this range has them; one for each range, as long as the process lives. */
const namespaces = new Map<number, Promise<number>>();

/**
 * A read-only, detached mount of the program, owned by the root of a worker's user namespace: the program may lie where only the host's root
 * can read, such as in root's home. The caller closes the descriptor.
 */
export async function openWorkerCode(uidBase: number): Promise<number> {
  let namespace = namespaces.get(uidBase);
  if (namespace === undefined) {
    namespace = openUserNamespace([[0, uidBase, RANGE_SIZE]]);
    namespace.catch(() => namespaces.delete(uidBase));
    namespaces.set(uidBase, namespace);
  }
  const attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  const userns = await namespace;
  const fd = cloneTree(AT_FDCWD, ROOT);
  try {
    setMountAttributes(fd, attributes, userns);
  } catch (error) {
    // A filesystem without idmapped mounts, such as a container's own: there the program must be readable by all.
    if (!isErrno(error, 'EINVAL', 'EPERM', 'EOPNOTSUPP')) throw error;
    setMountAttributes(fd, attributes);
  }
  return fd;
}

/** Path of a worker's entry (relative to `src`) as the worker sees it: in the mount of {@link openWorkerCode}, or where it lies on the host. */
export function entryPath(entry: string, isMounted: boolean): string {
  const onHost = fileURLToPath(new URL(`../${entry}`, import.meta.url)).replace(/\.ts$/, '.js');
  return isMounted ? path.join(PLACE, path.relative(ROOT, onHost)) : onHost;
}
