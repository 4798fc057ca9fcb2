import { writeSync } from 'node:fs';
import { assertNever } from '../../core/assert-never.ts';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { TarEntry, TarHandler, Xattr } from '../../core/tar/entry.ts';
import { isErrno } from '../../host/errno.ts';
import {
  AT_REMOVEDIR,
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
  S_IFLNK,
  S_IFMT,
  type Stat,
  statAt,
  symlinkAt,
  tryStatAt,
  unlinkAt,
  utimesAt,
} from '../../host/libc.ts';
import { type EntryPath, isWhiteoutName, PATH_LIMITS, parseEntryPath, pathError } from './entry-path.ts';
import { type DirectoryAttributes, LowerTree } from './lower-tree.ts';
import { ParentResolver } from './parent-resolver.ts';
import { isNoDirectory, joinPath, type StagingDir, StagingDirs } from './staging-dirs.ts';
import { WhiteoutLedger } from './whiteout-ledger.ts';
import { applyXattr, DroppedXattrs, judgeXattr } from './xattr-policy.ts';

/** What is left to do, and to say, when all members are on disk. */
export type Extraction = {
  /** Paths of directories that hide what lower layers have in them; the root's is empty. */
  opaqueDirectories: Buffer[];
  skippedDevices: number;
  droppedXattrs: number;
  /** For people, one sentence each. */
  warnings: string[];
};

/** How an archive is extracted. */
export type ExtractOptions = {
  /** False leaves POSIX access control lists out. */
  keepAcls: boolean;
  /** The times that the root has in the end when no member is for it: the epoch (so that the day of unpacking shows nowhere), or its own. */
  rootTimes: 'epoch' | 'own';
  /** The merged base below the tree, with the ids of this process; null when it is not known or there is none. */
  lowerFd: number | null;
  /** A directory of the archive goes where a symlink of the base leads, if that is a directory, instead of hiding the symlink. */
  followsLowerLinks: boolean;
};

/** Where the bytes of the present member go. */
type OpenFile = { readonly fd: number; readonly entry: TarEntry };

const EMPTY = Buffer.alloc(0);
const SPECIAL_BITS = 0o6000;
const WHITEOUT_PREFIX_BYTES = 4;
const OPAQUE = '.wh..wh..opq';
/** Bookkeeping of aufs in the root of old layers. Source: aufs(5), "Whiteout". */
const AUFS_NAMES = new Set(['.wh..wh.aufs', '.wh..wh.orph', '.wh..wh.plnk']);
const MAX_DEFAULT_ACL_BYTES = 16 * 1024 * 1024;

/**
 * Makes the files of a layer below a staging directory; the handler of a {@link TarReader}. The process must have umask 0, and nothing
 * else may write to the staging directory.
 *
 * Nothing is ever opened by a path that a symlink could bend: parents come from {@link ParentResolver}, files are made with O_EXCL
 * after what was there has been unlinked (so that a hard link's other names keep their content), and metadata goes through the new
 * file's descriptor. Of two members with one name the last one wins; a directory keeps its entries when another directory comes, gives
 * way to something else when it is empty, and is an error (`E_ARCHIVE_PATH`) when it is not.
 *
 * Throws `E_ARCHIVE_DEVICE`, `E_ARCHIVE_LINK`, `E_ARCHIVE_PATH`, `E_ARCHIVE_WHITEOUT`, `E_ARCHIVE_XATTR`, `E_LIMIT_XATTR`,
 * `E_LIMIT_ENTRIES`, `E_SYSCALL`; {@link abort} is due after an error. Source: OCI image-spec layer.md; spec/threats.md A.
 */
export class Extractor implements TarHandler {
  readonly #dirs: StagingDirs;
  readonly #whiteouts = new WhiteoutLedger();
  readonly #parents: ParentResolver;
  readonly #lower: LowerTree | null;
  readonly #options: ExtractOptions;
  readonly #dropped = new DroppedXattrs();
  /** By real path: set last, since files made in a directory inherit from it. */
  readonly #defaultAcls = new Map<string, Xattr>();
  #defaultAclBytes = 0;
  #skippedDevices = 0;
  #skippedAufs = 0;
  #file: OpenFile | null = null;

  /** The descriptors stay the caller's. */
  constructor(stagingFd: number, options: ExtractOptions) {
    this.#dirs = new StagingDirs(stagingFd, options.rootTimes);
    this.#lower = options.lowerFd === null ? null : new LowerTree(options.lowerFd);
    this.#parents = new ParentResolver(this.#dirs, this.#whiteouts, this.#lower, (dir, attributes) =>
      this.#directoryMetadata(dir, attributes),
    );
    this.#options = options;
  }

  entry(entry: TarEntry): void {
    const path = parseEntryPath(entry.name);
    if (path.name.length === 0) {
      this.#root(entry);
    } else if (path.hasWhiteoutParent || isWhiteoutName(path.name)) {
      this.#whiteout(entry, path);
    } else {
      this.#member(entry, path);
    }
  }

  data(chunk: Buffer): void {
    if (this.#file === null) return;
    for (let at = 0; at < chunk.length; ) at += writeSync(this.#file.fd, chunk, at);
  }

  entryEnd(): void {
    if (this.#file === null) return;
    const { fd, entry } = this.#file;
    if ((entry.mode & SPECIAL_BITS) !== 0) chmodFd(fd, entry.mode);
    for (const xattr of entry.xattrs) this.#xattr(fd, entry, xattr);
    utimesAt(fd, EMPTY, entry.mtimeSec, entry.mtimeNsec);
    this.#file = null;
    close(fd);
  }

  /** Puts the last touches: access control lists that new files would have inherited, and the times of directories. */
  finish(): Extraction {
    for (const [path, acl] of this.#defaultAcls) this.#defaultAcl(Buffer.from(path, 'latin1'), acl);
    const opaqueDirectories = this.#whiteouts.opaqueDirectories(this.#dirs);
    this.#dirs.flush();
    return {
      opaqueDirectories,
      skippedDevices: this.#skippedDevices,
      droppedXattrs: this.#dropped.count,
      warnings: this.#warnings(),
    };
  }

  /** Closes what is open; the tree stays as it is. */
  abort(): void {
    if (this.#file !== null) close(this.#file.fd);
    this.#file = null;
    this.#dirs.close();
  }

  #warnings(): string[] {
    const found = [
      this.#skippedDevices === 0 ? null : `skipped ${this.#skippedDevices} device nodes below dev`,
      this.#dropped.warning(),
      this.#dirs.implicit === 0 ? null : `made ${this.#dirs.implicit} directories that the layer does not list`,
      this.#skippedAufs === 0 ? null : `skipped ${this.#skippedAufs} members of aufs' own bookkeeping`,
    ];
    return found.filter((warning) => warning !== null);
  }

  #root(entry: TarEntry): void {
    if (entry.type !== 'directory') throw pathError('E_ARCHIVE_PATH', entry.name, `it is the root as a ${entry.type}, want a directory`);
    this.#directoryMetadata(this.#dirs.root, entry);
  }

  #member(entry: TarEntry, path: EntryPath): void {
    switch (entry.type) {
      case 'file':
        this.#createFile(entry, path);
        return;
      case 'directory':
        this.#directory(entry, path);
        return;
      case 'symlink':
        this.#symlink(entry, path);
        return;
      case 'hardlink':
        this.#hardLink(entry, path);
        return;
      case 'fifo':
        this.#fifo(entry, path);
        return;
      case 'char':
      case 'block':
        this.#device(entry, path);
        return;
      default:
        assertNever(entry.type);
    }
  }

  #parent(entry: TarEntry, path: EntryPath): StagingDir {
    return this.#parents.resolve(path.parent, entry.name);
  }

  /** Runs `make` in the parent; when the name is taken, removes what has it and runs it again. */
  #create(entry: TarEntry, path: EntryPath, make: (parent: StagingDir) => void): StagingDir {
    const parent = this.#parent(entry, path);
    try {
      make(parent);
      return parent;
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) throw error;
    }
    const again = this.#remove(entry, path, statAt(parent.fd, path.name));
    make(again);
    return again;
  }

  #createFile(entry: TarEntry, path: EntryPath): void {
    let fd = -1;
    const parent = this.#create(entry, path, (dir) => {
      fd = openAt(dir.fd, path.name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, entry.mode & ~SPECIAL_BITS);
    });
    this.#file = { fd, entry };
    if (needsOwner(parent, entry)) chownAt(fd, EMPTY, entry.uid, entry.gid);
  }

  #directory(entry: TarEntry, path: EntryPath): void {
    const parent = this.#parent(entry, path);
    this.#directoryMetadata(this.#behindLowerLink(entry, path, parent) ?? this.#enterOrMake(entry, path, parent), entry);
  }

  /** Null when the directory is to be made, or is there, under its own name. */
  #behindLowerLink(entry: TarEntry, path: EntryPath, parent: StagingDir): StagingDir | null {
    if (!this.#options.followsLowerLinks || tryStatAt(parent.fd, path.name) !== null) return null;
    if (this.#lower?.isLinkToDirectory(parent.path, path.name) !== true) return null;
    return this.#parents.resolve(Buffer.from(joinPath(parent, path.name), 'latin1'), entry.name);
  }

  #enterOrMake(entry: TarEntry, path: EntryPath, parent: StagingDir): StagingDir {
    try {
      return this.#dirs.make(parent, path.name, entry.mode);
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) throw error;
    }
    const found = statAt(parent.fd, path.name);
    if ((found.mode & S_IFMT) === S_IFDIR) return this.#dirs.enter(parent, path.name);
    return this.#dirs.make(this.#remove(entry, path, found), path.name, entry.mode);
  }

  #directoryMetadata(dir: StagingDir, entry: DirectoryAttributes): void {
    chownAt(dir.fd, EMPTY, entry.uid, entry.gid);
    chmodFd(dir.fd, entry.mode);
    dir.isSetgid = (entry.mode & 0o2000) !== 0;
    dir.mtimeSec = entry.mtimeSec;
    dir.mtimeNsec = entry.mtimeNsec;
    this.#forgetDefaultAcl(dir.path);
    for (const xattr of entry.xattrs) {
      if (judgeXattr(xattr.name) === 'default-acl' && this.#options.keepAcls) this.#keepDefaultAcl(dir.path, xattr);
      else this.#xattr(dir.fd, entry, xattr);
    }
  }

  #symlink(entry: TarEntry, path: EntryPath): void {
    const target = entry.linkName;
    if (target.length === 0) throw pathError('E_ARCHIVE_LINK', entry.name, 'it is a symlink without a target');
    if (target.length > PATH_LIMITS.pathBytes) {
      throw pathError('E_ARCHIVE_LINK', entry.name, `its target has ${target.length} bytes, want at most ${PATH_LIMITS.pathBytes}`);
    }
    const parent = this.#create(entry, path, (dir) => symlinkAt(target, dir.fd, path.name));
    if (needsOwner(parent, entry)) chownAt(parent.fd, path.name, entry.uid, entry.gid);
    this.#dropXattrs(entry);
    utimesAt(parent.fd, path.name, entry.mtimeSec, entry.mtimeNsec);
  }

  #fifo(entry: TarEntry, path: EntryPath): void {
    const parent = this.#create(entry, path, (dir) => mknodAt(dir.fd, path.name, S_IFIFO | (entry.mode & ~SPECIAL_BITS)));
    if (needsOwner(parent, entry)) chownAt(parent.fd, path.name, entry.uid, entry.gid);
    if ((entry.mode & SPECIAL_BITS) !== 0) chmodAt(parent.fd, path.name, entry.mode);
    this.#dropXattrs(entry);
    utimesAt(parent.fd, path.name, entry.mtimeSec, entry.mtimeNsec);
  }

  /** A node 0:0 would act as a whiteout. The nodes of dev are covered by a job's own dev, so the usual archives with them can be taken. */
  #device(entry: TarEntry, path: EntryPath): void {
    const first = path.parent.toString('latin1').split('/', 1)[0];
    const isWhiteout = entry.type === 'char' && entry.devMajor === 0 && entry.devMinor === 0;
    if (first !== 'dev' || isWhiteout) {
      const device = `${entry.type} ${entry.devMajor}:${entry.devMinor}`;
      throw pathError('E_ARCHIVE_DEVICE', entry.name, `it is the device ${device}, want none but those below dev, which are left out`);
    }
    this.#skippedDevices += 1;
  }

  /** The owner, mode and times of a hard link are its target's: only the first member of a file counts. */
  #hardLink(entry: TarEntry, path: EntryPath): void {
    const target = parseEntryPath(entry.linkName, 'E_ARCHIVE_LINK', entry.name);
    const wanted = this.#linkTarget(entry, target);
    const link = (): void => {
      // Opening one directory can close the other: the second round finds both open.
      this.#parent(entry, path);
      const from = this.#linkParent(entry, target);
      const to = this.#parent(entry, path);
      linkAt(from.fd, target.name, to.fd, path.name);
    };
    try {
      link();
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) throw error;
      const found = statAt(this.#parent(entry, path).fd, path.name);
      if (found.ino === wanted.ino) return;
      this.#remove(entry, path, found);
      link();
    }
  }

  /** Over no symlink; only over a base, whose symlinks the target's own member may have followed, as that member did. */
  #linkParent(entry: TarEntry, target: EntryPath): StagingDir {
    return this.#lower === null ? this.#dirs.at(target.parent) : this.#parents.resolve(target.parent, entry.name);
  }

  #linkTarget(entry: TarEntry, target: EntryPath): Stat {
    const refuse = (why: string): RootlayerError =>
      pathError('E_ARCHIVE_LINK', entry.name, `its target "${escapeName(entry.linkName)}" ${why}, want a file that came before it`);
    let stat: Stat;
    try {
      stat = statAt(this.#linkParent(entry, target).fd, target.name);
    } catch (error) {
      if (isErrno(error, 'ENOENT')) throw refuse('is not in the layer');
      if (isNoDirectory(error)) throw refuse('leads over something that is no directory');
      throw error;
    }
    const type = stat.mode & S_IFMT;
    if (type === S_IFDIR) throw refuse('is a directory');
    if (type === S_IFCHR) throw refuse('is a whiteout');
    return stat;
  }

  #whiteout(entry: TarEntry, path: EntryPath): void {
    if (AUFS_NAMES.has(firstComponent(path))) {
      this.#skippedAufs += 1;
      return;
    }
    const refuse = (why: string): RootlayerError => pathError('E_ARCHIVE_WHITEOUT', entry.name, why);
    if (path.hasWhiteoutParent) throw refuse('it lies below a whiteout');
    // aufs made its whiteouts hard links of each other, and layers from its time show it.
    if (entry.type !== 'file' && entry.type !== 'hardlink') throw refuse(`it is a whiteout as a ${entry.type}, want an empty file`);
    if (entry.size > 0) throw refuse(`it is a whiteout of ${entry.size} bytes, want an empty file`);
    const name = path.name.subarray(WHITEOUT_PREFIX_BYTES);
    if (path.name.toString('latin1') === OPAQUE) {
      this.#whiteouts.addOpaque(this.#parent(entry, path).path);
    } else if (name.length === 0 || name.equals(DOT) || name.equals(DOT_DOT) || name.subarray(0, 4).equals(META_PREFIX)) {
      throw refuse('its name stands for no file, want ".wh.NAME" or ".wh..wh..opq"');
    } else {
      this.#hide(entry, path, name);
    }
  }

  #hide(entry: TarEntry, path: EntryPath, name: Buffer): void {
    const parent = this.#parent(entry, path);
    try {
      mknodAt(parent.fd, name, S_IFCHR);
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) throw error;
      if ((statAt(parent.fd, name).mode & S_IFMT) !== S_IFCHR) this.#whiteouts.cover(joinPath(parent, name));
      return;
    }
    if (parent.isSetgid) chownAt(parent.fd, name, 0, 0);
    utimesAt(parent.fd, name, entry.mtimeSec, entry.mtimeNsec);
  }

  /** Gives the parent again: what was removed may have been on the way to it. */
  #remove(entry: TarEntry, path: EntryPath, found: Stat): StagingDir {
    const parent = this.#parent(entry, path);
    const type = found.mode & S_IFMT;
    try {
      unlinkAt(parent.fd, path.name, type === S_IFDIR ? AT_REMOVEDIR : 0);
    } catch (error) {
      if (!isErrno(error, 'ENOTEMPTY', 'EEXIST')) throw error;
      throw pathError('E_ARCHIVE_PATH', entry.name, `a ${entry.type} takes the place of a directory that has entries`);
    }
    if (type === S_IFCHR) this.#whiteouts.cover(joinPath(parent, path.name));
    if (type === S_IFDIR || type === S_IFLNK) this.#dirs.flush();
    return this.#parent(entry, path);
  }

  #xattr(fd: number, entry: Pick<TarEntry, 'name'>, xattr: Xattr): void {
    const verdict = judgeXattr(xattr.name);
    if (verdict === 'refuse') {
      throw pathError('E_ARCHIVE_XATTR', entry.name, `it has the attribute "${escapeName(xattr.name)}", which no layer may set`);
    }
    const isWanted = verdict === 'set' || (verdict === 'acl' && this.#options.keepAcls);
    if (!isWanted || !applyXattr(fd, entry.name, xattr)) this.#dropped.add(xattr.name);
  }

  /** Symlinks and FIFOs can have no `user.*` attributes, and nothing reads others of theirs. */
  #dropXattrs(entry: TarEntry): void {
    for (const { name } of entry.xattrs) {
      if (judgeXattr(name) === 'refuse') {
        throw pathError('E_ARCHIVE_XATTR', entry.name, `it has the attribute "${escapeName(name)}", which no layer may set`);
      }
      this.#dropped.add(name);
    }
  }

  #keepDefaultAcl(path: string, acl: Xattr): void {
    this.#defaultAclBytes += path.length + acl.value.length;
    if (this.#defaultAclBytes > MAX_DEFAULT_ACL_BYTES) {
      throw new RootlayerError(
        'E_LIMIT_XATTR',
        `Cannot unpack layer: its default access control lists have more than ${MAX_DEFAULT_ACL_BYTES} bytes`,
      );
    }
    this.#defaultAcls.set(path, acl);
  }

  #forgetDefaultAcl(path: string): void {
    const acl = this.#defaultAcls.get(path);
    if (acl === undefined) return;
    this.#defaultAclBytes -= path.length + acl.value.length;
    this.#defaultAcls.delete(path);
  }

  #defaultAcl(path: Buffer, acl: Xattr): void {
    let dir: StagingDir;
    try {
      dir = this.#dirs.at(path);
    } catch (error) {
      if (isNoDirectory(error)) return;
      throw error;
    }
    if (!applyXattr(dir.fd, path, acl)) this.#dropped.add(acl.name);
  }
}

const DOT = Buffer.from('.');
const DOT_DOT = Buffer.from('..');
const META_PREFIX = Buffer.from('.wh.');

/** A new file is root's, unless its directory hands on a group. */
function needsOwner(parent: StagingDir, entry: TarEntry): boolean {
  return entry.uid !== 0 || entry.gid !== 0 || parent.isSetgid;
}

function firstComponent(path: EntryPath): string {
  const whole = path.parent.length === 0 ? path.name : path.parent;
  return whole.toString('latin1').split('/', 1)[0] ?? '';
}
