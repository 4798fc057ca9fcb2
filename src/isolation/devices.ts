import { isErrno } from '../host/errno.ts';
import { mountDetached } from '../host/filesystems.ts';
import {
  AT_FDCWD,
  chmodAt,
  cloneTree,
  close,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  mknodAt,
  O_DIRECTORY,
  O_RDONLY,
  openAt,
  S_IFCHR,
  setMountAttributes,
} from '../host/libc.ts';

/** The device nodes that every sandbox gets, with their numbers (Documentation/admin-guide/devices.txt). */
const NODES: [string, number, number][] = [
  ['null', 1, 3],
  ['zero', 1, 5],
  ['full', 1, 7],
  ['random', 1, 8],
  ['urandom', 1, 9],
  ['tty', 5, 0],
];

/**
 * A directory of device nodes of our own, so that a sandbox never holds an inode of the host's /dev (whose owner and times it could
 * change through a mistake of any tool). `idmapFd` shows them as root's. Where the kernel cannot lend from a detached
 * mount (before 6.15), the host's /dev is used. The caller closes the descriptor.
 */
export function openDevices(idmapFd: number | null): number {
  const fd = mountDetached('tmpfs', { mode: '0755', size: '64k', nr_inodes: '16' }, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
  try {
    for (const [name, major, minor] of NODES) {
      mknodAt(fd, name, S_IFCHR | 0o666, major, minor);
      chmodAt(fd, name, 0o666);
    }
    setMountAttributes(fd, MOUNT_ATTR_RDONLY, idmapFd);
    close(cloneTree(fd, 'null'));
    return fd;
  } catch (error) {
    close(fd);
    if (!isErrno(error, 'EINVAL', 'EPERM')) throw error;
    return openAt(AT_FDCWD, '/dev', O_RDONLY | O_DIRECTORY);
  }
}
