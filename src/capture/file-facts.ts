import type { TarType } from '../core/tar/entry.ts';
import {
  changeDirectory,
  getXattrFd,
  getXattrHere,
  listXattrsFd,
  listXattrsHere,
  readlinkAt,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  type Stat,
} from '../host/libc.ts';
import { type FileXattrs, readXattrs, type XattrSource } from './xattr-policy.ts';

/** All that a layer says about a file, but its path and contents. */
export type FileFacts = { readonly stat: Stat; readonly target: Buffer; readonly xattrs: FileXattrs };

const NO_TARGET = Buffer.alloc(0);

const TAR_TYPES: Readonly<Record<number, Exclude<TarType, 'hardlink'>>> = {
  [S_IFREG]: 'file',
  [S_IFDIR]: 'directory',
  [S_IFLNK]: 'symlink',
  [S_IFCHR]: 'char',
  [S_IFBLK]: 'block',
  [S_IFIFO]: 'fifo',
};

/** Undefined for a socket, which no tar can hold. */
export function tarTypeOf(stat: Stat): Exclude<TarType, 'hardlink'> | undefined {
  return TAR_TYPES[stat.mode & S_IFMT];
}

/** Tells whether a file is overlayfs' mark for a deleted name: a character device 0:0. Source: overlayfs.rst, "whiteouts and opaque directories". */
export function isWhiteoutNode(stat: Stat): boolean {
  return (stat.mode & S_IFMT) === S_IFCHR && stat.rdevMajor === 0 && stat.rdevMinor === 0;
}

/** Facts of an open file or directory. `path` is for messages. Throws what {@link readXattrs} throws. */
export function factsOfFd(fd: number, stat: Stat, path: () => Buffer, maxXattrBytes: number): FileFacts {
  const source: XattrSource = { list: () => listXattrsFd(fd), get: (name) => getXattrFd(fd, name) };
  return { stat, target: NO_TARGET, xattrs: readXattrs(source, path, maxXattrBytes) };
}

/**
 * Facts of what is never opened: a symlink, fifo or device. NOTE: leaves the process in the directory, because only calls by name read the
 * attributes of a symlink itself.
 */
export function factsOfName(dirFd: number, name: Buffer, stat: Stat, path: () => Buffer, maxXattrBytes: number): FileFacts {
  changeDirectory(dirFd);
  const source: XattrSource = { list: () => listXattrsHere(name), get: (attribute) => getXattrHere(name, attribute) };
  const target = (stat.mode & S_IFMT) === S_IFLNK ? readlinkAt(dirFd, name) : NO_TARGET;
  return { stat, target, xattrs: readXattrs(source, path, maxXattrBytes) };
}
