import { randomBytes } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { isErrno } from '../host/errno.ts';
import {
  AT_REMOVEDIR,
  close,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openAt2,
  RENAME_NOREPLACE,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
  RESOLVE_NO_XDEV,
  readDirectory,
  renameAt,
  unlinkAt,
} from '../host/libc.ts';

/** Calls between two turns of the event loop: some milliseconds. */
const CALLS_A_TURN = 500;

/**
 * Deletes whatever a name below a directory stands for; nothing happens when there is nothing. Trees may be hostile: no symlink is followed, no other
 * filesystem is entered, and any depth takes two descriptors and no recursion, since directories that are not empty are first moved up into
 * `trashFd` (a directory of the same filesystem). What a crash leaves there goes with the next start.
 */
export async function removeTree(parentFd: number, name: string | Buffer, trashFd: number): Promise<void> {
  if (tryUnlink(parentFd, name)) return;
  const queue = [moveToTrash(parentFd, name, trashFd)];
  for (let calls = 0; queue.length > 0; ) {
    const next = queue.pop();
    if (next === undefined) break;
    const fd = openAt2(trashFd, next, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
    try {
      for (const entry of readDirectory(fd)) {
        if (!tryUnlink(fd, entry.name)) queue.push(moveToTrash(fd, entry.name, trashFd));
        calls += 1;
        if (calls % CALLS_A_TURN === 0) await setImmediate();
      }
    } finally {
      close(fd);
    }
    // A worker that outlived its daemon by a moment may have added a file meanwhile.
    if (!tryUnlink(trashFd, next)) queue.push(next);
  }
}

/** Gives true when the name is gone, false for a directory that is not empty. */
function tryUnlink(dirFd: number, name: string | Buffer): boolean {
  try {
    unlinkAt(dirFd, name);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return true;
    // Linux says EISDIR, POSIX EPERM.
    if (!isErrno(error, 'EISDIR', 'EPERM')) throw error;
  }
  try {
    unlinkAt(dirFd, name, AT_REMOVEDIR);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return true;
    if (!isErrno(error, 'ENOTEMPTY', 'EEXIST')) throw error;
    return false;
  }
}

function moveToTrash(dirFd: number, name: string | Buffer, trashFd: number): string {
  const moved = randomBytes(16).toString('hex');
  renameAt(dirFd, name, trashFd, moved, RENAME_NOREPLACE);
  return moved;
}
