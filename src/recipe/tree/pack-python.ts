import { isUtf8 } from 'node:buffer';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import { BLOCK, FIELD, type Field, paddingLength, USTAR_MAGIC } from '../../core/tar/layout.ts';
import { record } from '../../core/tar/pax-record.ts';
import type { PackedMember } from './pack.ts';
import { writeChecksum } from './pack-gnu.ts';

/**
 * Gives the header of a member as Python's tarfile writes it in its PAX format, byte for byte: a PAX header for whatever is not ASCII, too long or too
 * large. Names and targets must hold no NUL byte (`E_ARCHIVE_NAME`). Source: CPython, Lib/tarfile.py, TarInfo.create_pax_header.
 */
export function encodePythonEntry(member: PackedMember): Buffer {
  if (member.name.includes(0) || member.linkName.includes(0)) {
    throw new RootlayerError('E_ARCHIVE_NAME', `Cannot write member "${escapeName(member.name)}": its name or target holds a NUL byte`);
  }
  const records = recordsOf(member);
  const block = header(member, TYPEFLAGS[member.type]);
  return records.length === 0 ? block : Buffer.concat([paxHeader(records), block]);
}

const TYPEFLAGS = { file: '0', hardlink: '1', symlink: '2', char: '3', block: '4', directory: '5', fifo: '6' } as const;

const UNAME: Field = [265, 32];
const GNAME: Field = [297, 32];

type Record = { readonly key: string; readonly value: Buffer };

function recordsOf(member: PackedMember): Record[] {
  const texts: [string, Buffer, number][] = [
    ['path', member.name, FIELD.name[1]],
    ['linkpath', member.linkName, FIELD.linkName[1]],
    ['uname', Buffer.from(member.uname), UNAME[1]],
    ['gname', Buffer.from(member.gname), GNAME[1]],
  ];
  const numbers: [string, number, Field][] = [
    ['uid', member.uid, FIELD.uid],
    ['gid', member.gid, FIELD.gid],
    ['size', member.size, FIELD.size],
    ['mtime', member.mtimeSec, FIELD.mtime],
  ];
  return [
    ...texts.filter(([, text, length]) => !isAscii(text) || text.length > length).map(([key, value]): Record => ({ key, value })),
    ...numbers
      .filter(([, value, field]) => !fits(value, field))
      .map(([key, value]): Record => ({ key, value: Buffer.from(String(value)) })),
  ];
}

function isAscii(text: Buffer): boolean {
  return text.every((byte) => byte < 0x80);
}

function fits(value: number, [, length]: Field): boolean {
  return value >= 0 && value < 8 ** (length - 1);
}

/** Bytes that are no UTF-8 are told of by a record of their own, in front. */
function paxHeader(records: readonly Record[]): Buffer {
  const isBinary = records.some(({ value }) => !isUtf8(value));
  const body = Buffer.concat([
    ...(isBinary ? [record('hdrcharset', Buffer.from('BINARY'))] : []),
    ...records.map(({ key, value }) => record(key, value)),
  ]);
  const block = header({ ...PAX_MEMBER, size: body.length }, 'x');
  return Buffer.concat([block, body, Buffer.alloc(paddingLength(body.length))]);
}

const EMPTY = Buffer.alloc(0);

const PAX_MEMBER: PackedMember = {
  name: Buffer.from('././@PaxHeader'),
  type: 'file',
  mode: 0,
  uid: 0,
  gid: 0,
  uname: '',
  gname: '',
  numericOwner: false,
  size: 0,
  mtimeSec: 0,
  linkName: EMPTY,
  devMajor: 0,
  devMinor: 0,
  xattrs: [],
};

function header(member: PackedMember, typeflag: string): Buffer {
  const block = Buffer.alloc(BLOCK);
  asciiText(member.name).copy(block, FIELD.name[0], 0, FIELD.name[1]);
  writeNumber(block, FIELD.mode, member.mode);
  writeNumber(block, FIELD.uid, member.uid);
  writeNumber(block, FIELD.gid, member.gid);
  writeNumber(block, FIELD.size, member.size);
  writeNumber(block, FIELD.mtime, member.mtimeSec);
  block.write(typeflag, FIELD.typeflag[0], 'latin1');
  asciiText(member.linkName).copy(block, FIELD.linkName[0], 0, FIELD.linkName[1]);
  block.write(USTAR_MAGIC, FIELD.magic[0], 'latin1');
  asciiText(Buffer.from(member.uname)).copy(block, UNAME[0], 0, UNAME[1]);
  asciiText(Buffer.from(member.gname)).copy(block, GNAME[0], 0, GNAME[1]);
  if (member.type === 'char' || member.type === 'block') {
    writeNumber(block, FIELD.devMajor, member.devMajor);
    writeNumber(block, FIELD.devMinor, member.devMinor);
  }
  writeChecksum(block);
  return block;
}

/** What does not fit is in the PAX header, with 0 here. */
function writeNumber(block: Buffer, field: Field, value: number): void {
  const [start, length] = field;
  const shown = fits(value, field) ? value : 0;
  block.write(shown.toString(8).padStart(length - 1, '0'), start, 'latin1');
}

/** Each character that is not ASCII, and each byte that is no UTF-8, becomes a question mark. */
function asciiText(text: Buffer): Buffer {
  return isAscii(text) ? text : Buffer.from(pythonCharacters(text), 'latin1');
}

function pythonCharacters(text: Buffer): string {
  let shown = '';
  for (let at = 0; at < text.length; ) {
    const length = characterLength(text, at);
    const byte = text[at] ?? 0;
    shown += length === 1 && byte < 0x80 ? String.fromCharCode(byte) : '?';
    at += length;
  }
  return shown;
}

/** Gives the length of the UTF-8 character that begins there, 1 where none does. */
function characterLength(text: Buffer, at: number): number {
  for (let length = 4; length > 1; length -= 1) {
    const piece = text.subarray(at, at + length);
    if (piece.length === length && isUtf8(piece) && [...piece.toString('utf8')].length === 1) return length;
  }
  return 1;
}
