import { assertNever } from '../../core/assert-never.ts';
import type { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { TarEntry, TarHandler, Xattr } from '../../core/tar/entry.ts';
import { isErrno } from '../../host/errno.ts';
import {
  changeDirectory,
  chmodAt,
  chmodFd,
  chownAt,
  close,
  linkAt,
  mknodAt,
  O_CREAT,
  O_EXCL,
  O_NOFOLLOW,
  O_WRONLY,
  openAt,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFMT,
  type Stat,
  setXattrFd,
  setXattrHere,
  statAt,
  symlinkAt,
  utimesAt,
} from '../../host/libc.ts';
import { type EntryPath, PATH_LIMITS, parseEntryPath, pathError, RESULT_PATH_LIMITS } from './entry-path.ts';
import { hasForeignOwner, LateList } from './late-list.ts';
import type { LateWork } from './result-protocol.ts';
import { isLostWithOwner, judgeResultXattr } from './result-xattrs.ts';
import { SparseFile } from './sparse-file.ts';
import { isNoDirectory, joinPath, type StagingDir, StagingDirs } from './staging-dirs.ts';
import { applyXattrBy, DroppedXattrs } from './xattr-policy.ts';

/** Where the bytes of the present member go. */
type OpenFile = { readonly file: SparseFile; readonly entry: TarEntry; readonly path: string };

/** What a member becomes: its directory and its name in it. */
type Place = { readonly parent: StagingDir; readonly name: Buffer };

type SetXattr = (xattr: Xattr) => void;

const EMPTY = Buffer.alloc(0);
const SLASH = 0x2f;
const SPECIAL_BITS = 0o6000;

/**
 * Makes the files of a guest's result in an empty upper directory, in the raw form of overlayfs; the handler of a {@link TarReader}. The process must
 * have umask 0, and nothing else may write to the directory.
 *
 * Stricter than for layers, since only our own agent writes such a tar: the root comes first, every directory before what is in it, no name comes
 * twice, none is absolute, and no symlink is on the way to anything. So nothing is ever replaced, and a path keeps its meaning. Names with `.wh.` are
 * ordinary here, and a character device 0:0 is a whiteout; the capture that follows judges both as it does for a namespace.
 *
 * Devices, owners above 65535, marks of overlayfs and default lists are beyond the user namespace of the worker and go into {@link finish}'s list.
 *
 * Throws `E_ARCHIVE_LINK`, `E_ARCHIVE_PATH`, `E_ARCHIVE_XATTR`, `E_LIMIT_RESULT`, `E_LIMIT_XATTR`, `E_SYSCALL`; {@link abort} is due after an error.
 */
export class ResultExtractor implements TarHandler {
  readonly #dirs: StagingDirs;
  readonly #late = new LateList();
  readonly #dropped = new DroppedXattrs();
  readonly #maxFileBytes: number;
  #hasRoot = false;
  #open: OpenFile | null = null;

  /** The descriptor stays the caller's. */
  constructor(upperFd: number, maxFileBytes: number) {
    this.#dirs = new StagingDirs(upperFd, 'own');
    this.#maxFileBytes = maxFileBytes;
  }

  entry(entry: TarEntry): void {
    if (entry.name[0] === SLASH) throw refusal(entry, 'its path is absolute');
    const path = parseEntryPath(entry.name, 'E_ARCHIVE_PATH', entry.name, RESULT_PATH_LIMITS);
    this.#refuseXattrs(entry);
    if (path.name.length === 0) this.#root(entry);
    else if (!this.#hasRoot) throw refusal(entry, 'it comes before the root directory, want "./" first');
    else this.#member(entry, { parent: this.#parent(entry, path), name: path.name });
  }

  data(chunk: Buffer): void {
    this.#open?.file.write(chunk);
  }

  entryEnd(): void {
    if (this.#open === null) return;
    const { file, entry, path } = this.#open;
    file.finish();
    if ((entry.mode & SPECIAL_BITS) !== 0) chmodFd(file.fd, entry.mode);
    this.#xattrs(entry, path, ({ name, value }) => setXattrFd(file.fd, name, value));
    utimesAt(file.fd, EMPTY, entry.mtimeSec, entry.mtimeNsec);
    this.#open = null;
    close(file.fd);
  }

  /** Gives the directories their times, and tells what is left for the daemon. Throws `E_ARCHIVE_PATH` when not even the root came. */
  finish(): { late: LateWork; warnings: string[] } {
    if (!this.#hasRoot) throw pathError('E_ARCHIVE_PATH', Buffer.from('./'), 'it is missing, want the root directory first');
    this.#dirs.flush();
    const warning = this.#dropped.warning();
    return { late: this.#late.work(), warnings: warning === null ? [] : [warning] };
  }

  /** Closes what is open; the tree stays as it is. */
  abort(): void {
    if (this.#open !== null) close(this.#open.file.fd);
    this.#open = null;
    this.#dirs.close();
  }

  /** Before anything is made of the member, and whatever it is. */
  #refuseXattrs(entry: TarEntry): void {
    for (const xattr of entry.xattrs) {
      if (judgeResultXattr(xattr, entry.type) !== 'refuse') continue;
      throw pathError('E_ARCHIVE_XATTR', entry.name, `it has the attribute "${escapeName(xattr.name)}", which no result may set`);
    }
  }

  #root(entry: TarEntry): void {
    if (entry.type !== 'directory') throw refusal(entry, `it is the root as a ${entry.type}, want a directory`);
    if (this.#hasRoot) throw taken(entry);
    this.#hasRoot = true;
    this.#directoryAttributes(entry, this.#dirs.root);
  }

  #parent(entry: TarEntry, path: EntryPath): StagingDir {
    try {
      return this.#dirs.at(path.parent);
    } catch (error) {
      if (!isNoDirectory(error)) throw error;
      throw refusal(entry, 'its directory did not come before it');
    }
  }

  #member(entry: TarEntry, place: Place): void {
    switch (entry.type) {
      case 'file':
        this.#file(entry, place);
        return;
      case 'directory':
        this.#directory(entry, place);
        return;
      case 'symlink':
        this.#symlink(entry, place);
        return;
      case 'hardlink':
        this.#hardLink(entry, place);
        return;
      case 'fifo':
        makeNew(entry, () => mknodAt(place.parent.fd, place.name, S_IFIFO | (entry.mode & ~SPECIAL_BITS)));
        this.#specialAttributes(entry, place);
        return;
      case 'char':
      case 'block':
        this.#device(entry, entry.type, place);
        return;
      default:
        assertNever(entry.type);
    }
  }

  #file(entry: TarEntry, { parent, name }: Place): void {
    if (entry.size > this.#maxFileBytes) {
      throw pathError('E_LIMIT_RESULT', entry.name, `it has ${entry.size} bytes, want at most ${this.#maxFileBytes} in all`);
    }
    const fd = makeNew(entry, () => openAt(parent.fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, entry.mode & ~SPECIAL_BITS));
    this.#open = { file: new SparseFile(fd), entry, path: joinPath(parent, name) };
    giveOwner(entry, parent, fd, EMPTY);
  }

  #directory(entry: TarEntry, { parent, name }: Place): void {
    this.#directoryAttributes(
      entry,
      makeNew(entry, () => this.#dirs.make(parent, name, entry.mode)),
    );
  }

  #directoryAttributes(entry: TarEntry, dir: StagingDir): void {
    if (!hasForeignOwner(entry)) chownAt(dir.fd, EMPTY, entry.uid, entry.gid);
    chmodFd(dir.fd, entry.mode);
    dir.isSetgid = (entry.mode & 0o2000) !== 0;
    dir.mtimeSec = entry.mtimeSec;
    dir.mtimeNsec = entry.mtimeNsec;
    this.#xattrs(entry, dir.path, ({ name, value }) => setXattrFd(dir.fd, name, value));
  }

  #symlink(entry: TarEntry, place: Place): void {
    const { linkName } = entry;
    if (linkName.length === 0) throw pathError('E_ARCHIVE_LINK', entry.name, 'it is a symlink without a target');
    if (linkName.length > PATH_LIMITS.pathBytes) {
      throw pathError('E_ARCHIVE_LINK', entry.name, `its target has ${linkName.length} bytes, want at most ${PATH_LIMITS.pathBytes}`);
    }
    makeNew(entry, () => symlinkAt(linkName, place.parent.fd, place.name));
    this.#specialAttributes(entry, place);
  }

  /** A node 0:0 is a whiteout, which even a user namespace may make; all that counts of it is its name. */
  #device(entry: TarEntry, kind: 'char' | 'block', { parent, name }: Place): void {
    if (kind === 'char' && entry.devMajor === 0 && entry.devMinor === 0) {
      makeNew(entry, () => mknodAt(parent.fd, name, S_IFCHR));
      return;
    }
    const path = joinPath(parent, name);
    this.#late.device(path, kind, entry);
    this.#late.attributes(path, { ...entry, uid: 0, gid: 0 }, this.#keptXattrs(entry));
  }

  /** Of what is opened by nobody: symlinks and FIFOs. NOTE: leaves the process in the directory, for attributes by name. */
  #specialAttributes(entry: TarEntry, { parent, name }: Place): void {
    giveOwner(entry, parent, parent.fd, name);
    if (entry.type !== 'symlink' && (entry.mode & SPECIAL_BITS) !== 0) chmodAt(parent.fd, name, entry.mode);
    changeDirectory(parent.fd);
    this.#xattrs(entry, joinPath(parent, name), (xattr) => setXattrHere(name, xattr.name, xattr.value));
    utimesAt(parent.fd, name, entry.mtimeSec, entry.mtimeNsec);
  }

  /** The owner, mode and times of a hard link are its target's: only the first member of a file counts. */
  #hardLink(entry: TarEntry, { parent, name }: Place): void {
    if (entry.linkName[0] === SLASH) throw pathError('E_ARCHIVE_LINK', entry.name, 'the path of its target is absolute');
    const target = parseEntryPath(entry.linkName, 'E_ARCHIVE_LINK', entry.name, RESULT_PATH_LIMITS);
    const path = joinPath(parent, name);
    const targetPath = Buffer.concat([target.parent, target.parent.length === 0 ? EMPTY : Buffer.of(SLASH), target.name]).toString(
      'latin1',
    );
    if (this.#late.hasNode(targetPath)) {
      this.#late.link(path, targetPath, entry);
      return;
    }
    this.#checkLinkTarget(entry, target);
    // Opening one directory can close the other: the second round finds both open.
    const parentPath = Buffer.from(parent.path, 'latin1');
    this.#dirs.at(parentPath);
    const from = this.#dirs.at(target.parent);
    const to = this.#dirs.at(parentPath);
    makeNew(entry, () => linkAt(from.fd, target.name, to.fd, name));
  }

  #checkLinkTarget(entry: TarEntry, target: EntryPath): void {
    const refuse = (why: string): RootlayerError =>
      pathError('E_ARCHIVE_LINK', entry.name, `its target "${escapeName(entry.linkName)}" ${why}, want a file that came before it`);
    let stat: Stat;
    try {
      stat = statAt(this.#dirs.at(target.parent).fd, target.name);
    } catch (error) {
      if (isErrno(error, 'ENOENT')) throw refuse('is not there');
      if (isNoDirectory(error)) throw refuse('leads over something that is no directory');
      throw error;
    }
    if ((stat.mode & S_IFMT) === S_IFDIR) throw refuse('is a directory');
  }

  /** Sets what the worker can set, and notes the rest. */
  #xattrs(entry: TarEntry, path: string, set: SetXattr): void {
    const isForeign = hasForeignOwner(entry);
    const later = this.#keptXattrs(entry).filter((xattr) => {
      if (judgeResultXattr(xattr, entry.type) === 'later' || (isForeign && isLostWithOwner(xattr))) return true;
      if (!applyXattrBy(set, entry.name, xattr)) this.#dropped.add(xattr.name);
      return false;
    });
    this.#late.attributes(path, entry, later);
  }

  #keptXattrs(entry: TarEntry): Xattr[] {
    return entry.xattrs.filter((xattr) => {
      if (judgeResultXattr(xattr, entry.type) !== 'drop') return true;
      this.#dropped.add(xattr.name);
      return false;
    });
  }
}

/** A new file is root's, unless its directory hands on a group; an owner beyond the worker's map comes later. */
function giveOwner(entry: TarEntry, parent: StagingDir, fd: number, name: Buffer): void {
  const isForeign = hasForeignOwner(entry);
  const [uid, gid] = isForeign ? [0, 0] : [entry.uid, entry.gid];
  if (uid !== 0 || gid !== 0 || parent.isSetgid) chownAt(fd, name, uid, gid);
}

/** Runs what makes a file, and nothing that would replace one. */
function makeNew<T>(entry: TarEntry, make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw isErrno(error, 'EEXIST') ? taken(entry) : error;
  }
}

function taken(entry: TarEntry): RootlayerError {
  return refusal(entry, 'another member has the same path');
}

function refusal(entry: TarEntry, why: string): RootlayerError {
  return pathError('E_ARCHIVE_PATH', entry.name, why);
}
