import { RootlayerError } from '../core/errors.ts';
import { isErrno } from '../host/errno.ts';
import { createFilesystem } from '../host/filesystems.ts';
import {
  AT_FDCWD,
  cloneTree,
  close,
  fsMount,
  fsOpen,
  fsSetFd,
  fsSetFlag,
  fsSetString,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  S_IFDIR,
  S_IFMT,
  type Stat,
  setMountAttributes,
  statAt,
} from '../host/libc.ts';

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
            hint: 'Put the state directory on ext4, xfs, btrfs or tmpfs, with Linux 6.5 or later; overlayfs itself cannot do it.',
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

/** The overlay options that every mount of ours has. Source: Documentation/filesystems/overlayfs.rst; spec of the traps in docs/architecture.md. */
const OVERLAY_OPTIONS: [string, string][] = [
  // "off" still follows a redirect that an image brings; only "nofollow" does not.
  ['redirect_dir', 'nofollow'],
  ['metacopy', 'off'],
  ['index', 'off'],
  ['xino', 'off'],
];

/** What an overlay is made of: lower descriptors topmost first, and the writable part unless it is only to be read. */
export type OverlayParts = { lowerFds: number[]; upperDirFd?: number; workDirFd?: number };

/** Mounts an overlay, detached, with the given mount attributes. The caller closes the descriptor. */
export function mountOverlay(parts: OverlayParts, attributes: number): number {
  const context = fsOpen('overlay');
  try {
    for (const fd of parts.lowerFds) fsSetFd(context, 'lowerdir+', fd);
    if (parts.upperDirFd !== undefined && parts.workDirFd !== undefined) {
      fsSetFd(context, 'upperdir', parts.upperDirFd);
      fsSetFd(context, 'workdir', parts.workDirFd);
      // Without it, the end of the mount writes the whole upper back to disk; what is captured is read through the page cache.
      fsSetFlag(context, 'volatile');
    }
    for (const [key, value] of OVERLAY_OPTIONS) fsSetString(context, key, value);
    createFilesystem(context, 'overlay');
    return fsMount(context, attributes);
  } finally {
    close(context);
  }
}

/** The merged view of layers alone, read-only: one layer as it is, several as an overlay (topmost first). The caller closes the descriptor. */
export function openLowerView(lowerFds: number[]): number {
  const [only] = lowerFds;
  if (only === undefined) throw new RootlayerError('E_INTERNAL', 'Cannot open the view of no layers');
  return lowerFds.length === 1 ? cloneTree(only, '') : mountOverlay({ lowerFds }, READ_ONLY);
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
