import { escapeName } from '../../core/names.ts';
import { isErrno } from '../../host/errno.ts';
import { readlinkAt, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, statAt, unlinkAt } from '../../host/libc.ts';
import { PATH_LIMITS, pathError } from './entry-path.ts';
import type { DirectoryAttributes, LowerTree } from './lower-tree.ts';
import { isNoDirectory, joinPath, type StagingDir, type StagingDirs } from './staging-dirs.ts';
import type { WhiteoutLedger } from './whiteout-ledger.ts';

/** As many as the kernel follows. Source: path_resolution(7). */
const MAX_LINKS = 40;

/** Mode of directories that the layer does not list. */
const IMPLICIT_MODE = 0o755;

/**
 * Gives the directory that the entries of a path go into. Usually one openat2 that follows nothing; where the path leads over a symlink
 * of the same layer (`var/run -> /run`), the link is resolved below the layer's root, as chroot would, and directories that are missing
 * are made (mode 0755, root, mtime 0). A whiteout on the way gives way to a directory, which then hides what the whiteout hid.
 *
 * Over a known base, its symlinks are followed too, and a directory that is missing looks as the one of the base.
 */
export class ParentResolver {
  readonly #dirs: StagingDirs;
  readonly #whiteouts: WhiteoutLedger;
  readonly #lower: LowerTree | null;
  readonly #giveAttributes: (dir: StagingDir, attributes: DirectoryAttributes) => void;

  /** `giveAttributes` is for directories that look as the base's; without a base (null) it is never called. */
  constructor(
    dirs: StagingDirs,
    whiteouts: WhiteoutLedger,
    lower: LowerTree | null,
    giveAttributes: (dir: StagingDir, attributes: DirectoryAttributes) => void,
  ) {
    this.#dirs = dirs;
    this.#whiteouts = whiteouts;
    this.#lower = lower;
    this.#giveAttributes = giveAttributes;
  }

  /** `member` is for messages. Throws `E_ARCHIVE_PATH` when something else than a directory is in the way, or links go in circles. */
  resolve(path: Buffer, member: Buffer): StagingDir {
    const known = this.#dirs.get(path.toString('latin1'));
    if (known !== undefined) return known;
    try {
      return this.#dirs.at(path);
    } catch (error) {
      if (!isNoDirectory(error)) throw error;
    }
    const dir = this.#walk(path, member);
    this.#dirs.alias(path.toString('latin1'), dir);
    return dir;
  }

  /** Holds no descriptor from one step to the next, so a hostile path costs time but no resources. */
  #walk(path: Buffer, member: Buffer): StagingDir {
    const todo = componentsOf(path).reverse();
    let real: string[] = [];
    let links = 0;
    for (let component = todo.pop(); component !== undefined; component = todo.pop()) {
      if (component === '..') {
        real.pop();
        continue;
      }
      const dir = this.#dirs.at(Buffer.from(real.join('/'), 'latin1'));
      const target = this.#step(dir, Buffer.from(component, 'latin1'), member);
      if (target === null) {
        real.push(component);
        checkReal(real, member);
        continue;
      }
      links += 1;
      if (links > MAX_LINKS) throw pathError('E_ARCHIVE_PATH', member, `its parent leads over more than ${MAX_LINKS} symlinks`);
      if (target[0] === 0x2f) real = [];
      todo.push(...componentsOf(target).reverse());
    }
    return this.#dirs.at(Buffer.from(real.join('/'), 'latin1'));
  }

  /** Gives the target when the component is a symlink, and null when it is, or has become, a directory. */
  #step(dir: StagingDir, name: Buffer, member: Buffer): Buffer | null {
    const type = typeAt(dir, name, member);
    if (type === S_IFDIR) return null;
    if (type === S_IFLNK) return readlinkAt(dir.fd, name);
    const lower = type === null ? (this.#lower?.find(dir.path, name) ?? null) : null;
    if (lower?.kind === 'symlink') return lower.target;
    if ((type !== null && type !== S_IFCHR) || lower?.kind === 'other') {
      const parent = escapeName(Buffer.from(joinPath(dir, name), 'latin1'));
      throw pathError('E_ARCHIVE_PATH', member, `its parent "${parent}" is no directory`);
    }
    if (type === S_IFCHR) {
      unlinkAt(dir.fd, name);
      this.#whiteouts.cover(joinPath(dir, name));
    }
    const made = this.#dirs.make(dir, name, IMPLICIT_MODE);
    if (lower === null) this.#dirs.implicit += 1;
    else this.#giveAttributes(made, lower.attributes);
    return null;
  }
}

function typeAt(dir: StagingDir, name: Buffer, member: Buffer): number | null {
  try {
    return statAt(dir.fd, name).mode & S_IFMT;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return null;
    if (isErrno(error, 'ENAMETOOLONG'))
      throw pathError('E_ARCHIVE_PATH', member, 'its parent leads over a symlink to a name that is too long');
    throw error;
  }
}

function componentsOf(path: Buffer): string[] {
  return path
    .toString('latin1')
    .split('/')
    .filter((part) => part !== '' && part !== '.');
}

function checkReal(real: readonly string[], member: Buffer): void {
  const bytes = real.reduce((sum, part) => sum + part.length + 1, 0);
  if (real.length > PATH_LIMITS.depth || bytes > PATH_LIMITS.pathBytes) {
    throw pathError('E_ARCHIVE_PATH', member, 'its parent, with symlinks resolved, is too deep or too long');
  }
}
