import { crc32c } from './crc32c.ts';
import { BLOCK_BYTES } from './format.ts';

const MAGIC = 0xe0f5_e1e2;
/** In the first block; what is before it is left to boot loaders. */
const OFFSET = 1024;
/** EROFS_FEATURE_COMPAT_SB_CHKSUM, and _MTIME: times are those of contents. */
const COMPATIBLE = 0x1 | 0x2;
const BLOCK_BITS = 12;

/** A time that compact inodes, which have none of their own, get. */
export type Epoch = { readonly sec: number; readonly nsec: number };

/** What a superblock says. */
export type SuperblockFacts = {
  readonly rootNid: number;
  readonly inodes: number;
  readonly epoch: Epoch;
  /** Of the whole image. */
  readonly blocks: number;
  readonly metaBlock: number;
  /** Of the shared attributes; 0 when there are none. */
  readonly xattrBlock: number;
  /** 16 bytes. */
  readonly uuid: Buffer;
};

/** Gives how many bytes an image has that begins with this block; null when the block is not the first one of an image of ours, or damaged. */
export function imageBytes(block: Buffer): number | null {
  if (block.length !== BLOCK_BYTES || block.readUInt32LE(OFFSET) !== MAGIC || block.readUInt8(OFFSET + 12) !== BLOCK_BITS) return null;
  const summed = Buffer.from(block.subarray(OFFSET));
  summed.writeUInt32LE(0, 4);
  return crc32c(summed) === block.readUInt32LE(OFFSET + 4) ? block.readUInt32LE(OFFSET + 36) * BLOCK_BYTES : null;
}

/** Gives the first block of an image, with its checksum. */
export function encodeSuperblock(facts: SuperblockFacts): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  block.writeUInt32LE(MAGIC, OFFSET);
  block.writeUInt32LE(COMPATIBLE, OFFSET + 8);
  block.writeUInt8(BLOCK_BITS, OFFSET + 12);
  block.writeUInt16LE(facts.rootNid, OFFSET + 14);
  block.writeBigUInt64LE(BigInt(facts.inodes), OFFSET + 16);
  block.writeBigUInt64LE(BigInt(facts.epoch.sec), OFFSET + 24);
  block.writeUInt32LE(facts.epoch.nsec, OFFSET + 32);
  block.writeUInt32LE(facts.blocks, OFFSET + 36);
  block.writeUInt32LE(facts.metaBlock, OFFSET + 40);
  block.writeUInt32LE(facts.xattrBlock, OFFSET + 44);
  facts.uuid.copy(block, OFFSET + 48, 0, 16);
  block.writeUInt32LE(crc32c(block.subarray(OFFSET)), OFFSET + 4);
  return block;
}
