import type { ErrorCode } from '../errors.ts';
import type { RawHeader, TarEntry, TarType, Xattr } from './entry.ts';
import { archiveError, clamp, type HeaderBlock } from './header.ts';
import { mergeXattrs, type PaxFields, type PaxTime, sortedXattrs } from './pax.ts';

/** What extended headers said about the member that follows them. */
export type Pending = { pax?: PaxFields; longName?: Buffer; longLink?: Buffer };

/** What ext4 with 256-byte inodes can store; later and earlier times become these. Source: Linux fs/ext4/ext4.h, EXT4_EXTRA_TIMESTAMP_MAX. */
export const MTIME_RANGE = { min: -(2 ** 31), max: 2 ** 34 - 2 ** 31 - 1 } as const;

/**
 * Folds extended headers into the header of their member. PAX records and GNU names win over the header's fields, and a PAX mtime over the
 * one of a global header. `at` is the offset of the header, for messages.
 *
 * Throws `E_ARCHIVE_PAX` when two extended headers disagree, `E_ARCHIVE_ID` for an owner above `maxId`, `E_ARCHIVE_TYPE` for a type that layers
 * cannot hold, `E_ARCHIVE_HEADER` for a directory with a body.
 */
export function foldMember(header: HeaderBlock, pending: Pending, globalMtime: PaxTime | undefined, maxId: number, at: number): TarEntry {
  const { pax } = pending;
  const raw = rawHeader(header, pending, at);
  const refuse: Refuse = (code, why) => {
    throw archiveError(code, 'member', raw.name, at, why);
  };
  if (raw.uid > maxId) refuse('E_ARCHIVE_ID', `its uid is ${raw.uid}, want at most ${maxId}`);
  if (raw.gid > maxId) refuse('E_ARCHIVE_ID', `its gid is ${raw.gid}, want at most ${maxId}`);
  const type = typeOf(raw, header.typeflag, refuse);
  const mtime = pax?.mtime ?? globalMtime;
  const mtimeSec = clamp(mtime?.sec ?? header.mtimeSec, MTIME_RANGE.min, MTIME_RANGE.max);
  return {
    name: raw.name,
    type,
    mode: raw.mode & 0o7777,
    uid: raw.uid,
    gid: raw.gid,
    size: type === 'file' ? raw.size : 0,
    mtimeSec,
    mtimeNsec: mtime !== undefined && mtimeSec === mtime.sec ? mtime.nsec : 0,
    linkName: raw.linkName,
    devMajor: pax?.devMajor ?? raw.devMajor,
    devMinor: pax?.devMinor ?? raw.devMinor,
    xattrs: pax === undefined ? NO_XATTRS : mergeXattrs(pax, raw.xattrs, raw.name, at),
    raw,
  };
}

type Refuse = (code: ErrorCode, why: string) => never;

/** Gives the name of the member that a header is about, as far as it is known. */
export function pendingName(header: HeaderBlock, pending: Pending): Buffer {
  return pending.pax?.path ?? pending.longName ?? header.name;
}

function rawHeader(header: HeaderBlock, pending: Pending, at: number): RawHeader {
  const { pax, longName, longLink } = pending;
  const name = pendingName(header, pending);
  mustAgree('path', name, longName, name, at);
  const linkName = pax?.linkPath ?? longLink ?? header.linkName;
  mustAgree('linkpath', linkName, longLink, name, at);
  return {
    name,
    mode: header.mode,
    uid: pax?.uid ?? header.uid,
    gid: pax?.gid ?? header.gid,
    size: pax?.size ?? header.size,
    mtimeSec: clamp(pax?.mtime?.sec ?? header.mtimeSec, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
    typeflag: header.typeflag === 0 ? (name.at(-1) === SLASH ? '5' : '0') : String.fromCharCode(header.typeflag),
    linkName,
    devMajor: header.devMajor,
    devMinor: header.devMinor,
    xattrs: pax === undefined ? NO_XATTRS : sortedXattrs(pax.schilyXattrs),
  };
}

/** Go lets the GNU name win, GNU tar the PAX one: two that differ are refused. */
function mustAgree(key: string, value: Buffer, fromGnu: Buffer | undefined, name: Buffer, at: number): void {
  if (fromGnu === undefined || fromGnu.equals(value)) return;
  throw archiveError('E_ARCHIVE_PAX', 'member', name, at, `its PAX ${key} and its GNU long name differ`);
}

/** A file whose name ends in a slash is a directory of old; with a body some readers skip it and others read members out of it. */
function typeOf(raw: RawHeader, typeflag: number, refuse: Refuse): TarType {
  const type = TYPES[typeflag];
  if (type === undefined) {
    const shown = typeflag > 0x20 && typeflag < 0x7f ? `"${String.fromCharCode(typeflag)}"` : `0x${typeflag.toString(16)}`;
    return refuse('E_ARCHIVE_TYPE', `its type is ${shown}${SPECIAL_TYPES[typeflag] ?? ''}, want one of 0 to 7`);
  }
  if (type !== 'file' || raw.name.at(-1) !== SLASH) return type;
  return raw.size === 0 ? 'directory' : refuse('E_ARCHIVE_HEADER', `it is a directory by its name, but has ${raw.size} bytes`);
}

const SLASH = 0x2f;

const NO_XATTRS: readonly Xattr[] = [];

/** By the byte of the type: NUL is a file of old, 7 a file in one piece. */
const TYPES: Readonly<Record<number, TarType>> = {
  0: 'file',
  48: 'file',
  49: 'hardlink',
  50: 'symlink',
  51: 'char',
  52: 'block',
  53: 'directory',
  54: 'fifo',
  55: 'file',
};

const SPECIAL_TYPES: Readonly<Record<number, string>> = {
  68: ' (GNU directory listing)',
  77: ' (continued file)',
  78: ' (old GNU names)',
  83: ' (sparse file)',
  86: ' (volume label)',
  88: ' (Solaris extended header)',
};
