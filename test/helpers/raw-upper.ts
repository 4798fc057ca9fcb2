import { readSync } from 'node:fs';
import type { TarMember, TarType } from '../../src/core/tar/entry.ts';
import { xattrRecord } from '../../src/core/tar/pax-record.ts';
import { encodeEntry, endOfArchive, padding } from '../../src/core/tar/writer.ts';
import {
  AT_FDCWD,
  close,
  getXattrHere,
  listXattrsHere,
  O_DIRECTORY,
  O_NOFOLLOW,
  openAt,
  readDirectory,
  readlinkAt,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  type Stat,
  statAt,
} from '../../src/host/libc.ts';
import { pax } from './tar-builder.ts';

const EMPTY = Buffer.alloc(0);
const BODY_CHUNK = 64 * 1024;

const TYPES = new Map<number, Exclude<TarType, 'hardlink'>>([
  [S_IFREG, 'file'],
  [S_IFDIR, 'directory'],
  [S_IFLNK, 'symlink'],
  [S_IFCHR, 'char'],
  [S_IFBLK, 'block'],
  [S_IFIFO, 'fifo'],
]);

/**
 * Packs an upper directory as the agent of a guest does (vm/protocol.md, "The result"): whiteouts as devices 0:0, marks of opaque directories, times
 * with nanoseconds, names with a leading `./`; the root first, every directory before what is in it, sockets left out. In pieces.
 */
export function* packRawUpper(directory: string): Generator<Buffer> {
  const fd = openAt(AT_FDCWD, directory, O_DIRECTORY | O_NOFOLLOW);
  try {
    yield* packDirectory(fd, Buffer.from('./'), statAt(fd, ''), new Map());
    yield endOfArchive;
  } finally {
    close(fd);
  }
}

function* packDirectory(fd: number, path: Buffer, stat: Stat, links: Map<bigint, Buffer>): Generator<Buffer> {
  yield* packHeader('directory', path, stat, EMPTY, xattrsAt(fd, Buffer.from('.')));
  for (const { name } of readDirectory(fd)) {
    const child = statAt(fd, name);
    const type = TYPES.get(child.mode & S_IFMT);
    const childPath = Buffer.concat([path, name]);
    const first = type === 'directory' || child.nlink === 1 ? undefined : links.get(child.ino);
    if (type === undefined) continue;
    if (type === 'directory') {
      const childFd = openAt(fd, name, O_DIRECTORY | O_NOFOLLOW);
      yield* packDirectory(childFd, Buffer.concat([childPath, Buffer.from('/')]), child, links);
      close(childFd);
    } else if (first !== undefined) {
      yield* packHeader('hardlink', childPath, { ...child, size: 0 }, first, []);
    } else {
      links.set(child.ino, childPath);
      yield* packHeader(type, childPath, child, type === 'symlink' ? readlinkAt(fd, name) : EMPTY, xattrsAt(fd, name));
      if (type === 'file') yield* packBody(fd, name, child.size);
    }
  }
}

/** Everything in PAX records, as a simple packer may do it. */
function* packHeader(type: TarType, path: Buffer, stat: Stat, linkName: Buffer, xattrs: readonly [Buffer, Buffer][]): Generator<Buffer> {
  const records: [string, Buffer | string][] = [
    ['path', path],
    ['uid', String(stat.uid)],
    ['gid', String(stat.gid)],
    ['mtime', decimalTime(stat)],
  ];
  if (linkName.length > 0) records.push(['linkpath', linkName]);
  if (type === 'file') records.push(['size', String(stat.size)]);
  const plain = xattrs
    .filter(([name]) => !name.includes('='))
    .map(([name, value]): [string, Buffer] => [`SCHILY.xattr.${name.toString('latin1')}`, value]);
  const odd = xattrs.filter(([name]) => name.includes('=')).map(([name, value]) => splitRecord(xattrRecord({ name, value })));
  yield pax([...records, ...plain, ...odd]);
  const member: TarMember = {
    name: Buffer.from('short'),
    type,
    mode: stat.mode & 0o7777,
    uid: 0,
    gid: 0,
    size: type === 'file' ? stat.size : 0,
    mtimeSec: 0,
    linkName: EMPTY,
    devMajor: stat.rdevMajor,
    devMinor: stat.rdevMinor,
    xattrs: [],
  };
  yield encodeEntry(type === 'file' && stat.size >= 8 ** 11 ? { ...member, size: 0 } : member);
}

function splitRecord(record: Buffer): [string, Buffer] {
  const start = record.indexOf(' ') + 1;
  const equals = record.indexOf('=', start);
  return [record.toString('latin1', start, equals), record.subarray(equals + 1, -1)];
}

function* packBody(dirFd: number, name: Buffer, size: number): Generator<Buffer> {
  const fd = openAt(dirFd, name, O_NOFOLLOW);
  try {
    for (let at = 0; at < size; ) {
      const chunk = Buffer.alloc(Math.min(BODY_CHUNK, size - at));
      at += readSync(fd, chunk, 0, chunk.length, at);
      yield chunk;
    }
  } finally {
    close(fd);
  }
  yield padding(size);
}

/** PAX times count down from zero when they are negative: one and a half seconds before 1970 is `-1.5`. */
function decimalTime({ mtimeSec, mtimeNsec }: Stat): string {
  if (mtimeSec >= 0 || mtimeNsec === 0) return `${mtimeSec}.${String(mtimeNsec).padStart(9, '0')}`;
  return `-${-mtimeSec - 1}.${String(1e9 - mtimeNsec).padStart(9, '0')}`;
}

/** All that a guest's agent keeps: of overlayfs' own marks only the one of an opaque directory. */
function xattrsAt(dirFd: number, name: Buffer): [Buffer, Buffer][] {
  const path = Buffer.concat([Buffer.from(`/proc/self/fd/${dirFd}/`), name]);
  return listXattrsHere(path)
    .filter((attribute) => {
      const text = attribute.toString('latin1');
      return !text.startsWith('trusted.overlay.') || text === 'trusted.overlay.opaque';
    })
    .map((attribute) => [attribute, getXattrHere(path, attribute) ?? EMPTY]);
}
