import { close, O_NOFOLLOW, O_NONBLOCK, openAt2, S_IFDIR, S_IFMT, S_IFREG, type Stat, statFd, tryStatAt } from '../host/libc.ts';
import { BENEATH, DirectoryPath } from './directory-path.ts';
import { type FileFacts, factsOfFd, factsOfName, isWhiteoutNode } from './file-facts.ts';
import { isSameContent } from './same-content.ts';

/** Gives the seconds that the layer would hold for a file. */
export type MtimeOf = (stat: Stat) => number;

/**
 * The merged view of all lower layers, at the directory that the walk of the upper is in. It may be a single unpacked layer, whose whiteouts
 * show: they count as nothing there.
 */
export class LowerView implements Disposable {
  readonly #directories: DirectoryPath;
  readonly #mtimeOf: MtimeOf;

  /** The descriptor stays the caller's. */
  constructor(rootFd: number, mtimeOf: MtimeOf) {
    this.#directories = new DirectoryPath(rootFd);
    this.#mtimeOf = mtimeOf;
  }

  /** What is at a name of the present directory, or null. */
  lookup(name: Buffer): Stat | null {
    const stat = tryStatAt(this.#directories.fd, name);
    return stat === null || isWhiteoutNode(stat) ? null : stat;
  }

  isDirectory(name: Buffer): boolean {
    const stat = this.lookup(name);
    return stat !== null && (stat.mode & S_IFMT) === S_IFDIR;
  }

  /** Goes down into a directory, which is there. */
  enter(name: Buffer): void {
    this.#directories.enter(name);
  }

  leave(): void {
    this.#directories.leave();
  }

  /** Tells whether the present directory equals the upper one that stands over it, apart from what is in it. */
  isSameDirectory(upper: FileFacts): boolean {
    const fd = this.#directories.fd;
    const stat = statFd(fd);
    return (
      this.#isSameStat(upper.stat, stat) &&
      isSameXattrs(
        upper,
        factsOfFd(fd, stat, () => ROOT, Number.POSITIVE_INFINITY),
      )
    );
  }

  /**
   * Tells whether a file equals the one at that name below, contents included, so that a layer can do without it. Hard links make it
   * differ: overlayfs has parted a copied-up name from the others of its inode. `bodyFd` is that of a regular file.
   */
  isSameFile(name: Buffer, upper: FileFacts, bodyFd: number | null): boolean {
    const stat = this.lookup(name);
    if (stat === null || stat.nlink > 1 || upper.stat.nlink > 1 || !this.#isSameStat(upper.stat, stat)) return false;
    return bodyFd === null ? this.#isSameSpecial(name, upper, stat) : this.#isSameRegular(name, upper, bodyFd);
  }

  [Symbol.dispose](): void {
    this.#directories[Symbol.dispose]();
  }

  #isSameStat(upper: Stat, lower: Stat): boolean {
    return (
      upper.mode === lower.mode &&
      upper.uid === lower.uid &&
      upper.gid === lower.gid &&
      (lower.mtimeSec === upper.mtimeSec || lower.mtimeSec === this.#mtimeOf(upper)) &&
      upper.rdevMajor === lower.rdevMajor &&
      upper.rdevMinor === lower.rdevMinor &&
      (upper.size === lower.size || (upper.mode & S_IFMT) !== S_IFREG)
    );
  }

  #isSameSpecial(name: Buffer, upper: FileFacts, stat: Stat): boolean {
    const lower = factsOfName(this.#directories.fd, name, stat, () => name, Number.POSITIVE_INFINITY);
    return upper.target.equals(lower.target) && isSameXattrs(upper, lower);
  }

  #isSameRegular(name: Buffer, upper: FileFacts, bodyFd: number): boolean {
    const fd = openAt2(this.#directories.fd, name, O_NOFOLLOW | O_NONBLOCK, BENEATH);
    try {
      const lower = factsOfFd(fd, statFd(fd), () => name, Number.POSITIVE_INFINITY);
      return isSameXattrs(upper, lower) && isSameContent(bodyFd, fd, upper.stat.size);
    } finally {
      close(fd);
    }
  }
}

const ROOT = Buffer.from('.');

function isSameXattrs(a: FileFacts, b: FileFacts): boolean {
  const [x, y] = [a.xattrs.kept, b.xattrs.kept];
  return (
    x.length === y.length && x.every((xattr, at) => xattr.name.equals(y[at]?.name ?? ROOT) && xattr.value.equals(y[at]?.value ?? ROOT))
  );
}
