import { toRevision2 } from '../capture/capability.ts';
import { BENEATH, DirectoryPath } from '../capture/directory-path.ts';
import { RootlayerError } from '../core/errors.ts';
import { escapeName } from '../core/names.ts';
import type { Xattr } from '../core/tar/entry.ts';
import {
  changeDirectory,
  close,
  getXattrFd,
  getXattrHere,
  listXattrsFd,
  listXattrsHere,
  O_NOFOLLOW,
  O_NONBLOCK,
  openAt2,
  readDirectoryPacked,
  readlinkAt,
  type Stat,
  statAt,
  statFd,
} from '../host/libc.ts';
import { DirectoryData, DOT, DOT_DOT } from './directory-data.ts';
import type { ImageWriter, OpenDirectory } from './image-writer.ts';
import { encodeDevice } from './inode.ts';
import { NO_XATTRS, type XattrBody, type XattrTable } from './xattr-table.ts';

/** Types of a directory entry, which are the S_IFMT bits of a mode shifted by 12. Source: dirent.h. */
const DT = { UNKNOWN: 0, FIFO: 1, CHAR: 2, DIRECTORY: 4, BLOCK: 6, REGULAR: 8, SYMLINK: 10, SOCKET: 12 } as const;

const NO_NAME = Buffer.alloc(0);
const SLASH = Buffer.from('/');

/** One directory on the way down. */
type Frame = {
  readonly name: Buffer;
  readonly data: DirectoryData;
  readonly open: OpenDirectory;
  /** Of the names of {@link data}, those visited so far. */
  readonly nids: number[];
};

/** Walks a tree by descriptors, in the order of its names' bytes, and gives every file to an image once. Sockets are left out. */
export class TreeWalk implements Disposable {
  readonly #directories: DirectoryPath;
  readonly #image: ImageWriter;
  readonly #xattrs: XattrTable;
  readonly #frames: Frame[] = [];
  /** Inodes with more than one name, by device and number. */
  readonly #links = new Map<string, number>();
  #name: Buffer = NO_NAME;
  /** The current directory of the process is that of the walk. */
  #isHere = false;
  #sockets = 0;

  /** The root's descriptor stays the caller's. */
  constructor(rootFd: number, image: ImageWriter, xattrs: XattrTable) {
    this.#directories = new DirectoryPath(rootFd);
    this.#image = image;
    this.#xattrs = xattrs;
  }

  /** How many sockets were left out. */
  get sockets(): number {
    return this.#sockets;
  }

  /** Does the walk; it waits whenever the image has no room. Throws `E_DISK_IMAGE` for a tree that changes meanwhile, and what the image throws. */
  async run(): Promise<void> {
    this.#push();
    for (let frame = this.#frames.at(-1); frame !== undefined; frame = this.#frames.at(-1)) {
      const packed = frame.data.names[frame.nids.length];
      if (packed === undefined) this.#leave(frame);
      else this.#visit(frame, packed);
      if (this.#image.isFull) await this.#image.room();
    }
  }

  /** The path that the walk is at, without a leading slash. */
  where(): Buffer {
    const names = [...this.#frames.map((frame) => frame.name), this.#name].filter((name) => name.length > 0);
    return Buffer.concat(names.flatMap((name, index) => (index === 0 ? [name] : [SLASH, name])));
  }

  [Symbol.dispose](): void {
    this.#directories[Symbol.dispose]();
  }

  #visit(frame: Frame, packed: string): void {
    if (packed === DOT) {
      frame.nids.push(frame.open.nid);
      return;
    }
    if (packed === DOT_DOT) {
      frame.nids.push((this.#frames.at(-2) ?? frame).open.nid);
      return;
    }
    const type = packed.charCodeAt(packed.length - 1);
    this.#name = Buffer.from(packed.slice(0, -2), 'latin1');
    if (type === DT.DIRECTORY) this.#enter(this.#name);
    else frame.nids.push(type === DT.REGULAR ? this.#addRegular(this.#name) : this.#addSpecial(this.#name, type));
  }

  #enter(name: Buffer): void {
    this.#directories.enter(name);
    this.#isHere = false;
    this.#push();
  }

  /** Begins the directory that the walk is in now; its name is the present one. */
  #push(): void {
    const fd = this.#directories.fd;
    const stat = statFd(fd);
    this.#check(stat, DT.DIRECTORY);
    const names = this.#readNames(fd);
    const data = new DirectoryData(names);
    const children = names.reduce((count, packed) => count + (packed.endsWith('\x04') ? 1 : 0), 0);
    const xattrs = this.#xattrsOfFd(fd);
    const open = this.#image.beginDirectory({ ...stat, size: data.sizeBytes, nlink: 2 + children }, xattrs, data);
    this.#frames.push({ name: this.#name, data, open, nids: [] });
    this.#name = NO_NAME;
  }

  #leave(frame: Frame): void {
    frame.open.end(frame.nids);
    this.#frames.pop();
    const parent = this.#frames.at(-1);
    if (parent === undefined) return;
    parent.nids.push(frame.open.nid);
    this.#directories.leave();
    this.#isHere = false;
  }

  #readNames(fd: number): string[] {
    const packed = readDirectoryPacked(fd).map((name) => (name.endsWith('\0') ? withType(fd, name) : name));
    const kept = packed.filter((name) => name.charCodeAt(name.length - 1) !== DT.SOCKET);
    this.#sockets += packed.length - kept.length;
    return kept;
  }

  /** Opened without blocking and without following, and looked at again once open. */
  #addRegular(name: Buffer): number {
    const fd = openAt2(this.#directories.fd, name, O_NOFOLLOW | O_NONBLOCK, BENEATH);
    let isTaken = false;
    try {
      const stat = statFd(fd);
      this.#check(stat, DT.REGULAR);
      return this.#once(stat, () => {
        const xattrs = this.#xattrsOfFd(fd);
        isTaken = true;
        return this.#image.addFile(stat, xattrs, fd, stat.blocks * 512 < stat.size, () => this.where());
      });
    } finally {
      if (!isTaken) close(fd);
    }
  }

  /** Symlinks, fifos and devices are never opened; only calls by name in the current directory read the attributes of a symlink itself. */
  #addSpecial(name: Buffer, type: number): number {
    const dirFd = this.#directories.fd;
    const stat = statAt(dirFd, name);
    this.#check(stat, type);
    return this.#once(stat, () => {
      if (!this.#isHere) changeDirectory(dirFd);
      this.#isHere = true;
      const xattrs = this.#encode(listXattrsHere(name), (attribute) => getXattrHere(name, attribute));
      if (type !== DT.SYMLINK) return this.#image.addSpecial({ ...stat, size: 0 }, xattrs, deviceOf(stat, type));
      const target = readlinkAt(dirFd, name);
      return this.#image.addSymlink({ ...stat, size: target.length }, xattrs, target);
    });
  }

  /** Adds an inode for the first of its names, and counts the others. */
  #once(stat: Stat, add: () => number): number {
    if (stat.nlink < 2) return add();
    const key = `${stat.devMajor}:${stat.devMinor}:${stat.ino}`;
    const known = this.#links.get(key);
    if (known !== undefined) {
      this.#image.addLink(known);
      return known;
    }
    const nid = add();
    this.#links.set(key, nid);
    return nid;
  }

  #xattrsOfFd(fd: number): XattrBody {
    return this.#encode(listXattrsFd(fd), (attribute) => getXattrFd(fd, attribute));
  }

  #encode(names: readonly Buffer[], get: (name: Buffer) => Buffer | null): XattrBody {
    if (names.length === 0) return NO_XATTRS;
    const xattrs = names.flatMap((name): Xattr[] => {
      const value = get(name);
      return value === null ? [] : [{ name, value: name.equals(CAPABILITY) ? (toRevision2(value) ?? value) : value }];
    });
    return this.#xattrs.encode(xattrs, () => this.where());
  }

  #check(stat: Stat, type: number): void {
    if (stat.mode >> 12 !== type) this.#fail('its type is no longer what it was');
  }

  #fail(why: string): never {
    throw new RootlayerError(
      'E_DISK_IMAGE',
      `Cannot put "${escapeName(this.where())}" on a disk: ${why}, want a tree that nobody writes to`,
    );
  }
}

const CAPABILITY = Buffer.from('security.capability');

function deviceOf(stat: Stat, type: number): number {
  return type === DT.FIFO ? 0 : encodeDevice(stat.rdevMajor, stat.rdevMinor);
}

/** Asks for the type that the filesystem did not tell. */
function withType(dirFd: number, packed: string): string {
  const name = packed.slice(0, -2);
  return `${name}\0${String.fromCharCode(statAt(dirFd, Buffer.from(name, 'latin1')).mode >> 12)}`;
}
