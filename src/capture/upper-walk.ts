import { RootlayerError } from '../core/errors.ts';
import { escapeName } from '../core/names.ts';
import { close, O_NOFOLLOW, O_NONBLOCK, openAt2, S_IFDIR, S_IFMT, S_IFREG, type Stat, statAt, statFd } from '../host/libc.ts';
import type { CaptureRequest } from './capture-protocol.ts';
import { BENEATH, DirectoryPath } from './directory-path.ts';
import { type FileFacts, factsOfFd, factsOfName, isWhiteoutNode, tarTypeOf } from './file-facts.ts';
import type { LowerView } from './lower-view.ts';
import { DT, NameList } from './name-list.ts';
import type { PackedFile, Packer } from './packer.ts';
import { PathBuffer } from './path-buffer.ts';
import type { Warnings } from './warnings.ts';

/** How an upper directory is read. */
export type WalkOptions = Pick<CaptureRequest, 'devices' | 'kind' | 'compat'> & {
  maxXattrBytes: number;
  mtimeOf: (stat: Stat) => number;
};

/** Source: OCI image-spec layer.md, "Whiteouts". */
const WHITEOUT_PREFIX = Buffer.from('.wh.');
const OPAQUE_MARKER = Buffer.from('.wh..wh..opq');

/** Highest id that an image can hold: ids are mapped in ranges of 65,536. */
const MAX_ID = 65_535;

/** A directory on the way from the root to where the walk is. */
type Frame = {
  readonly names: NameList;
  next: number;
  readonly facts: FileFacts;
  /** Length of its path in the path buffer, and of its parent's. */
  readonly pathLength: number;
  readonly parentLength: number;
  /** The lower view is in the same directory, and its entries show through. */
  readonly hasLower: boolean;
  /** It may hold whiteouts in the form of empty files with a mark. */
  readonly hasFileWhiteouts: boolean;
};

/**
 * Walks a frozen upper directory once, iteratively and by descriptors, and gives the packer what differs from the lower view: parents before
 * children, by the bytes of their names, deletions of a directory before its other entries. A directory whose contents changed is always
 * given, so that its times survive an extraction; what equals the lower view is left out.
 *
 * Throws the codes of the table in spec of threats, part C: `E_CAPTURE_CHANGED`, `E_CAPTURE_DEPTH`, `E_CAPTURE_DEVICE`, `E_CAPTURE_OVERLAY`,
 * `E_CAPTURE_WHITEOUT_NAME`, `E_LIMIT_XATTR`, what the packer throws, and `E_CAPTURE` for an owner outside 0 to 65535.
 */
export class UpperWalk implements Disposable {
  readonly #upper: DirectoryPath;
  readonly #lower: LowerView | null;
  readonly #packer: Packer;
  readonly #warnings: Warnings;
  readonly #options: WalkOptions;
  readonly #path: PathBuffer;
  readonly #frames: Frame[] = [];
  /** Frames from the root on that the packer has got. */
  #given = 0;
  /** The name that is being looked at, for messages. */
  #name: Buffer = Buffer.alloc(0);

  /** The upper's descriptor stays the caller's. */
  constructor(upperFd: number, lower: LowerView | null, packer: Packer, warnings: Warnings, options: WalkOptions) {
    this.#upper = new DirectoryPath(upperFd);
    this.#lower = lower;
    this.#packer = packer;
    this.#warnings = warnings;
    this.#options = options;
    this.#path = new PathBuffer(options.compat === 'seed' ? './' : '');
  }

  /** Does the walk. For messages on failed system calls, see {@link where}. */
  run(): void {
    this.#startRoot();
    for (let frame = this.#frames.at(-1); frame !== undefined; frame = this.#frames.at(-1)) {
      if (frame.next >= frame.names.length) {
        this.#leave(frame);
      } else {
        const { name, type } = frame.names.at(frame.next);
        frame.next += 1;
        this.#name = name;
        this.#visit(frame, name, type);
      }
    }
  }

  /** The path that the walk was at when it failed. */
  where(): Buffer {
    return this.#name.length === 0 ? this.#path.upTo(this.#path.length) : this.#path.of(this.#name);
  }

  [Symbol.dispose](): void {
    this.#upper[Symbol.dispose]();
  }

  #visit(frame: Frame, name: Buffer, type: number): void {
    if (type === DT.SOCKET) return;
    if (type === DT.DIRECTORY) {
      this.#refuseMarkerName(name);
      this.#enter(frame, name);
    } else if (type === DT.REGULAR) {
      this.#visitRegular(frame, name);
    } else {
      this.#visitSpecial(frame, name);
    }
  }

  /** Overlayfs takes the roots of all its layers together, whatever marks they have. */
  #startRoot(): void {
    const facts = this.#directoryFacts();
    const isSame = this.#lower?.isSameDirectory(facts) ?? isPlainRoot(facts);
    this.#push(facts, 0, this.#lower !== null);
    if (!isSame || !this.#leavesOut()) this.#giveDirectories();
    this.#giveDeletions();
  }

  /** A directory in place of anything else needs no opaque marker: whoever applies the layer replaces what is no directory. */
  #enter(parent: Frame, name: Buffer): void {
    const parentLength = this.#path.length;
    this.#upper.enter(name);
    this.#path.enter(name);
    this.#name = Buffer.alloc(0);
    const facts = this.#directoryFacts();
    const lower = parent.hasLower && this.#lower?.isDirectory(name) === true ? this.#lower : null;
    const isOpaque = facts.xattrs.opaque === 'y';
    if (!isOpaque) lower?.enter(name);
    const isSame = !isOpaque && lower?.isSameDirectory(facts) === true;
    this.#push(facts, parentLength, lower !== null && !isOpaque);
    if (!isSame || !this.#leavesOut()) this.#giveDirectories();
    if (isOpaque && lower !== null) this.#packer.addMarker(this.#path.of(OPAQUE_MARKER));
    this.#giveDeletions();
  }

  #push(facts: FileFacts, parentLength: number, hasLower: boolean): void {
    this.#frames.push({
      names: NameList.read(this.#upper.fd),
      next: 0,
      facts,
      pathLength: this.#path.length,
      parentLength,
      hasLower,
      hasFileWhiteouts: facts.xattrs.opaque === 'x',
    });
  }

  #leave(frame: Frame): void {
    this.#frames.pop();
    this.#given = Math.min(this.#given, this.#frames.length);
    this.#path.leave(frame.parentLength);
    this.#name = Buffer.alloc(0);
    if (this.#frames.length === 0) return;
    this.#upper.leave();
    if (frame.hasLower) this.#lower?.leave();
  }

  /** Gives the packer the present directory and those above it that it has not got yet. */
  #giveDirectories(): void {
    for (; this.#given < this.#frames.length; this.#given += 1) {
      const frame = this.#frames[this.#given];
      if (frame !== undefined) this.#give(this.#path.upTo(frame.pathLength), frame.facts, 'directory', null);
    }
  }

  /** All names of the present directory that the layer deletes. Deletions go first, as the OCI spec asks. */
  #giveDeletions(): void {
    const frame = this.#frames.at(-1);
    if (frame === undefined) return;
    for (let index = 0; index < frame.names.length; index += 1) {
      const type = frame.names.typeAt(index);
      if (type !== DT.CHAR && type !== DT.SOCKET && !(frame.hasFileWhiteouts && type === DT.REGULAR)) continue;
      const { name } = frame.names.at(index);
      this.#name = name;
      if (type === DT.SOCKET) this.#warnings.add('a socket, which layers cannot hold', this.#path.of(name));
      else if (!this.#isWhiteout(frame, name, type)) continue;
      if (!frame.hasLower || this.#lower?.lookup(name) == null) continue;
      this.#giveDirectories();
      this.#packer.addMarker(this.#path.of(name, WHITEOUT_PREFIX));
    }
  }

  #isWhiteout(frame: Frame, name: Buffer, type: number): boolean {
    const stat = statAt(this.#upper.fd, name);
    if (type === DT.CHAR) return isWhiteoutNode(stat);
    if (!frame.hasFileWhiteouts || stat.size > 0) return false;
    return factsOfName(this.#upper.fd, name, stat, () => this.#path.of(name), this.#options.maxXattrBytes).xattrs.isWhiteout;
  }

  /** Opened without blocking and without following, and looked at again once open: it must still be what the directory said. */
  #visitRegular(frame: Frame, name: Buffer): void {
    const fd = openAt2(this.#upper.fd, name, O_NOFOLLOW | O_NONBLOCK, BENEATH);
    try {
      const stat = statFd(fd);
      if ((stat.mode & S_IFMT) !== S_IFREG) throw changed(this.#path.of(name), 'it is no longer a regular file');
      const facts = factsOfFd(fd, stat, () => this.#path.of(name), this.#options.maxXattrBytes);
      if (frame.hasFileWhiteouts && facts.xattrs.isWhiteout && stat.size === 0) return;
      this.#giveFile(frame, name, facts, fd);
    } finally {
      close(fd);
    }
  }

  /** Symlinks, fifos and devices are never opened. */
  #visitSpecial(frame: Frame, name: Buffer): void {
    const stat = statAt(this.#upper.fd, name);
    if (isWhiteoutNode(stat)) return;
    const facts = factsOfName(this.#upper.fd, name, stat, () => this.#path.of(name), this.#options.maxXattrBytes);
    this.#giveFile(frame, name, facts, null);
  }

  #giveFile(frame: Frame, name: Buffer, facts: FileFacts, bodyFd: number | null): void {
    this.#refuseMarkerName(name);
    if (frame.hasLower && this.#leavesOut() && this.#lower?.isSameFile(name, facts, bodyFd) === true) return;
    const type = tarTypeOf(facts.stat);
    if (type === undefined || type === 'directory' || (type === 'file') !== (bodyFd !== null)) {
      throw changed(this.#path.of(name), 'its type is no longer what it was');
    }
    if ((type === 'char' || type === 'block') && this.#options.devices === 'refuse') throw deviceRefused(this.#path.of(name), facts.stat);
    this.#giveDirectories();
    this.#give(this.#path.of(name), facts, type, bodyFd);
  }

  #directoryFacts(): FileFacts {
    const fd = this.#upper.fd;
    const stat = statFd(fd);
    if ((stat.mode & S_IFMT) !== S_IFDIR) throw changed(this.where(), 'it is no longer a directory');
    return factsOfFd(fd, stat, () => this.where(), this.#options.maxXattrBytes);
  }

  #give(path: Buffer, { stat, target, xattrs }: FileFacts, type: PackedFile['type'], bodyFd: number | null): void {
    if (stat.uid > MAX_ID || stat.gid > MAX_ID) throw ownerRefused(path, stat);
    for (const name of xattrs.dropped) this.#warnings.add(`the attribute "${name}"`, path);
    const kept = this.#options.compat === 'seed' ? [] : xattrs.kept;
    this.#packer.addFile(path, { type, stat, mtimeSec: this.#options.mtimeOf(stat), target, xattrs: kept }, bodyFd);
  }

  #leavesOut(): boolean {
    return this.#options.kind === 'layer' && this.#options.compat === 'none';
  }

  #refuseMarkerName(name: Buffer): void {
    if (!name.subarray(0, WHITEOUT_PREFIX.length).equals(WHITEOUT_PREFIX)) return;
    throw new RootlayerError(
      'E_CAPTURE_WHITEOUT_NAME',
      `Cannot capture "${escapeName(this.#path.of(name))}": its name means a deletion in a layer, want one that does not begin with ".wh."`,
    );
  }
}

/** The root of a job without a base starts as an empty directory of mode 0755, owned by root. Its time is when it was made. */
function isPlainRoot({ stat, xattrs }: FileFacts): boolean {
  return (stat.mode & 0o7777) === 0o755 && stat.uid === 0 && stat.gid === 0 && xattrs.kept.length === 0;
}

function changed(path: Buffer, why: string): RootlayerError {
  return new RootlayerError(
    'E_CAPTURE_CHANGED',
    `Cannot capture "${escapeName(path)}": ${why}, want an upper directory that nobody writes to`,
  );
}

function deviceRefused(path: Buffer, stat: Stat): RootlayerError {
  const device = `${stat.rdevMajor}:${stat.rdevMinor}`;
  return new RootlayerError('E_CAPTURE_DEVICE', `Cannot capture "${escapeName(path)}": it is device ${device}, want no device nodes`);
}

function ownerRefused(path: Buffer, stat: Stat): RootlayerError {
  const owner = `${stat.uid}:${stat.gid}`;
  return new RootlayerError('E_CAPTURE', `Cannot capture "${escapeName(path)}": its owner is ${owner}, want ids from 0 to ${MAX_ID}`);
}
