import { mountDetached } from '../host/filesystems.ts';
import {
  chmodFd,
  chownAt,
  close,
  getXattrFd,
  listXattrsFd,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOSUID,
  mkdirAt,
  O_CREAT,
  O_DIRECTORY,
  O_EXCL,
  O_RDONLY,
  O_WRONLY,
  openAt,
  type Stat,
  setXattrFd,
  statFd,
  utimesAt,
} from '../host/libc.ts';
import { statMergedDirectory } from './lower.ts';
import type { OverlayMounter } from './mounter.ts';
import type { Upper } from './upper.ts';

/** What a root filesystem is mounted from. */
export type RootfsParts = {
  /** Layers as the sandbox sees them, topmost first. */
  lowerFds: number[];
  upper: Upper;
  /** Host id of the sandbox's root. */
  uidBase: number;
  /** Lets device nodes of the root be opened: only for `chroot`, whose script is real root anyway. */
  devices: boolean;
  /** Puts an empty /etc/resolv.conf over whatever the image has there, as a place to mount the host's on. */
  resolvConf: boolean;
};

/** Directories that the launcher mounts on. They come from a layer of our own, so that no symlink of an image can point it elsewhere. */
const MOUNT_POINTS = ['dev', 'proc', 'sys'];

/**
 * Mounts the merged tree that a job sees as `/`, detached. The caller closes the descriptor; once no process and no
 * descriptor is left in it, it is unmounted.
 */
export async function mountRootfs(mounter: OverlayMounter, parts: RootfsParts): Promise<number> {
  const init = makeInitLayer(parts);
  try {
    const attributes = MOUNT_ATTR_NOSUID | (parts.devices ? 0 : MOUNT_ATTR_NODEV);
    return await mounter.mount({ lowerFds: [init, ...parts.lowerFds], upper: parts.upper }, attributes);
  } finally {
    close(init);
  }
}

/** The topmost lower layer: real mount points, with the attributes that the image gives them where it has them. */
function makeInitLayer(parts: RootfsParts): number {
  const fd = mountDetached('tmpfs', { mode: '0755', size: '1m', nr_inodes: '64' }, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
  try {
    for (const name of parts.resolvConf ? [...MOUNT_POINTS, 'etc'] : MOUNT_POINTS) makeMountPoint(fd, name, parts);
    // The topmost lower root's attributes would win over the image's; the upper's, set from the image, win over both.
    chownAt(fd, '', parts.uidBase, parts.uidBase);
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

function makeMountPoint(fd: number, name: string, { lowerFds, uidBase }: RootfsParts): void {
  mkdirAt(fd, name, 0o755);
  const directory = openAt(fd, name, O_RDONLY | O_DIRECTORY);
  try {
    if (name === 'etc') makeEmptyFile(directory, 'resolv.conf', uidBase);
    copyAttributes(directory, statMergedDirectory(lowerFds, name), uidBase);
  } finally {
    close(directory);
  }
}

function makeEmptyFile(directoryFd: number, name: string, owner: number): void {
  close(openAt(directoryFd, name, O_CREAT | O_EXCL | O_WRONLY, 0o644));
  chownAt(directoryFd, name, owner, owner);
}

function copyAttributes(directoryFd: number, from: Stat | null, uidBase: number): void {
  chownAt(directoryFd, '', from?.uid ?? uidBase, from?.gid ?? uidBase);
  chmodFd(directoryFd, (from?.mode ?? 0o755) & 0o7777);
  utimesAt(directoryFd, '', from?.mtimeSec ?? 0, from?.mtimeNsec ?? 0);
}

/**
 * Gives the upper's root the attributes of the image's root, since overlayfs shows those of the upper.
 * `lowerPlainFd` is the merged view of the layers with plain ids, or null for `scratch` (0:0, 0755, time 0).
 */
export function copyRootAttributes(upper: Upper, lowerPlainFd: number | null): void {
  if (lowerPlainFd === null) {
    chownAt(upper.plainDirFd, '', 0, 0);
    chmodFd(upper.plainDirFd, 0o755);
    utimesAt(upper.plainDirFd, '', 0, 0);
    return;
  }
  const root = openAt(lowerPlainFd, '.', O_RDONLY | O_DIRECTORY);
  try {
    for (const name of listXattrsFd(root)) {
      const value = name.toString('latin1').startsWith('trusted.overlay.') ? null : getXattrFd(root, name);
      if (value !== null) setXattrFd(upper.plainDirFd, name, value);
    }
    const stat = statFd(root);
    chownAt(upper.plainDirFd, '', stat.uid, stat.gid);
    chmodFd(upper.plainDirFd, stat.mode & 0o7777);
    utimesAt(upper.plainDirFd, '', stat.mtimeSec, stat.mtimeNsec);
  } finally {
    close(root);
  }
}
