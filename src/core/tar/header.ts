import { type ErrorCode, RootlayerError } from '../errors.ts';
import { escapeName } from '../names.ts';
import { BLOCK, checksumOf, FIELD, type Field, GNU_MAGIC } from './layout.ts';

/** Highest user or group id: 2^32 - 1 is `(uid_t)-1`, which means "no id" to the kernel. Source: chown(2). */
export const MAX_ID = 2 ** 32 - 2;

/** The fields of one header block, before extended headers are folded in. */
export type HeaderBlock = {
  readonly name: Buffer;
  /** The whole field, file-type bits included. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly mtimeSec: number;
  /** The byte of the type; 0 in archives older than POSIX. */
  readonly typeflag: number;
  readonly linkName: Buffer;
  readonly devMajor: number;
  readonly devMinor: number;
};

/** Gives the error for a block or member of an archive, named by its escaped name and the offset of its header. */
export function archiveError(code: ErrorCode, what: string, name: Buffer, at: number, why: string, hint?: string): RootlayerError {
  return new RootlayerError(code, `Cannot read ${what} "${escapeName(name)}" at byte ${at}: ${why}`, { hint });
}

/**
 * Reads a header block that is not all zeros: old v7, ustar, star and GNU. `at` is its offset in the archive, for messages.
 *
 * The checksum may be a sum of unsigned bytes (POSIX) or of signed ones (old Sun and GNU writers): every common reader takes
 * both, so refusing the second would only make rootlayer see fewer members than others do.
 *
 * Throws `E_ARCHIVE_HEADER` for a wrong checksum, a malformed or out-of-range number or an unknown magic, `E_ARCHIVE_NAME` for bytes
 * behind the NUL of a name, `E_ARCHIVE_ID` for an owner that no system has.
 * Source: POSIX pax(1), GNU tar manual "Basic Tar Format", libarchive tar(5).
 */
export function decodeHeader(block: Buffer, at: number): HeaderBlock {
  const refuse: Refuse = (code, why) => {
    throw archiveError(code, 'tar header', untilNul(block, FIELD.name), at, why);
  };
  checkChecksum(block, refuse);
  const flavour = flavourOf(block, refuse);
  const name = text(block, FIELD.name, 'name', refuse);
  return {
    name: flavour === 'ustar' ? withPrefix(block, name, refuse) : name,
    mode: number(block, FIELD.mode, 'mode', 0, 2 ** 32 - 1, refuse),
    uid: id(block, FIELD.uid, 'uid', refuse),
    gid: id(block, FIELD.gid, 'gid', refuse),
    size: size(block, refuse),
    mtimeSec: clamp(numeric(block, FIELD.mtime, 'mtime', refuse), Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
    typeflag: block.readUInt8(FIELD.typeflag[0]),
    linkName: text(block, FIELD.linkName, 'link name', refuse),
    devMajor: flavour === 'v7' ? 0 : number(block, FIELD.devMajor, 'devmajor', 0, 2 ** 32 - 1, refuse),
    devMinor: flavour === 'v7' ? 0 : number(block, FIELD.devMinor, 'devminor', 0, 2 ** 32 - 1, refuse),
  };
}

/** Gives the nearest number within the bounds. */
export function clamp(value: number, min: number, max: number): number {
  return Math.min(Math.max(value, min), max);
}

type Refuse = (code: ErrorCode, why: string) => never;

/**
 * Blank and NUL bytes around the octal digits vary between writers and do not change the number; anything else in the field does.
 */
function checkChecksum(block: Buffer, refuse: Refuse): void {
  const unsigned = checksumOf(block);
  const stored = octal(block, FIELD.checksum);
  if (stored === unsigned) return;
  if (Number.isNaN(stored) || isEmpty(block, FIELD.checksum)) {
    refuse('E_ARCHIVE_HEADER', `the checksum field ${show(block, FIELD.checksum)} is no octal number`);
  }
  if (stored !== signedSum(block, unsigned)) refuse('E_ARCHIVE_HEADER', `its checksum is ${unsigned}, want ${stored} as the header says`);
}

function signedSum(block: Buffer, unsigned: number): number {
  const [start, length] = FIELD.checksum;
  let sum = unsigned;
  for (let at = 0; at < BLOCK; at += 1) {
    if ((block[at] ?? 0) >= 0x80 && (at < start || at >= start + length)) sum -= 0x100;
  }
  return sum;
}

/** A block that says "ustar" but neither in POSIX' nor in GNU's way is read differently by different readers: it is refused. */
function flavourOf(block: Buffer, refuse: Refuse): 'v7' | 'ustar' | 'gnu' {
  const [start, length] = FIELD.magic;
  const magic = block.toString('latin1', start, start + length);
  if (!magic.startsWith('ustar')) return 'v7';
  if (magic.startsWith('ustar\0')) return 'ustar';
  if (magic !== GNU_MAGIC) refuse('E_ARCHIVE_HEADER', `its magic is ${show(block, FIELD.magic)}, want POSIX' or GNU's`);
  checkGnuTimes(block, refuse);
  return 'gnu';
}

/**
 * Where POSIX has the prefix, GNU has two times. Writers of Go before 1.8 could put a prefix there all the same, which Go's reader takes
 * as part of the name and others do not: only numbers are accepted.
 */
function checkGnuTimes(block: Buffer, refuse: Refuse): void {
  const [start] = FIELD.prefix;
  numeric(block, [start, 12], 'atime', refuse);
  numeric(block, [start + 12, 12], 'ctime', refuse);
}

/** star's headers end in "tar\0" and keep two times in the last bytes of the prefix. Source: star(5). */
function withPrefix(block: Buffer, name: Buffer, refuse: Refuse): Buffer {
  const [start, length] = FIELD.prefix;
  if (block[start] === 0) return name;
  const isStar = block.toString('latin1', 508, BLOCK) === 'tar\0';
  const prefix = text(block, [start, isStar ? 131 : length], 'prefix', refuse);
  return Buffer.concat([prefix, SLASH, name]);
}

const SLASH = Buffer.from('/');

/** A copy, so that a name does not keep the chunk it came from alive, nor change when the chunk is used again. */
function text(block: Buffer, field: Field, what: string, refuse: Refuse): Buffer {
  const found = untilNul(block, field);
  const [start, length] = field;
  for (let at = start + found.length; at < start + length; at += 1) {
    if (block[at] !== 0) refuse('E_ARCHIVE_NAME', `its ${what} goes on behind a NUL byte`);
  }
  return Buffer.from(found);
}

function untilNul(block: Buffer, [start, length]: Field): Buffer {
  const end = block.indexOf(0, start);
  return block.subarray(start, end < 0 || end > start + length ? start + length : end);
}

function size(block: Buffer, refuse: Refuse): number {
  const value = number(block, FIELD.size, 'size', 0, Number.MAX_SAFE_INTEGER, refuse);
  if (value === 0 && block[FIELD.size[0]] === 0x20 && isEmpty(block, FIELD.size)) {
    refuse('E_ARCHIVE_HEADER', 'its size is blank, want a number');
  }
  return value;
}

function id(block: Buffer, field: Field, what: string, refuse: Refuse): number {
  const value = numeric(block, field, what, refuse);
  if (value < 0 || value > MAX_ID) refuse('E_ARCHIVE_ID', `its ${what} is ${value}, want 0 to ${MAX_ID}`);
  return value;
}

function number(block: Buffer, field: Field, what: string, min: number, max: number, refuse: Refuse): number {
  const value = numeric(block, field, what, refuse);
  if (value < min || value > max) refuse('E_ARCHIVE_HEADER', `its ${what} is ${value}, want ${min} to ${max}`);
  return value;
}

/** Gives an octal or base-256 field; beyond 2^53 it gives plus or minus infinity, never a rounded number. */
function numeric(block: Buffer, field: Field, what: string, refuse: Refuse): number {
  const value = ((block[field[0]] ?? 0) & 0x80) === 0 ? octal(block, field) : base256(block, field);
  return Number.isNaN(value) ? refuse('E_ARCHIVE_HEADER', `its ${what} ${show(block, field)} is no octal or base-256 number`) : value;
}

/**
 * Blanks, digits, then only blanks and NULs; a field without digits counts as 0, since unused fields are left empty. NaN for anything
 * else, such as digits behind a NUL, which some readers take for a number and others for nothing.
 */
function octal(block: Buffer, [start, length]: Field): number {
  const end = start + length;
  let at = start;
  while (at < end && block[at] === 0x20) at += 1;
  let value = 0;
  for (; at < end; at += 1) {
    const digit = (block[at] ?? 0) - 0x30;
    if (digit < 0 || digit > 7) break;
    value = value * 8 + digit;
  }
  while (at < end && (block[at] === 0x20 || block[at] === 0)) at += 1;
  return at === end ? value : Number.NaN;
}

/** Big-endian two's complement, whose first bit only marks the encoding. Source: GNU tar manual, "Basic Tar Format". */
function base256(block: Buffer, [start, length]: Field): number {
  const negative = ((block[start] ?? 0) & 0x40) !== 0;
  const flip = negative ? 0xff : 0;
  let value = ((block[start] ?? 0) ^ flip) & 0x7f;
  for (let at = start + 1; at < start + length; at += 1) {
    value = value * 0x100 + ((block[at] ?? 0) ^ flip);
    if (value > Number.MAX_SAFE_INTEGER) value = Number.POSITIVE_INFINITY;
  }
  return negative ? -value - 1 : value;
}

function isEmpty(block: Buffer, [start, length]: Field): boolean {
  return block.subarray(start, start + length).every((byte) => byte === 0x20 || byte === 0);
}

function show(block: Buffer, [start, length]: Field): string {
  return `"${escapeName(block.subarray(start, start + length))}"`;
}
