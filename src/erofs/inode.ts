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

/** Writes an inode to the start of a buffer of zeros, in the form with that many bytes. A file has one link at first: see {@link addLink}. */
export function encodeInode(target: Buffer, bytes: number, facts: InodeFacts, place: InodePlace): void {
  const isDirectory = (facts.mode & 0o170000) === 0o040000;
  const nlink = isDirectory ? facts.nlink : 1;
  const isExtended = bytes === EXTENDED_BYTES;
  target.writeUInt16LE((isExtended ? 1 : 0) | (place.layout << 1), 0);
  target.writeUInt16LE(place.xattrWords, 2);
  target.writeUInt16LE(facts.mode, 4);
  target.writeUInt32LE(facts.size % 2 ** 32, 8);
  target.writeUInt32LE(place.location, LOCATION_AT);
  target.writeUInt32LE(place.serial, 20);
  if (isExtended) {
    target.writeUInt32LE(Math.floor(facts.size / 2 ** 32), 12);
    target.writeUInt32LE(facts.uid, 24);
    target.writeUInt32LE(facts.gid, 28);
    writeInt64(target, facts.mtimeSec, 32);
    target.writeUInt32LE(facts.mtimeNsec, 40);
    target.writeUInt32LE(nlink, NLINK_AT);
  } else {
    target.writeUInt16LE(nlink, 6);
    target.writeUInt16LE(facts.uid, 24);
    target.writeUInt16LE(facts.gid, 26);
  }
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
function writeInt64(target: Buffer, value: number, at: number): void {
  const high = Math.floor(value / 2 ** 32);
  target.writeUInt32LE(value - high * 2 ** 32, at);
  target.writeInt32LE(high, at + 4);
}
