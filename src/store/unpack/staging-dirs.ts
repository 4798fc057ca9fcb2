import { isErrno } from '../../host/errno.ts';
import {
  chmodFd,
  chownAt,
  close,
  mkdirAt,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openAt,
  openAt2,
  RESOLVE_BENEATH,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_NO_SYMLINKS,
  RESOLVE_NO_XDEV,
  statFd,
  utimesAt,
} from '../../host/libc.ts';

/** How every directory of a staging tree is opened: not out of it, over no symlink, into no other mount. */
export const STRICT = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;

/** An open directory of the staging tree. */
export type StagingDir = {
  readonly fd: number;
  /** Where it really is, without a symlink on the way: latin1 of the bytes, empty for the root. */
  readonly path: string;
  /** What its mtime has to be in the end; set when the directory is let go, since every new entry changes it on disk. */
  mtimeSec: number;
  mtimeNsec: number;
  /** New entries would inherit its group. */
  isSetgid: boolean;
};

const S_ISGID = 0o2000;
const EMPTY = Buffer.alloc(0);

/**
 * The open directories of a staging tree. Each path is opened from the root's descriptor, once, and kept until {@link flush}: the owner
 * flushes whenever a directory or a symlink is removed, because only that can give a known path another meaning (node-tar's
 * CVE-2021-32803 was a cache that outlived such a change).
 *
 * Directory times need no list: a directory's entries only change while it is open here, so its mtime is read when it is opened and put
 * back when it is let go.
 */
export class StagingDirs {
  /** Directories that the layer does not list and that were made to hold what it does. */
  implicit = 0;
  readonly root: StagingDir;
  readonly #maxOpen: number;
  #open: StagingDir[] = [];
  readonly #byPath = new Map<string, StagingDir>();

  /** The descriptor of the root stays the caller's. */
  constructor(rootFd: number, rootTimes: 'epoch' | 'own', maxOpen = 128) {
    const { mode, mtimeSec, mtimeNsec } = statFd(rootFd);
    const times = rootTimes === 'epoch' ? { mtimeSec: 0, mtimeNsec: 0 } : { mtimeSec, mtimeNsec };
    this.root = { fd: rootFd, path: '', isSetgid: isSetgid(mode), ...times };
    this.#maxOpen = maxOpen;
  }

  /** The directory if it is open, by its own path or one that was {@link alias}ed. */
  get(key: string): StagingDir | undefined {
    return key === '' ? this.root : this.#byPath.get(key);
  }

  /**
   * The directory at a path without symlinks. It is valid until the next call of `at`, `enter` or `make`, which may flush.
   * Throws ENOENT, ENOTDIR or ELOOP when there is no such directory.
   */
  at(path: Buffer): StagingDir {
    const key = path.toString('latin1');
    return this.get(key) ?? this.#keep(openDirectory(this.root.fd, path), key);
  }

  /** An existing directory in another one. */
  enter(parent: StagingDir, name: Buffer): StagingDir {
    const key = joinPath(parent, name);
    return this.get(key) ?? this.#keep(openAt(parent.fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW), key);
  }

  /** Makes a directory and opens it: mode as given, owned by root, mtime 0. Throws EEXIST when the name is taken. */
  make(parent: StagingDir, name: Buffer, mode: number): StagingDir {
    mkdirAt(parent.fd, name, mode & 0o1777);
    const key = joinPath(parent, name);
    const fd = openAt(parent.fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (parent.isSetgid) {
      chownAt(fd, EMPTY, 0, 0);
      chmodFd(fd, mode & 0o1777);
    }
    return this.#add({ fd, path: key, mtimeSec: 0, mtimeNsec: 0, isSetgid: false });
  }

  /** Lets a path that leads over symlinks stand for an open directory, until the next {@link flush}. */
  alias(key: string, dir: StagingDir): void {
    this.#byPath.set(key, dir);
  }

  /** Gives all directories their times and forgets them; the root stays open. */
  flush(): void {
    utimesAt(this.root.fd, EMPTY, this.root.mtimeSec, this.root.mtimeNsec);
    for (const dir of this.#open) utimesAt(dir.fd, EMPTY, dir.mtimeSec, dir.mtimeNsec);
    this.close();
  }

  /** Closes everything but the root; for a tree that will be thrown away. */
  close(): void {
    for (const dir of this.#open) close(dir.fd);
    this.#open = [];
    this.#byPath.clear();
  }

  #keep(fd: number, key: string): StagingDir {
    const stat = statFd(fd);
    return this.#add({ fd, path: key, mtimeSec: stat.mtimeSec, mtimeNsec: stat.mtimeNsec, isSetgid: isSetgid(stat.mode) });
  }

  #add(dir: StagingDir): StagingDir {
    if (this.#open.length >= this.#maxOpen) this.flush();
    this.#open.push(dir);
    this.#byPath.set(dir.path, dir);
    return dir;
  }
}

/** Longest path in one call; PATH_MAX is 4096 with the NUL. */
const MAX_CALL_PATH = 4000;
const SLASH = 0x2f;

/**
 * Opens a directory at a path of any length below another one, under the rules of {@link STRICT}; an empty path is that directory itself. The caller
 * closes the descriptor. Throws ENOENT, ENOTDIR or ELOOP when there is no such directory.
 */
export function openDirectory(rootFd: number, path: Buffer): number {
  let fd = rootFd;
  for (let start = 0; ; ) {
    const isLast = path.length - start <= MAX_CALL_PATH;
    const end = isLast ? path.length : path.lastIndexOf(SLASH, start + MAX_CALL_PATH);
    const above = fd;
    try {
      fd = openAt2(above, end === 0 ? '.' : path.subarray(start, end), O_RDONLY | O_DIRECTORY, STRICT);
    } finally {
      if (above !== rootFd) close(above);
    }
    if (isLast) return fd;
    start = end + 1;
  }
}

/** The real path of an entry of a directory. */
export function joinPath(dir: StagingDir, name: Buffer): string {
  return dir.path === '' ? name.toString('latin1') : `${dir.path}/${name.toString('latin1')}`;
}

/** Tells whether a caught error says that a path leads to no directory. */
export function isNoDirectory(error: unknown): boolean {
  return isErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP');
}

function isSetgid(mode: number): boolean {
  return (mode & S_ISGID) !== 0;
}
