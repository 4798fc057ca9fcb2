import type { TarEntry, Xattr } from '../../core/tar/entry.ts';
import {
  close,
  getXattrFd,
  listXattrsFd,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  O_RDONLY,
  openAt,
  openAt2,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_NO_XDEV,
  readlinkAt,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  statFd,
  tryStatAt,
} from '../../host/libc.ts';
import { isNoDirectory, openDirectory } from './staging-dirs.ts';
import { judgeXattr } from './xattr-policy.ts';

/** What a directory has besides its entries; `name` is for messages. */
export type DirectoryAttributes = Pick<TarEntry, 'name' | 'uid' | 'gid' | 'mode' | 'mtimeSec' | 'mtimeNsec' | 'xattrs'>;

/** What stands at a path of the base. */
export type LowerEntry =
  | { readonly kind: 'directory'; readonly attributes: DirectoryAttributes }
  | { readonly kind: 'symlink'; readonly target: Buffer }
  | { readonly kind: 'other' };

const IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;

/**
 * The merged base that a tree is extracted over, read-only and with the ids of the worker's user namespace. It tells what a name that the upper
 * directory does not have means in the job: files that are copied to `/bin` are to go where the base's `/bin` leads, and a directory that is made
 * on the way is to look as the base's.
 */
export class LowerTree {
  readonly #rootFd: number;

  /** The descriptor stays the caller's. */
  constructor(rootFd: number) {
    this.#rootFd = rootFd;
  }

  /** The entry at a name of a directory (latin1 path, without symlinks); null when there is none. */
  find(directory: string, name: Buffer): LowerEntry | null {
    const fd = this.#open(directory);
    if (fd === null) return null;
    try {
      const stat = tryStatAt(fd, name);
      const type = (stat?.mode ?? 0) & S_IFMT;
      if (type === S_IFLNK) return { kind: 'symlink', target: readlinkAt(fd, name) };
      if (type === S_IFDIR) return { kind: 'directory', attributes: attributesAt(fd, name) };
      // A single layer shows its whiteouts.
      const isWhiteout = type === S_IFCHR && stat?.rdevMajor === 0 && stat.rdevMinor === 0;
      return stat === null || isWhiteout ? null : { kind: 'other' };
    } finally {
      close(fd);
    }
  }

  /** Tells whether a name of a directory is a symlink that leads, inside the base, to a directory. */
  isLinkToDirectory(directory: string, name: Buffer): boolean {
    if (this.find(directory, name)?.kind !== 'symlink') return false;
    const path = Buffer.concat([Buffer.from(`${directory}/`, 'latin1'), name]);
    try {
      close(openAt2(this.#rootFd, path, O_PATH | O_DIRECTORY, IN_ROOT));
      return true;
    } catch (error) {
      if (isNoDirectory(error)) return false;
      throw error;
    }
  }

  #open(directory: string): number | null {
    try {
      return openDirectory(this.#rootFd, Buffer.from(directory, 'latin1'));
    } catch (error) {
      if (isNoDirectory(error)) return null;
      throw error;
    }
  }
}

function attributesAt(parentFd: number, name: Buffer): DirectoryAttributes {
  const fd = openAt(parentFd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    const { mode, uid, gid, mtimeSec, mtimeNsec } = statFd(fd);
    return { name, mode: mode & 0o7777, uid, gid, mtimeSec, mtimeNsec, xattrs: xattrsOf(fd) };
  } finally {
    close(fd);
  }
}

/** Those that a layer can set. */
function xattrsOf(fd: number): Xattr[] {
  const names = listXattrsFd(fd).filter((name) => ['set', 'acl', 'default-acl'].includes(judgeXattr(name)));
  return names.map((name) => ({ name, value: getXattrFd(fd, name) ?? Buffer.alloc(0) }));
}
