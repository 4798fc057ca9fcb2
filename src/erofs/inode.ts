import { COMPACT_BYTES, EXTENDED_BYTES, type LAYOUT } from './format.ts';
import type { Epoch } from './superblock.ts';

/** What an inode says, but for where its attributes and data are. */
export type InodeFacts = {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSec: number;
  readonly mtimeNsec: number;
  readonly size: number;
  /** Of files other than directories, how many names the file may have: more than one needs the extended form. */
  readonly nlink: number;
};

/** The rest: known once there is a place for it. */
export type InodePlace = {
  readonly layout: (typeof LAYOUT)[keyof typeof LAYOUT];
  /** Block number of the data, or the device number of a device node. */
  readonly location: number;
  /** The number of 32-bit words of the attributes, as `XattrTable` counts them. */
  readonly xattrWords: number;
  /** Counts up from 1: what programs with 32-bit numbers get to see. */
  readonly serial: number;
};

const MAX_16 = 0xffff;
const MAX_32 = 0xffff_ffff;

/** Offset of the block number in both forms, and of the link count in the extended one. */
const LOCATION_AT = 16;
const NLINK_AT = 44;

/** Gives the bytes that the inode needs: compact (32) where all of it fits, else extended (64). */
export function inodeBytes({ uid, gid, size, nlink, mode, mtimeSec, mtimeNsec }: InodeFacts, epoch: Epoch): number {
  // The links of a file are counted as they are found, after its inode was written.
  const maxLinks = (mode & 0o170000) === 0o040000 ? MAX_16 : 1;
  const fits = uid <= MAX_16 && gid <= MAX_16 && size <= MAX_32 && nlink <= maxLinks;
  return fits && mtimeSec === epoch.sec && mtimeNsec === epoch.nsec ? COMPACT_BYTES : EXTENDED_BYTES;
}

/** An inode is put together here: calls of a DataView cost a fraction of those of a Buffer. */
const scratch = new Uint8Array(EXTENDED_BYTES);
const compactScratch = scratch.subarray(0, COMPACT_BYTES);
const view = new DataView(scratch.buffer);

/** Writes an inode to the start of a buffer, in the form with that many bytes. A file has one link at first: see {@link addLink}. */
export function encodeInode(target: Buffer, bytes: number, facts: InodeFacts, place: InodePlace): void {
  const isDirectory = (facts.mode & 0o170000) === 0o040000;
  const nlink = isDirectory ? facts.nlink : 1;
  const isExtended = bytes === EXTENDED_BYTES;
  scratch.fill(0);
  view.setUint16(0, (isExtended ? 1 : 0) | (place.layout << 1), true);
  view.setUint16(2, place.xattrWords, true);
  view.setUint16(4, facts.mode, true);
  view.setUint32(8, facts.size % 2 ** 32, true);
  view.setUint32(LOCATION_AT, place.location, true);
  view.setUint32(20, place.serial, true);
  if (isExtended) {
    view.setUint32(12, Math.floor(facts.size / 2 ** 32), true);
    view.setUint32(24, facts.uid, true);
    view.setUint32(28, facts.gid, true);
    setInt64(32, facts.mtimeSec);
    view.setUint32(40, facts.mtimeNsec, true);
    view.setUint32(NLINK_AT, nlink, true);
  } else {
    view.setUint16(6, nlink, true);
    view.setUint16(24, facts.uid, true);
    view.setUint16(26, facts.gid, true);
  }
  target.set(isExtended ? scratch : compactScratch);
}

/** Counts one more name of an inode in its extended form. */
export function addLink(inode: Buffer): void {
  inode.writeUInt32LE(inode.readUInt32LE(NLINK_AT) + 1, NLINK_AT);
}

/** Sets the block number of an inode's data, which a directory gets after its inode. */
export function setLocation(inode: Buffer, block: number): void {
  inode.writeUInt32LE(block, LOCATION_AT);
}

/** The number of a device as the kernel packs it into 32 bits (new_encode_dev of linux/kdev_t.h). */
export function encodeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)) >>> 0;
}

/** In two halves: a BigInt would cost more than all of the rest. */
function setInt64(at: number, value: number): void {
  const high = Math.floor(value / 2 ** 32);
  view.setUint32(at, value - high * 2 ** 32, true);
  view.setInt32(at + 4, high, true);
}
