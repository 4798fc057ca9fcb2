import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import { BLOCK, checksumOf, FIELD, type Field, GNU_MAGIC, paddingLength } from '../../core/tar/layout.ts';
import type { PackedMember } from './pack.ts';

/**
 * Gives the header of a member as GNU tar 1.34 writes it in its own format, byte for byte: long names and link targets in members of their own in front,
 * numbers that octal digits cannot hold in base 256. Throws `E_ARCHIVE_NAME` for a NUL byte in a name.
 * Source: GNU tar manual, "Basic Tar Format" and "GNU Extensions".
 */
export function encodeGnuEntry(member: PackedMember): Buffer {
  if (member.name.includes(0) || member.linkName.includes(0)) {
    throw new RootlayerError('E_ARCHIVE_NAME', `Cannot write member "${escapeName(member.name)}": its name or target holds a NUL byte`);
  }
  const parts: Buffer[] = [];
  if (member.linkName.length > FIELD.linkName[1]) parts.push(longText('K', member.linkName, member));
  if (member.name.length > FIELD.name[1]) parts.push(longText('L', member.name, member));
  parts.push(header(member, TYPEFLAGS[member.type]));
  return parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts);
}

const TYPEFLAGS = { file: '0', hardlink: '1', symlink: '2', char: '3', block: '4', directory: '5', fifo: '6' } as const;

const LONG_NAME = Buffer.from('././@LongLink');
const EMPTY = Buffer.alloc(0);

/** The text with a NUL behind it. GNU tar names root as its owner, unless it is to write no names at all. */
function longText(typeflag: 'K' | 'L', text: Buffer, { numericOwner }: PackedMember): Buffer {
  const size = text.length + 1;
  const block = header(
    {
      name: LONG_NAME,
      type: 'file',
      mode: 0o644,
      uid: 0,
      gid: 0,
      uname: numericOwner ? '' : 'root',
      gname: numericOwner ? '' : 'root',
      numericOwner,
      size,
      mtimeSec: 0,
      linkName: EMPTY,
      devMajor: 0,
      devMinor: 0,
      xattrs: [],
    },
    typeflag,
  );
  return Buffer.concat([block, text, Buffer.alloc(1 + paddingLength(size))]);
}

function header(member: PackedMember, typeflag: string): Buffer {
  const block = Buffer.alloc(BLOCK);
  member.name.copy(block, FIELD.name[0], 0, FIELD.name[1]);
  writeNumber(block, FIELD.mode, member.mode);
  writeNumber(block, FIELD.uid, member.uid);
  writeNumber(block, FIELD.gid, member.gid);
  writeNumber(block, FIELD.size, member.size);
  writeNumber(block, FIELD.mtime, member.mtimeSec);
  block.write(typeflag, FIELD.typeflag[0], 'latin1');
  member.linkName.copy(block, FIELD.linkName[0], 0, FIELD.linkName[1]);
  block.write(GNU_MAGIC, FIELD.magic[0], 'latin1');
  writeName(block, UNAME, member.uname);
  writeName(block, GNAME, member.gname);
  if (member.type === 'char' || member.type === 'block') {
    writeNumber(block, FIELD.devMajor, member.devMajor);
    writeNumber(block, FIELD.devMinor, member.devMinor);
  }
  writeChecksum(block);
  return block;
}

/** Source: POSIX pax(1), "ustar Interchange Format". */
const UNAME: Field = [265, 32];
const GNAME: Field = [297, 32];

/** The last byte stays NUL. */
function writeName(block: Buffer, [start, length]: Field, name: string): void {
  Buffer.from(name).copy(block, start, 0, length - 1);
}

function writeNumber(block: Buffer, [start, length]: Field, value: number): void {
  const digits = length - 1;
  if (value >= 0 && value < 8 ** digits) block.write(value.toString(8).padStart(digits, '0'), start, 'latin1');
  else writeBase256(block, start, length, BigInt(value));
}

/** Two's complement in all bytes of the field but the first, which says so: 0x80, or 0xff for what is negative. */
function writeBase256(block: Buffer, start: number, length: number, value: bigint): void {
  let rest = value;
  for (let at = start + length - 1; at > start; at -= 1) {
    block[at] = Number(BigInt.asUintN(8, rest));
    rest >>= 8n;
  }
  block[start] = value < 0n ? 0xff : 0x80;
}

/** Six digits, NUL, blank. */
export function writeChecksum(block: Buffer): void {
  const [start, length] = FIELD.checksum;
  const sum = checksumOf(block);
  block.fill(' ', start, start + length, 'latin1');
  block.write(`${sum.toString(8).padStart(6, '0')}\0`, start, 'latin1');
}
