import { RootlayerError } from '../core/errors.ts';
import { isErrno } from '../host/errno.ts';
import {
  AT_FDCWD,
  cloneTree,
  close,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  O_DIRECTORY,
  O_RDONLY,
  openAt,
  S_IFDIR,
  S_IFMT,
  type Stat,
  setMountAttributes,
  statAt,
} from '../host/libc.ts';
import type { OverlayMounter } from './mounter.ts';

const READ_ONLY = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;

/**
 * Detached, read-only, idmapped mounts of unpacked layers, in the given order. `idmapFd` is a user namespace that maps the
 * store's ids to the wanted ones. The caller closes the descriptors.
 */
export function openLowers(layerPaths: string[], idmapFd: number): number[] {
  const fds: number[] = [];
  try {
    for (const path of layerPaths) {
      const fd = cloneTree(AT_FDCWD, path);
      fds.push(fd);
      setMountAttributes(fd, READ_ONLY, idmapFd);
    }
    return fds;
  } catch (error) {
    for (const fd of fds) close(fd);
    throw isErrno(error, 'EINVAL', 'EPERM', 'EOPNOTSUPP')
      ? new RootlayerError(
          'E_MISSING_FEATURE',
          `Cannot map the owners of a layer: the filesystem of the state directory has no idmapped mounts (${error.errno})`,
          {
            hint: 'Put the state directory on ext4, xfs or btrfs (or tmpfs, from Linux 6.3 on); overlayfs itself cannot do it.',
            cause: error,
          },
        )
      : error;
  }
}

/** Closes a list of descriptors. */
export function closeLowers(fds: number[]): void {
  for (const fd of fds) close(fd);
}

/**
 * The merged view of layers alone, read-only: one layer as it is, several (topmost first) as an overlay. The layers' mounts are used up. The
 * caller closes the descriptor.
 */
export async function openLowerView(mounter: OverlayMounter, lowerFds: number[]): Promise<number> {
  const [only] = lowerFds;
  if (only === undefined) throw new RootlayerError('E_INTERNAL', 'Cannot open the view of no layers');
  if (lowerFds.length === 1) return openAt(only, '.', O_RDONLY | O_DIRECTORY);
  const mountFd = await mounter.mount({ lowerFds, upper: null }, READ_ONLY);
  try {
    // A mount's own descriptor is like one of O_PATH: attributes cannot be read through it.
    return openAt(mountFd, '.', O_RDONLY | O_DIRECTORY);
  } finally {
    close(mountFd);
  }
}

/** The status of a top-level directory as the merged layers (topmost first) show it, or null when it is not a directory there. */
export function statMergedDirectory(lowerFds: number[], name: string): Stat | null {
  for (const fd of lowerFds) {
    let stat: Stat;
    try {
      stat = statAt(fd, name);
    } catch (error) {
      if (isErrno(error, 'ENOENT')) continue;
      throw error;
    }
    const type = stat.mode & S_IFMT;
    if (type === S_IFDIR) return stat;
    return null;
  }
  return null;
}
