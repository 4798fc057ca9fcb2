import { RootlayerError } from '../core/errors.ts';
import { escapeName } from '../core/names.ts';
import type { TarMember, TarType, Xattr } from '../core/tar/entry.ts';
import { encodeEntry, endOfArchive, padding } from '../core/tar/writer.ts';
import type { Stat } from '../host/libc.ts';
import type { TarOutput, TarSums } from './tar-output.ts';

/** What a member of the layer is made of, besides its path. */
export type PackedFile = {
  type: Exclude<TarType, 'hardlink'>;
  stat: Stat;
  mtimeSec: number;
  /** Of a symlink; empty otherwise. */
  target: Buffer;
  xattrs: readonly Xattr[];
};

/** The way the members are written. */
export type PackStyle = {
  /** Of whiteouts and opaque markers: their inodes' times are not the script's. */
  markerMtimeSec: number;
  /** Write each further name of an inode as a link, or as a copy. */
  links: 'link' | 'copy';
  maxEntries: number;
};

const NOTHING = Buffer.alloc(0);

/** Turns files and markers, in the order they come, into a tar. */
export class Packer {
  readonly #out: TarOutput;
  readonly #style: PackStyle;
  /** By inode: the first name, and how many other names are still to come. */
  readonly #links = new Map<bigint, { path: Buffer; left: number }>();
  #entries = 0;

  constructor(out: TarOutput, style: PackStyle) {
    this.#out = out;
    this.#style = style;
  }

  get entries(): number {
    return this.#entries;
  }

  /**
   * Adds a file with an open descriptor for the body of a regular one, null for others. Throws `E_CAPTURE_CHANGED` when the body is not as
   * long as the stat says, `E_LIMIT_RESULT` before anything is written that passes a limit.
   */
  addFile(path: Buffer, file: PackedFile, bodyFd: number | null): void {
    const first = file.stat.nlink > 1 && file.type !== 'directory' ? this.#firstName(path, file.stat) : null;
    const size = file.type === 'file' && first === null ? file.stat.size : 0;
    this.#writeHeader({
      name: path,
      type: first === null ? file.type : 'hardlink',
      mode: file.stat.mode & 0o7777,
      uid: file.stat.uid,
      gid: file.stat.gid,
      size,
      mtimeSec: file.mtimeSec,
      linkName: first ?? file.target,
      devMajor: file.stat.rdevMajor,
      devMinor: file.stat.rdevMinor,
      xattrs: first === null ? file.xattrs : [],
    });
    if (bodyFd !== null && first === null) this.#writeBody(path, bodyFd, size);
  }

  /** Adds an empty file that means a deletion: `.wh.NAME` or `.wh..wh..opq`. Source: OCI image-spec layer.md, "Whiteouts". */
  addMarker(path: Buffer): void {
    this.#writeHeader({
      name: path,
      type: 'file',
      mode: 0o644,
      uid: 0,
      gid: 0,
      size: 0,
      mtimeSec: this.#style.markerMtimeSec,
      linkName: NOTHING,
      devMajor: 0,
      devMinor: 0,
      xattrs: [],
    });
  }

  /** Ends the tar. */
  finish(): TarSums {
    this.#out.write(endOfArchive);
    return this.#out.finish();
  }

  /** Null for the first name of an inode. An inode is forgotten with its last name, so the map stays small. */
  #firstName(path: Buffer, stat: Stat): Buffer | null {
    if (this.#style.links === 'copy') return null;
    const known = this.#links.get(stat.ino);
    if (known === undefined) {
      this.#links.set(stat.ino, { path, left: stat.nlink - 1 });
      return null;
    }
    known.left -= 1;
    if (known.left === 0) this.#links.delete(stat.ino);
    return known.path;
  }

  #writeHeader(member: TarMember): void {
    this.#entries += 1;
    const describe = (): string => `"${escapeName(member.name)}"`;
    if (this.#entries > this.#style.maxEntries) {
      throw new RootlayerError('E_LIMIT_RESULT', `Cannot capture ${describe()}: the layer has more than ${this.#style.maxEntries} entries`);
    }
    const header = encodeEntry(member);
    this.#out.reserve(header.length + member.size + padding(member.size).length + endOfArchive.length, describe);
    this.#out.write(header);
  }

  #writeBody(path: Buffer, fd: number, size: number): void {
    if (!this.#out.copyFile(fd, size)) {
      throw new RootlayerError(
        'E_CAPTURE_CHANGED',
        `Cannot capture "${escapeName(path)}": it does not have the ${size} bytes it had before`,
      );
    }
    this.#out.write(padding(size));
  }
}
