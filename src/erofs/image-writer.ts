import { createHash } from 'node:crypto';
import { RootlayerError } from '../core/errors.ts';
import { close } from '../host/libc.ts';
import type { DirectoryData } from './directory-data.ts';
import { DIRECT_BYTES, type DiskOutput } from './disk-output.ts';
import { BLOCK_BYTES, blocksOf, LAYOUT, NO_BLOCK, SLOT_BYTES } from './format.ts';
import { addLink, encodeInode, type InodeFacts, type InodePlace, inodeBytes, setLocation } from './inode.ts';
import { MetaArea } from './meta-area.ts';
import { type Epoch, encodeSuperblock } from './superblock.ts';
import type { XattrBody, XattrTable } from './xattr-table.ts';

/**
 * What a file has in its last block stands behind its inode up to this size. With more, inodes would be far from each other, and looking
 * through a tree would read many blocks.
 */
const MAX_INLINE_BYTES = 1024;

/** A directory whose entries are still to come. */
export type OpenDirectory = {
  readonly nid: number;
  /** Writes the entries, with the inode of each of the data's names. */
  end(nids: readonly number[]): void;
};

/**
 * Puts an image together while a tree is walked: contents go to the file at once, inodes are kept in memory and go behind them, the superblock
 * goes last. Whoever calls it decides the order; the same calls give the same bytes.
 */
export class ImageWriter {
  readonly #output: DiskOutput;
  readonly #xattrs: XattrTable;
  readonly #maxInodes: number;
  readonly #meta = new MetaArea();
  #inodes = 0;
  #rootNid: number | null = null;
  #epoch: Epoch = { sec: 0, nsec: 0 };

  constructor(output: DiskOutput, xattrs: XattrTable, maxInodes: number) {
    this.#output = output;
    this.#xattrs = xattrs;
    this.#maxInodes = maxInodes;
  }

  /** Inodes so far. */
  get inodes(): number {
    return this.#inodes;
  }

  /** Whether the caller should wait for {@link room}. */
  get isFull(): boolean {
    return this.#output.isFull;
  }

  /** Resolves when more can be added. Throws what has failed meanwhile, as `DiskOutput.room` tells. */
  async room(): Promise<void> {
    await this.#output.room();
  }

  /** Begins a directory; the first one is the root. Throws `E_LIMIT_ENTRIES`, as all that adds an inode. */
  beginDirectory(facts: InodeFacts, xattrs: XattrBody, data: DirectoryData): OpenDirectory {
    if (this.#rootNid === null) this.#epoch = epochOf(facts);
    const tailBytes = data.sizeBytes % BLOCK_BYTES;
    const isInline = tailBytes > 0 && this.#headBytes(facts, xattrs) + tailBytes <= BLOCK_BYTES;
    const blocks = isInline ? Math.floor(data.sizeBytes / BLOCK_BYTES) : blocksOf(data.sizeBytes);
    const { nid, inode, tail } = this.#add(facts, xattrs, isInline ? tailBytes : 0, isInline ? LAYOUT.INLINE : LAYOUT.PLAIN, NO_BLOCK);
    this.#rootNid ??= nid;
    return {
      nid,
      end: (nids) => {
        const bytes = data.encode(nids);
        if (blocks > 0) setLocation(inode, this.#output.nextBlock);
        this.#output.append(bytes.subarray(0, blocks * BLOCK_BYTES));
        bytes.copy(tail, 0, blocks * BLOCK_BYTES);
      },
    };
  }

  /** Adds an open regular file, whose descriptor is closed here, sooner or later. Gives its inode. Throws `E_DISK_IMAGE` when it is too short. */
  addFile(facts: InodeFacts, xattrs: XattrBody, fd: number, isSparse: boolean, path: () => Buffer): number {
    const block = this.#output.nextBlock;
    if (facts.size >= DIRECT_BYTES) {
      this.#output.appendLargeFile(fd, facts.size, isSparse, path());
      return this.#add(facts, xattrs, 0, LAYOUT.PLAIN, block).nid;
    }
    try {
      const tailBytes = this.#tailBytes(facts, xattrs);
      const { nid, tail } = this.#add(facts, xattrs, tailBytes, tailBytes > 0 ? LAYOUT.INLINE : LAYOUT.PLAIN, block);
      this.#output.appendSmallFile(fd, facts.size - tailBytes, tail, path);
      return nid;
    } finally {
      close(fd);
    }
  }

  /** How much of a file's last block stands behind its inode. */
  #tailBytes(facts: InodeFacts, xattrs: XattrBody): number {
    const tailBytes = facts.size % BLOCK_BYTES;
    return tailBytes <= MAX_INLINE_BYTES && this.#headBytes(facts, xattrs) + tailBytes <= BLOCK_BYTES ? tailBytes : 0;
  }

  /** Adds a symlink. Gives its inode. */
  addSymlink(facts: InodeFacts, xattrs: XattrBody, target: Buffer): number {
    if (this.#headBytes(facts, xattrs) + target.length <= BLOCK_BYTES) {
      const { nid, tail } = this.#add(facts, xattrs, target.length, LAYOUT.INLINE, NO_BLOCK);
      target.copy(tail);
      return nid;
    }
    const block = this.#output.nextBlock;
    this.#output.append(target);
    return this.#add(facts, xattrs, 0, LAYOUT.PLAIN, block).nid;
  }

  /** Adds a fifo, or a device with its number as `encodeDevice` gives it. Gives its inode. */
  addSpecial(facts: InodeFacts, xattrs: XattrBody, device: number): number {
    return this.#add(facts, xattrs, 0, LAYOUT.PLAIN, device).nid;
  }

  /** Counts another name of a file that was added with facts that said it may have several. */
  addLink(nid: number): void {
    addLink(this.#meta.at(nid * SLOT_BYTES));
  }

  /** Writes what was kept, and the superblock. Gives the size of the image. */
  async finish(): Promise<number> {
    const output = this.#output;
    const pieces = this.#meta.pieces();
    const metaBlock = output.nextBlock;
    for (const piece of pieces) output.append(piece);
    const shared = this.#xattrs.sharedArea();
    const xattrBlock = shared.length === 0 ? 0 : output.nextBlock;
    output.append(shared);
    const uuid = makeUuid([...pieces, shared]);
    const facts = { rootNid: this.#rootNid ?? 0, inodes: this.#inodes, epoch: this.#epoch, blocks: output.nextBlock };
    await output.drain();
    await output.writeFirst(encodeSuperblock({ ...facts, metaBlock, xattrBlock, uuid }));
    return output.sizeBytes;
  }

  #headBytes(facts: InodeFacts, xattrs: XattrBody): number {
    return inodeBytes(facts, this.#epoch) + xattrs.bytes.length;
  }

  #add(facts: InodeFacts, xattrs: XattrBody, tailBytes: number, layout: InodePlace['layout'], location: number): AddedInode {
    if (this.#inodes === this.#maxInodes) throw tooMany(this.#maxInodes);
    this.#inodes += 1;
    const bytes = inodeBytes(facts, this.#epoch);
    const head = bytes + xattrs.bytes.length;
    const offset = this.#meta.allocate(head + tailBytes);
    const inode = this.#meta.at(offset);
    encodeInode(inode, bytes, facts, { layout, location, xattrWords: xattrs.words, serial: this.#inodes });
    if (xattrs.words > 0) xattrs.bytes.copy(inode, bytes);
    return { nid: offset / SLOT_BYTES, inode, tail: tailBytes === 0 ? NO_TAIL : inode.subarray(head, head + tailBytes) };
  }
}

const NO_TAIL = Buffer.alloc(0);

/** An inode in memory, and the room behind it. */
type AddedInode = { readonly nid: number; readonly inode: Buffer; readonly tail: Buffer };

/** The root's time: in reproducible images, most other files have it too, and their inodes need half the room. */
function epochOf({ mtimeSec, mtimeNsec }: InodeFacts): Epoch {
  return mtimeSec < 0 ? { sec: 0, nsec: 0 } : { sec: mtimeSec, nsec: mtimeNsec };
}

/** A UUID of version 8 (RFC 9562) from all that is known of the tree's files, but for the contents of large ones: overlayfs tells its layers apart by it. */
function makeUuid(pieces: readonly Buffer[]): Buffer {
  const hash = createHash('sha256');
  for (const piece of pieces) hash.update(piece);
  const uuid = hash.digest().subarray(0, 16);
  uuid.writeUInt8((uuid.readUInt8(6) & 0x0f) | 0x80, 6);
  uuid.writeUInt8((uuid.readUInt8(8) & 0x3f) | 0x80, 8);
  return uuid;
}

function tooMany(most: number): RootlayerError {
  return new RootlayerError('E_LIMIT_ENTRIES', `Cannot make disk image: the tree has more than ${most} files, want at most that many`);
}
