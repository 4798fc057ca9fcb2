import type { ErrorCode } from '../errors.ts';
import { escapeName } from '../names.ts';
import type { Xattr } from './entry.ts';
import { archiveError, MAX_ID } from './header.ts';
import { LIBARCHIVE_XATTR, SCHILY_XATTR } from './layout.ts';

/** Seconds, rounded down and possibly infinite when absurdly large, and nanoseconds counted forward from them. */
export type PaxTime = { readonly sec: number; readonly nsec: number };

/** What the records of one extended header say, typed. What is absent was not there. */
export type PaxFields = {
  path?: Buffer;
  linkPath?: Buffer;
  size?: number;
  uid?: number;
  gid?: number;
  mtime?: PaxTime;
  devMajor?: number;
  devMinor?: number;
  /** From `SCHILY.xattr.*`, by latin1 name. */
  readonly schilyXattrs: Map<string, Buffer>;
  /** From `LIBARCHIVE.xattr.*`, decoded, by latin1 name. */
  readonly libarchiveXattrs: Map<string, Buffer>;
};

/**
 * Reads the body of an extended header: `x`, or with `isGlobal` a `g`, from which only times are taken. Of records with one key the last
 * one counts, as POSIX says. `name` and `at` (the offset of the header) are for messages.
 *
 * Keys that change nothing in a layer are checked for form and left alone: `comment`, `charset`, `uname`, `gname`, access and change times,
 * and keys of a vendor (upper-case name, then a dot) other than those above.
 *
 * Throws `E_ARCHIVE_PAX` for a malformed record, an unknown key or a value that is not of its key's type, `E_ARCHIVE_NAME` for a NUL byte in a
 * name, `E_ARCHIVE_ID` for an owner that no system has, `E_ARCHIVE_TYPE` for sparse files and other parts of GNU's and star's special formats.
 * Source: POSIX pax(1), "pax Extended Header"; star(5); libarchive tar(5).
 */
export function parsePax(body: Buffer, isGlobal: boolean, name: Buffer, at: number): PaxFields {
  const fields: PaxFields = { schilyXattrs: new Map(), libarchiveXattrs: new Map() };
  const what = isGlobal ? 'global PAX header' : 'PAX header';
  // One string for all records: cutting strings is far cheaper than cutting buffers, and latin1 keeps every byte.
  const text = body.toString('latin1');
  for (let start = 0; start < text.length; ) {
    const refuse: Refuse = (code, why) => {
      const member = fields.path === undefined ? '' : ` of "${escapeName(fields.path)}"`;
      throw archiveError(code, what, name, at, `record at ${start}${member} ${why}`);
    };
    const record = readRecord(text, start, refuse);
    const store = isGlobal ? storeGlobal : storeLocal;
    store(fields, record, refuse);
    start = record.end;
  }
  return fields;
}

type Refuse = (code: ErrorCode, why: string) => never;

/** Key and value as latin1, and the offset behind the record. */
type PaxRecord = { readonly key: string; readonly value: string; readonly end: number };

/** `LENGTH KEY=VALUE\n`, LENGTH in decimal and counting the whole record, itself included. */
function readRecord(text: string, start: number, refuse: Refuse): PaxRecord {
  const space = text.indexOf(' ', start);
  const digits = space < 0 || space - start > MAX_LENGTH_DIGITS ? '' : text.slice(start, space);
  if (!/^[1-9]\d*$/.test(digits)) {
    refuse('E_ARCHIVE_PAX', `starts with "${show(text.slice(start, start + 12))}", want its length and a blank`);
  }
  const end = start + Number(digits);
  if (end > text.length) refuse('E_ARCHIVE_PAX', `has ${digits} bytes, but only ${text.length - start} are left`);
  if (end <= space + 1 || text[end - 1] !== '\n') refuse('E_ARCHIVE_PAX', `with length ${digits} does not end in a newline`);
  const equals = text.indexOf('=', space);
  if (equals < 0 || equals >= end) refuse('E_ARCHIVE_PAX', 'has no "=" between key and value');
  if (equals === space + 1) refuse('E_ARCHIVE_PAX', 'has an empty key');
  const key = text.slice(space + 1, equals);
  if (key.includes('\0')) refuse('E_ARCHIVE_NAME', `has a NUL byte in its key "${show(key)}"`);
  return { key, value: text.slice(equals + 1, end - 1), end };
}

/** Enough for any header within the cap on extended headers, and always a safe integer. */
const MAX_LENGTH_DIGITS = 10;

/** A path, size, owner or attribute for all members that follow is a way to say one thing to one reader and something else to another. */
function storeGlobal(fields: PaxFields, record: PaxRecord, refuse: Refuse): void {
  if (record.key === 'mtime') {
    fields.mtime = time(record, refuse);
  } else if (!isIgnorable(record, refuse)) {
    refuse('E_ARCHIVE_PAX', `sets "${show(record.key)}" for all members, want it in the header of one member`);
  }
}

function storeLocal(fields: PaxFields, record: PaxRecord, refuse: Refuse): void {
  switch (record.key) {
    case 'path':
      fields.path = path(record, refuse);
      return;
    case 'linkpath':
      fields.linkPath = path(record, refuse);
      return;
    case 'size':
      fields.size = integer(record, refuse);
      return;
    case 'uid':
      fields.uid = id(record, refuse);
      return;
    case 'gid':
      fields.gid = id(record, refuse);
      return;
    case 'mtime':
      fields.mtime = time(record, refuse);
      return;
    case 'SCHILY.devmajor':
      fields.devMajor = device(record, refuse);
      return;
    case 'SCHILY.devminor':
      fields.devMinor = device(record, refuse);
      return;
    default:
      if (!storeXattr(fields, record, refuse) && !isIgnorable(record, refuse)) {
        refuse('E_ARCHIVE_PAX', `has the unknown key "${show(record.key)}"`);
      }
  }
}

function storeXattr(fields: PaxFields, record: PaxRecord, refuse: Refuse): boolean {
  if (record.key.startsWith(SCHILY_XATTR)) {
    const name = record.key.slice(SCHILY_XATTR.length);
    if (name === '') refuse('E_ARCHIVE_PAX', 'has an attribute without a name');
    fields.schilyXattrs.set(name, Buffer.from(record.value, 'latin1'));
    return true;
  }
  if (record.key.startsWith(LIBARCHIVE_XATTR)) {
    const name = percentDecoded(record.key.slice(LIBARCHIVE_XATTR.length), refuse);
    if (name === '') refuse('E_ARCHIVE_PAX', 'has an attribute without a name');
    if (name.includes('\0')) refuse('E_ARCHIVE_NAME', `has a NUL byte in the name of attribute "${show(name)}"`);
    fields.libarchiveXattrs.set(name, base64Decoded(record, refuse));
    return true;
  }
  return false;
}

/**
 * Gives the attributes of both kinds as one list sorted by name; `schily` are those of the first kind, already a list. bsdtar writes each
 * attribute in both ways: two that differ are refused with `E_ARCHIVE_PAX`, because which of them counts depends on the reader.
 */
export function mergeXattrs(fields: PaxFields, schily: readonly Xattr[], name: Buffer, at: number): readonly Xattr[] {
  if (fields.libarchiveXattrs.size === 0) return schily;
  const all = new Map(fields.schilyXattrs);
  for (const [key, value] of fields.libarchiveXattrs) {
    const other = all.get(key);
    if (other !== undefined && !other.equals(value)) {
      throw archiveError('E_ARCHIVE_PAX', 'member', name, at, `attribute "${show(key)}" has two different values`);
    }
    all.set(key, value);
  }
  return sortedXattrs(all);
}

/** Gives attributes by latin1 name as a list sorted by the bytes of the names. */
export function sortedXattrs(byName: Map<string, Buffer>): Xattr[] {
  // Strings of latin1 compare as their bytes do.
  const names = [...byName.keys()].sort();
  return names.map((name) => ({ name: Buffer.from(name, 'latin1'), value: byName.get(name) ?? Buffer.alloc(0) }));
}

function path(record: PaxRecord, refuse: Refuse): Buffer {
  if (record.value.includes('\0')) refuse('E_ARCHIVE_NAME', `has a NUL byte in its ${record.key} "${show(record.value)}"`);
  if (record.value.length === 0) refuse('E_ARCHIVE_PAX', `has an empty ${record.key}`);
  return Buffer.from(record.value, 'latin1');
}

function integer(record: PaxRecord, refuse: Refuse): number {
  const value = Number(decimal(record, /^\d+$/, refuse));
  return Number.isSafeInteger(value)
    ? value
    : refuse('E_ARCHIVE_PAX', `has the ${record.key} ${value}, want at most ${Number.MAX_SAFE_INTEGER}`);
}

function device(record: PaxRecord, refuse: Refuse): number {
  const value = Number(decimal(record, /^-?\d+$/, refuse));
  return value >= 0 && value < 2 ** 32 ? value : refuse('E_ARCHIVE_HEADER', `has the ${record.key} ${value}, want 0 to ${2 ** 32 - 1}`);
}

function id(record: PaxRecord, refuse: Refuse): number {
  const value = Number(decimal(record, /^-?\d+$/, refuse));
  return value >= 0 && value <= MAX_ID ? value : refuse('E_ARCHIVE_ID', `has the ${record.key} ${value}, want 0 to ${MAX_ID}`);
}

/** Digits beyond the nanosecond are dropped; a negative time counts down, so `-0.5` is half a second before 1970. */
function time(record: PaxRecord, refuse: Refuse): PaxTime {
  const text = decimal(record, /^-?\d+(\.\d+)?$/, refuse);
  const dot = text.indexOf('.');
  const sec = Number(dot < 0 ? text : text.slice(0, dot));
  const nsec = dot < 0 ? 0 : Number(text.slice(dot + 1, dot + 10).padEnd(9, '0'));
  // Adding 0 makes a plain zero of the negative one that "-0" gives.
  if (!text.startsWith('-') || nsec === 0) return { sec: sec + 0, nsec };
  return { sec: sec - 1, nsec: 1e9 - nsec };
}

function decimal(record: PaxRecord, grammar: RegExp, refuse: Refuse): string {
  if (grammar.test(record.value)) return record.value;
  return refuse('E_ARCHIVE_PAX', `has the ${show(record.key)} "${show(record.value, 40)}", want a decimal number`);
}

const KNOWN_IGNORED = new Set(['atime', 'charset', 'comment', 'ctime', 'gname', 'hdrcharset', 'LIBARCHIVE.creationtime', 'uname']);
const CHARSETS = new Set(['BINARY', 'ISO-IR 10646 2000 UTF-8']);

/** POSIX leaves upper-case names in front of a dot to vendors. */
const VENDOR_KEY = /^[A-Z][A-Z0-9]*\./;
const HANDLED_VENDOR_KEY = /^(?:SCHILY|LIBARCHIVE)\.xattr\.|^SCHILY\.dev(?:major|minor)$/;

/** Keys that have no effect on a layer; refuses those that would change what the archive means. */
function isIgnorable(record: PaxRecord, refuse: Refuse): boolean {
  const { key, value } = record;
  if (key.startsWith('GNU.') || key === 'SCHILY.realsize') {
    refuse('E_ARCHIVE_TYPE', `has the key "${show(key)}": sparse files, volumes and increments are no part of a layer`);
  }
  if (!KNOWN_IGNORED.has(key)) return VENDOR_KEY.test(key) && !HANDLED_VENDOR_KEY.test(key);
  if (key.endsWith('time')) time(record, refuse);
  if (key.endsWith('name') && value.includes('\0')) refuse('E_ARCHIVE_NAME', `has a NUL byte in its ${key} "${show(value)}"`);
  if (key === 'hdrcharset' && !CHARSETS.has(value)) {
    refuse('E_ARCHIVE_PAX', `has the hdrcharset "${show(value, 40)}", want UTF-8 or BINARY`);
  }
  return true;
}

function percentDecoded(text: string, refuse: Refuse): string {
  if (/%(?![0-9A-Fa-f]{2})/.test(text)) refuse('E_ARCHIVE_PAX', `has a malformed percent sign in attribute "${show(text)}"`);
  return text.replace(/%(..)/g, (_all, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

/** libarchive leaves the padding away. Buffer's decoder would skip what is no base64, so the alphabet is checked first. */
function base64Decoded(record: PaxRecord, refuse: Refuse): Buffer {
  const text = record.value;
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.replace(/=+$/, '').length % 4 === 1) {
    refuse('E_ARCHIVE_PAX', `has a value for "${show(record.key)}" that is no base64`);
  }
  return Buffer.from(text, 'base64');
}

function show(text: string, limit?: number): string {
  return escapeName(Buffer.from(text, 'latin1'), limit);
}
