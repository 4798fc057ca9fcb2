import { isUtf8 } from 'node:buffer';
import { RootlayerError } from '../errors.ts';
import { escapeName } from '../names.ts';
import type { RawHeader, TarMember, TarType, Xattr } from './entry.ts';
import { MAX_ID } from './header.ts';
import { BLOCK, checksumOf, FIELD, type Field, paddingLength, USTAR_MAGIC, zeros } from './layout.ts';
import { numberRecord, record, xattrRecord } from './pax-record.ts';

/** The two zero blocks that end an archive. Shared: never write to it. Source: POSIX pax(1), "ustar Interchange Format". */
export const endOfArchive: Buffer = zeros(2 * BLOCK);

/** Gives the zero bytes that fill the last block of a body of `size` bytes: 0 to 511. A view of a shared buffer: never write to it. */
export function padding(size: number): Buffer {
  return zeros(paddingLength(size));
}

/**
 * Gives the header of a member: one ustar block, and in front of it a PAX header only for what ustar cannot hold. The body, `padding(size)` and
 * at last `endOfArchive` are the caller's to write. Same member, same bytes:
 *
 * - a name goes into the name field as it is (any bytes but NUL), or split at its last possible slash into prefix and name, or into PAX `path`;
 * - a link target of more than 100 bytes goes into PAX `linkpath`;
 * - sizes and times of 8^11 and more, owners of 8^7 and more and negative times go into PAX, with 0 in the field;
 * - attributes go into `SCHILY.xattr.NAME` with their raw values. A name with a "=" cannot be a PAX key: it goes, percent-encoded, into
 *   `LIBARCHIVE.xattr.NAME` with a base64 value, which libarchive and rootlayer read and others leave alone;
 * - `hdrcharset=BINARY` stands before a PAX name that is not valid UTF-8: all readers take the bytes as they are, but without the record bsdtar
 *   complains, and with it GNU tar 1.34 says that it does not know it.
 *
 * User and group names are empty. GNU tar, bsdtar, Go's archive/tar and Python's tarfile read back every byte.
 *
 * Throws `E_ARCHIVE_NAME` for an empty name, a NUL byte in a name or a final slash on what is no directory, `E_ARCHIVE_HEADER` for a number that no field can hold, `E_LIMIT_XATTR` for a PAX
 * header above 1 MiB, which readers refuse. Source: POSIX pax(1), star(5), libarchive tar(5).
 */
export function encodeEntry(member: TarMember): Buffer {
  checkMember(member);
  const split = splitName(member.name);
  const records = paxRecords(member, split === undefined);
  if (records.length === 0) {
    const block = Buffer.allocUnsafe(BLOCK);
    writeBlock(block, member, split);
    return block;
  }
  const body = Buffer.concat(records);
  if (body.length > MAX_PAX_BYTES) {
    refuse('E_LIMIT_XATTR', member, `its PAX header has ${body.length} bytes, want at most ${MAX_PAX_BYTES}`);
  }
  const bodyEnd = BLOCK + body.length + paddingLength(body.length);
  const out = Buffer.alloc(bodyEnd + BLOCK);
  writeBlock(out.subarray(0, BLOCK), { ...PAX_MEMBER, size: body.length }, WHOLE_NAME, PAX_TYPEFLAG);
  body.copy(out, BLOCK);
  writeBlock(out.subarray(bodyEnd), member, split);
  return out;
}

/** Gives what a reader finds in the header that {@link encodeEntry} makes: the input of a tarsum taken while writing. */
export function rawHeaderOf(member: TarMember): RawHeader {
  return {
    name: member.name,
    mode: member.mode,
    uid: member.uid,
    gid: member.gid,
    size: bodySize(member),
    mtimeSec: member.mtimeSec,
    typeflag: String.fromCharCode(TYPEFLAGS[member.type]),
    linkName: member.linkName,
    devMajor: isDevice(member) ? member.devMajor : 0,
    devMinor: isDevice(member) ? member.devMinor : 0,
    xattrs: member.xattrs.filter(({ name }) => !name.includes('=')),
  };
}

/** Readers of Go, and rootlayer's own, refuse more. */
const MAX_PAX_BYTES = 1024 * 1024;

const SLASH = 0x2f;
const PAX_TYPEFLAG = 0x78;

const TYPEFLAGS: Readonly<Record<TarType, number>> = {
  file: 0x30,
  hardlink: 0x31,
  symlink: 0x32,
  char: 0x33,
  block: 0x34,
  directory: 0x35,
  fifo: 0x36,
};

const EMPTY = Buffer.alloc(0);

/** Only readers that do not know PAX ever show this name. */
const PAX_MEMBER: TarMember = {
  name: Buffer.from('././@PaxHeader'),
  type: 'file',
  mode: 0o644,
  uid: 0,
  gid: 0,
  size: 0,
  mtimeSec: 0,
  linkName: EMPTY,
  devMajor: 0,
  devMinor: 0,
  xattrs: [],
};

/** The highest numbers that the octal fields hold with a NUL behind them. */
const MAX_OCTAL_7 = 8 ** 7 - 1;
const MAX_OCTAL_11 = 8 ** 11 - 1;

function checkMember(member: TarMember): void {
  if (member.name.length === 0) refuse('E_ARCHIVE_NAME', member, 'its name is empty');
  if (member.name.includes(0)) refuse('E_ARCHIVE_NAME', member, 'its name holds a NUL byte');
  if (member.type !== 'directory' && member.name.at(-1) === SLASH) {
    refuse('E_ARCHIVE_NAME', member, 'it is no directory, but its name ends in a slash');
  }
  if (member.linkName.includes(0)) refuse('E_ARCHIVE_NAME', member, 'its link target holds a NUL byte');
  checkRange(member, 'mode', member.mode, 0, 0o7777);
  checkRange(member, 'uid', member.uid, 0, MAX_ID);
  checkRange(member, 'gid', member.gid, 0, MAX_ID);
  checkRange(member, 'size', member.size, 0, Number.MAX_SAFE_INTEGER);
  checkRange(member, 'mtime', member.mtimeSec, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
  if (isDevice(member)) {
    checkRange(member, 'devmajor', member.devMajor, 0, MAX_OCTAL_7);
    checkRange(member, 'devminor', member.devMinor, 0, MAX_OCTAL_7);
  }
}

function checkRange(member: TarMember, what: string, value: number, min: number, max: number): void {
  if (Number.isInteger(value) && value >= min && value <= max) return;
  refuse('E_ARCHIVE_HEADER', member, `its ${what} is ${value}, want a whole number from ${min} to ${max}`);
}

function refuse(code: 'E_ARCHIVE_HEADER' | 'E_ARCHIVE_NAME' | 'E_LIMIT_XATTR', member: TarMember, why: string): never {
  throw new RootlayerError(code, `Cannot write member "${escapeName(member.name)}": ${why}`);
}

function isDevice(member: TarMember): boolean {
  return member.type === 'char' || member.type === 'block';
}

function bodySize(member: TarMember): number {
  return member.type === 'file' ? member.size : 0;
}

/** Where a name is cut: length of the prefix (0 for none), and where the rest begins. */
type NameSplit = { readonly prefixLength: number; readonly nameStart: number };

const WHOLE_NAME: NameSplit = { prefixLength: 0, nameStart: 0 };

/** Gives undefined when the name fits in no way. The rest must not be empty, so a directory is never split at its final slash. */
function splitName(name: Buffer): NameSplit | undefined {
  if (name.length <= FIELD.name[1]) return WHOLE_NAME;
  const slash = name.lastIndexOf(SLASH, Math.min(FIELD.prefix[1], name.length - 2));
  if (slash < 1 || name.length - slash - 1 > FIELD.name[1]) return undefined;
  return { prefixLength: slash, nameStart: slash + 1 };
}

function paxRecords(member: TarMember, isLongName: boolean): Buffer[] {
  const records: Buffer[] = [];
  const isLongLink = member.linkName.length > FIELD.linkName[1];
  if ((isLongName && !isUtf8(member.name)) || (isLongLink && !isUtf8(member.linkName))) {
    records.push(record('hdrcharset', Buffer.from('BINARY')));
  }
  if (isLongName) records.push(record('path', member.name));
  if (isLongLink) records.push(record('linkpath', member.linkName));
  if (bodySize(member) > MAX_OCTAL_11) records.push(numberRecord('size', member.size));
  if (member.uid > MAX_OCTAL_7) records.push(numberRecord('uid', member.uid));
  if (member.gid > MAX_OCTAL_7) records.push(numberRecord('gid', member.gid));
  if (member.mtimeSec < 0 || member.mtimeSec > MAX_OCTAL_11) records.push(numberRecord('mtime', member.mtimeSec));
  for (const xattr of member.xattrs) records.push(xattrOf(member, xattr));
  return records;
}

function xattrOf(member: TarMember, xattr: Xattr): Buffer {
  const { name } = xattr;
  if (name.length === 0 || name.includes(0)) refuse('E_ARCHIVE_NAME', member, `it has the attribute name "${escapeName(name)}"`);
  return xattrRecord(xattr);
}

/** A block without name, numbers and checksum. */
const TEMPLATE = Buffer.alloc(BLOCK);
TEMPLATE.fill('0000000\0', FIELD.mode[0], FIELD.size[0], 'latin1');
TEMPLATE.fill('00000000000\0', FIELD.size[0], FIELD.checksum[0], 'latin1');
TEMPLATE.write(USTAR_MAGIC, FIELD.magic[0], 'latin1');
TEMPLATE.fill('0000000\0', FIELD.devMajor[0], FIELD.prefix[0], 'latin1');

/** Every byte of the block is set, so it may come from `allocUnsafe`. Without a split the name is in PAX, and a cut copy goes here. */
function writeBlock(block: Buffer, member: TarMember, split: NameSplit | undefined, typeflag: number = TYPEFLAGS[member.type]): void {
  TEMPLATE.copy(block);
  const { prefixLength, nameStart } = split ?? WHOLE_NAME;
  member.name.copy(block, FIELD.name[0], nameStart, split === undefined ? cutName(member) : member.name.length);
  member.name.copy(block, FIELD.prefix[0], 0, prefixLength);
  writeOctal(block, FIELD.mode, member.mode);
  writeOctal(block, FIELD.uid, member.uid > MAX_OCTAL_7 ? 0 : member.uid);
  writeOctal(block, FIELD.gid, member.gid > MAX_OCTAL_7 ? 0 : member.gid);
  const size = bodySize(member);
  writeOctal(block, FIELD.size, size > MAX_OCTAL_11 ? 0 : size);
  writeOctal(block, FIELD.mtime, member.mtimeSec < 0 || member.mtimeSec > MAX_OCTAL_11 ? 0 : member.mtimeSec);
  block[FIELD.typeflag[0]] = typeflag;
  member.linkName.copy(block, FIELD.linkName[0], 0, FIELD.linkName[1]);
  if (isDevice(member)) {
    writeOctal(block, FIELD.devMajor, member.devMajor);
    writeOctal(block, FIELD.devMinor, member.devMinor);
  }
  writeChecksum(block);
}

/** A name that is no directory's must not end in a slash by the cut: old readers would make a directory of it. */
function cutName(member: TarMember): number {
  let end = FIELD.name[1];
  while (end > 1 && member.name[end - 1] === SLASH) end -= 1;
  return end;
}

/** Digits from the right; the NUL behind them comes from the template. Bit operations would cut numbers above 2^31. */
function writeOctal(block: Buffer, [start, length]: Field, value: number): void {
  let rest = value;
  for (let at = start + length - 2; rest > 0; at -= 1) {
    const next = Math.floor(rest / 8);
    block[at] = 0x30 + rest - next * 8;
    rest = next;
  }
}

/** Six digits, NUL, blank. Source: POSIX pax(1), field chksum. */
function writeChecksum(block: Buffer): void {
  const [start, length] = FIELD.checksum;
  let sum = checksumOf(block);
  block.fill('000000\0 ', start, start + length, 'latin1');
  for (let at = start + 5; sum > 0; at -= 1) {
    block[at] = 0x30 + (sum & 7);
    sum >>= 3;
  }
}
