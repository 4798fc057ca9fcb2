/** Numbers of the EROFS disk format, uncompressed. Source: Linux fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst. */

/** Bytes of a block: the only size that every kernel since 5.4 mounts on machines with pages of 4 KiB. */
export const BLOCK_BYTES = 4096;

/** Inodes begin at multiples of this; an inode's number (nid) is its offset in the metadata area, divided by it. */
export const SLOT_BYTES = 32;

/** Sizes of the two forms of an inode. */
export const COMPACT_BYTES = 32;
export const EXTENDED_BYTES = 64;

/** Where an inode's data is: in blocks of its own, or the same with what is left of a block behind the inode itself. */
export const LAYOUT = { PLAIN: 0, INLINE: 2 } as const;

/** A directory entry without its name. */
export const DIRENT_BYTES = 12;

/** Longest name of a directory entry. */
export const MAX_NAME_BYTES = 255;

/** Block number of an inode that has no block. */
export const NO_BLOCK = 0xffff_ffff;

/** Types of a directory entry, by the S_IFMT bits of the mode shifted by 12 (which are the DT_ values of readdir(3)). Sockets are never written. */
export const ENTRY_TYPES: Readonly<Record<number, number>> = { 8: 1, 4: 2, 2: 3, 6: 4, 1: 5, 10: 7 };

/** How many whole blocks that many bytes need. */
export function blocksOf(bytes: number): number {
  return Math.ceil(bytes / BLOCK_BYTES);
}

/** Rounds up to whole blocks. */
export function alignToBlock(bytes: number): number {
  return blocksOf(bytes) * BLOCK_BYTES;
}
