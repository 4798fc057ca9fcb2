/**
 * Every call into libc and the kernel that Node itself does not offer, and nothing else: the one file to review for
 * foreign calls. Each function throws {@link SyscallError} with the errno's name; descriptors are opened O_CLOEXEC.
 * All calls are synchronous: the daemon uses the slow ones (mount, umount2) through their `Async` forms, workers use any.
 * Sources: man-pages section 2, Linux include/uapi headers.
 */
import koffi, { type KoffiFunc } from 'koffi';
import { escapeName } from '../core/names.ts';
import { errnoName, SyscallError } from './errno.ts';

const libc = koffi.load('libc.so.6');

type Fn = KoffiFunc<(...args: unknown[]) => number>;
/** One prototype of libc; `p` is a pointer to bytes (or null), `s` a NUL-terminated path as a Buffer, `i` int, `u` unsigned 32, `l` long. */
function proto(name: string, args: string): Fn {
  const types: Record<string, string> = { p: 'void *', i: 'int', u: 'uint32_t', l: 'int64_t' };
  return libc.func(
    name,
    'int64_t',
    [...args].map((kind) => types[kind] ?? 'void *'),
  );
}

const isArm = process.arch === 'arm64';
/** Numbers from 424 up are the same on every architecture. */
const NR = {
  statx: isArm ? 291 : 332,
  getdents64: isArm ? 61 : 217,
  seccomp: isArm ? 277 : 317,
  pivotRoot: isArm ? 41 : 155,
  openTree: 428,
  moveMount: 429,
  fsopen: 430,
  fsconfig: 431,
  fsmount: 432,
  fspick: 433,
  pidfdOpen: 434,
  closeRange: 436,
  openat2: 437,
  mountSetattr: 442,
} as const;

const fn = {
  close: libc.func('int close(int)'),
  openat: libc.func('int openat(int, void *, int, uint32_t)'),
  mkdirat: libc.func('int mkdirat(int, void *, uint32_t)'),
  mknodat: libc.func('int mknodat(int, void *, uint32_t, uint64_t)'),
  symlinkat: libc.func('int symlinkat(void *, int, void *)'),
  linkat: libc.func('int linkat(int, void *, int, void *, int)'),
  unlinkat: libc.func('int unlinkat(int, void *, int)'),
  renameat2: libc.func('int renameat2(int, void *, int, void *, uint32_t)'),
  readlinkat: libc.func('int64_t readlinkat(int, void *, void *, uint64_t)'),
  fchownat: libc.func('int fchownat(int, void *, uint32_t, uint32_t, int)'),
  fchmodat: libc.func('int fchmodat(int, void *, uint32_t, int)'),
  fchmod: libc.func('int fchmod(int, uint32_t)'),
  utimensat: libc.func('int utimensat(int, void *, void *, int)'),
  fsetxattr: libc.func('int fsetxattr(int, void *, void *, uint64_t, int)'),
  fgetxattr: libc.func('int64_t fgetxattr(int, void *, void *, uint64_t)'),
  flistxattr: libc.func('int64_t flistxattr(int, void *, uint64_t)'),
  lsetxattr: libc.func('int lsetxattr(void *, void *, void *, uint64_t, int)'),
  lgetxattr: libc.func('int64_t lgetxattr(void *, void *, void *, uint64_t)'),
  llistxattr: libc.func('int64_t llistxattr(void *, void *, uint64_t)'),
  fchdir: libc.func('int fchdir(int)'),
  chroot: libc.func('int chroot(void *)'),
  syncfs: libc.func('int syncfs(int)'),
  flock: libc.func('int flock(int, int)'),
  pipe2: libc.func('int pipe2(void *, int)'),
  fcntl: libc.func('fcntl', 'int', ['int', 'int', 'int64_t']),
  ioctl: libc.func('ioctl', 'int', ['int', 'uint64_t', 'void *']),
  ioctlInt: libc.func('ioctl', 'int', ['int', 'uint64_t', 'int64_t']),
  getsockopt: libc.func('int getsockopt(int, int, int, void *, void *)'),
  socketpair: libc.func('int socketpair(int, int, int, void *)'),
  sendmsg: libc.func('int64_t sendmsg(int, void *, int)'),
  socket: libc.func('int socket(int, int, int)'),
  sendto: libc.func('int64_t sendto(int, void *, uint64_t, int, void *, uint32_t)'),
  recvmsg: libc.func('int64_t recvmsg(int, void *, int)'),
  umount2: libc.func('int umount2(void *, int)'),
  mount: libc.func('int mount(void *, void *, void *, uint64_t, void *)'),
  prctl: libc.func('prctl', 'int', ['int', 'uint64_t', 'uint64_t', 'uint64_t', 'uint64_t']),
  umask: libc.func('uint32_t umask(uint32_t)'),
  lseek: libc.func('int64_t lseek(int, int64_t, int)'),
  copyFileRange: libc.func('int64_t copy_file_range(int, void *, int, void *, uint64_t, uint32_t)'),
  statx: proto('syscall', 'lipiup'),
  getdents64: proto('syscall', 'lipl'),
  openat2: proto('syscall', 'lippl'),
  openTree: proto('syscall', 'lipu'),
  moveMount: proto('syscall', 'lipipu'),
  fsopen: proto('syscall', 'lpu'),
  fsconfig: proto('syscall', 'liuppi'),
  fsmount: proto('syscall', 'liuu'),
  fspick: proto('syscall', 'lipu'),
  mountSetattr: proto('syscall', 'lipupl'),
  seccomp: proto('syscall', 'luup'),
  closeRange: proto('syscall', 'luuu'),
};

/** Longest name in a call, plus the NUL. Names are copied here, so that no call allocates. */
const scratchA = Buffer.alloc(65_536 + 1);
const scratchB = Buffer.alloc(65_536 + 1);

function cstring(scratch: Buffer, name: Buffer | string): Buffer {
  if (typeof name === 'string') return Buffer.from(`${name}\0`);
  if (name.length >= scratch.length) return Buffer.concat([name, Buffer.of(0)]);
  name.copy(scratch, 0);
  scratch[name.length] = 0;
  return scratch;
}

function fail(syscall: string, name: Buffer | string | null): never {
  const errno = koffi.errno();
  throw new SyscallError(syscall, errno, name === null ? '' : `"${escapeName(Buffer.from(name))}"`);
}

function check(result: number, syscall: string, name: Buffer | string | null = null): number {
  return result < 0 ? fail(syscall, name) : result;
}

/* ---- constants of <fcntl.h>, <linux/stat.h>, <linux/mount.h> and friends ---- */

export const AT_FDCWD = -100;
export const AT_SYMLINK_NOFOLLOW = 0x100;
export const AT_REMOVEDIR = 0x200;
export const AT_EMPTY_PATH = 0x1000;
export const AT_RECURSIVE = 0x8000;

export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_TRUNC = 0o1000;
export const O_NONBLOCK = 0o4000;
export const O_DIRECTORY = isArm ? 0o40000 : 0o200000;
export const O_NOFOLLOW = isArm ? 0o100000 : 0o400000;
export const O_NOATIME = 0o1000000;
export const O_CLOEXEC = 0o2000000;
export const O_PATH = 0o10000000;

export const RESOLVE_NO_XDEV = 0x01;
export const RESOLVE_NO_MAGICLINKS = 0x02;
export const RESOLVE_NO_SYMLINKS = 0x04;
export const RESOLVE_BENEATH = 0x08;
export const RESOLVE_IN_ROOT = 0x10;

export const S_IFMT = 0o170000;
export const S_IFSOCK = 0o140000;
export const S_IFLNK = 0o120000;
export const S_IFREG = 0o100000;
export const S_IFBLK = 0o060000;
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_IFIFO = 0o010000;

export const MS_RDONLY = 1;
export const MS_NOSUID = 2;
export const MS_NODEV = 4;
export const MS_NOEXEC = 8;
export const MS_REMOUNT = 32;
export const MS_NOATIME = 1024;
export const MS_BIND = 4096;
export const MS_REC = 16384;
export const MS_PRIVATE = 1 << 18;
export const MS_SLAVE = 1 << 19;
export const MNT_DETACH = 2;

export const MOUNT_ATTR_RDONLY = 0x1;
export const MOUNT_ATTR_NOSUID = 0x2;
export const MOUNT_ATTR_NODEV = 0x4;
export const MOUNT_ATTR_NOEXEC = 0x8;
export const MOUNT_ATTR_NOATIME = 0x10;
export const MOUNT_ATTR_IDMAP = 0x100000;

/* ---- files, relative to directory descriptors ---- */

/** What statx(2) tells; times in whole seconds (floor) and nanoseconds. */
export type Stat = {
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  ino: bigint;
  size: number;
  blocks: number;
  mtimeSec: number;
  mtimeNsec: number;
  rdevMajor: number;
  rdevMinor: number;
  devMajor: number;
  devMinor: number;
};

const STATX_BASIC_STATS = 0x7ff;
const statBuffer = Buffer.alloc(256);
const statView = new DataView(statBuffer.buffer, statBuffer.byteOffset, 256);

/** statx(2) of a name below a directory, never following a final symlink; an empty name means the descriptor itself. */
export function statAt(dirFd: number, name: Buffer | string): Stat {
  const flags = AT_SYMLINK_NOFOLLOW | (name.length === 0 ? AT_EMPTY_PATH : 0);
  check(fn.statx(NR.statx, dirFd, cstring(scratchA, name), flags, STATX_BASIC_STATS, statBuffer), 'statx', name);
  return statFromBuffer();
}

/** Like {@link statAt}, but null when there is no such name. */
export function tryStatAt(dirFd: number, name: Buffer): Stat | null {
  const result: number = fn.statx(NR.statx, dirFd, cstring(scratchA, name), AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, statBuffer);
  if (result >= 0) return statFromBuffer();
  return errnoName(koffi.errno()) === 'ENOENT' ? null : fail('statx', name);
}

function statFromBuffer(): Stat {
  return {
    nlink: statView.getUint32(16, true),
    uid: statView.getUint32(20, true),
    gid: statView.getUint32(24, true),
    mode: statView.getUint16(28, true),
    ino: statView.getBigUint64(32, true),
    size: uint64At(40),
    blocks: uint64At(48),
    mtimeSec: statView.getInt32(116, true) * 2 ** 32 + statView.getUint32(112, true),
    mtimeNsec: statView.getUint32(120, true),
    rdevMajor: statView.getUint32(128, true),
    rdevMinor: statView.getUint32(132, true),
    devMajor: statView.getUint32(136, true),
    devMinor: statView.getUint32(140, true),
  };
}

/** In two halves: a BigInt would cost more than the call. */
function uint64At(offset: number): number {
  return statView.getUint32(offset + 4, true) * 2 ** 32 + statView.getUint32(offset, true);
}

const NO_NAME = Buffer.alloc(0);

/** statx(2) of an open descriptor. */
export function statFd(fd: number): Stat {
  return statAt(fd, NO_NAME);
}

/** openat(2) with O_CLOEXEC added. The caller closes the descriptor. */
export function openAt(dirFd: number, name: Buffer | string, flags: number, mode = 0): number {
  return check(fn.openat(dirFd, cstring(scratchA, name), flags | O_CLOEXEC, mode), 'openat', name);
}

/** struct open_how; the upper halves of its three numbers are always zero. */
const openHow = Buffer.alloc(24);

/** openat2(2) with O_CLOEXEC added; `resolve` is a set of RESOLVE_ flags. */
export function openAt2(dirFd: number, name: Buffer | string, flags: number, resolve: number, mode = 0): number {
  openHow.writeUInt32LE(flags | O_CLOEXEC, 0);
  openHow.writeUInt32LE(mode, 8);
  openHow.writeUInt32LE(resolve, 16);
  return check(fn.openat2(NR.openat2, dirFd, cstring(scratchA, name), openHow, 24), 'openat2', name);
}

export function close(fd: number): void {
  check(fn.close(fd), 'close');
}

/** {@link close} on a thread of the pool: closing the last descriptor of a detached mount unmounts it, which can take a while. */
export function closeAsync(fd: number): Promise<void> {
  return callAsync(fn.close, [fd], 'close', String(fd));
}

/** One directory entry; `type` is a DT_ value of readdir(3), 0 when the filesystem does not tell. */
export type DirEntry = { name: Buffer; type: number };

const direntBuffer = Buffer.alloc(256 * 1024);

/** All entries of an open directory but `.` and `..`, in the kernel's order, read from its start; names are fresh Buffers. */
export function readDirectory(fd: number): DirEntry[] {
  const entries: DirEntry[] = [];
  eachDirent(fd, (start, end, type) => entries.push({ name: Buffer.from(direntBuffer.subarray(start, end)), type }));
  return entries;
}

/**
 * Like {@link readDirectory}, but one string an entry, a third of the memory: the name's bytes as latin1, a NUL, and the type as a character
 * code. Sorted as strings, they are in the order of the names' bytes.
 */
export function readDirectoryPacked(fd: number): string[] {
  const entries: string[] = [];
  eachDirent(fd, (start, end, type) => {
    // What is behind the NUL is padding, or the inode number of the next record, which nobody reads.
    direntBuffer[end + 1] = type;
    entries.push(direntBuffer.toString('latin1', start, end + 2));
  });
  return entries;
}

function eachDirent(fd: number, visit: (start: number, end: number, type: number) => void): void {
  check(fn.lseek(fd, 0, 0), 'lseek');
  for (;;) {
    const length = check(fn.getdents64(NR.getdents64, fd, direntBuffer, direntBuffer.length - 1), 'getdents64');
    if (length === 0) return;
    for (let at = 0; at < length; ) {
      const next = at + direntBuffer.readUInt16LE(at + 16);
      const start = at + 19;
      const end = direntBuffer.indexOf(0, start);
      const isDots = direntBuffer[start] === 0x2e && (end === start + 1 || (end === start + 2 && direntBuffer[start + 1] === 0x2e));
      if (!isDots) visit(start, end, direntBuffer[at + 18] ?? 0);
      at = next;
    }
  }
}

/** Tells whether an open directory has no entry. */
export function isEmptyDirectory(fd: number): boolean {
  return readDirectory(fd).length === 0;
}

export function mkdirAt(dirFd: number, name: Buffer | string, mode: number): void {
  check(fn.mkdirat(dirFd, cstring(scratchA, name), mode), 'mkdirat', name);
}

/** mknodat(2); `mode` includes the S_IF type. */
export function mknodAt(dirFd: number, name: Buffer | string, mode: number, major = 0, minor = 0): void {
  check(fn.mknodat(dirFd, cstring(scratchA, name), mode, makeDev(major, minor)), 'mknodat', name);
}

/** Device number as glibc's makedev(3) packs it. */
function makeDev(major: number, minor: number): bigint {
  const high = BigInt(major);
  const low = BigInt(minor);
  return ((high & 0xfffff000n) << 32n) | ((high & 0xfffn) << 8n) | ((low & 0xffffff00n) << 12n) | (low & 0xffn);
}

export function symlinkAt(target: Buffer | string, dirFd: number, name: Buffer | string): void {
  check(fn.symlinkat(cstring(scratchB, target), dirFd, cstring(scratchA, name)), 'symlinkat', name);
}

/** linkat(2) without following a symlink at the old name. */
export function linkAt(oldDirFd: number, oldName: Buffer | string, newDirFd: number, newName: Buffer | string): void {
  check(fn.linkat(oldDirFd, cstring(scratchB, oldName), newDirFd, cstring(scratchA, newName), 0), 'linkat', newName);
}

/** unlinkat(2); `flags` 0 or AT_REMOVEDIR. */
export function unlinkAt(dirFd: number, name: Buffer | string, flags = 0): void {
  check(fn.unlinkat(dirFd, cstring(scratchA, name), flags), 'unlinkat', name);
}

export const RENAME_NOREPLACE = 1;

export function renameAt(oldDirFd: number, oldName: Buffer | string, newDirFd: number, newName: Buffer | string, flags = 0): void {
  check(fn.renameat2(oldDirFd, cstring(scratchB, oldName), newDirFd, cstring(scratchA, newName), flags), 'renameat2', newName);
}

const linkBuffer = Buffer.alloc(65_536);

export function readlinkAt(dirFd: number, name: Buffer | string): Buffer {
  const length = check(fn.readlinkat(dirFd, cstring(scratchA, name), linkBuffer, linkBuffer.length), 'readlinkat', name);
  return Buffer.from(linkBuffer.subarray(0, length));
}

/** fchownat(2), never following a final symlink; an empty name means the descriptor itself. */
export function chownAt(dirFd: number, name: Buffer | string, uid: number, gid: number): void {
  const flags = AT_SYMLINK_NOFOLLOW | (name.length === 0 ? AT_EMPTY_PATH : 0);
  check(fn.fchownat(dirFd, cstring(scratchA, name), uid, gid, flags), 'fchownat', name);
}

/** fchmod(2) of an open (not O_PATH) descriptor. */
export function chmodFd(fd: number, mode: number): void {
  check(fn.fchmod(fd, mode), 'fchmod');
}

/** fchmodat(2). It follows a final symlink: only for names that this process itself has just made (devices, fifos). */
export function chmodAt(dirFd: number, name: Buffer | string, mode: number): void {
  check(fn.fchmodat(dirFd, cstring(scratchA, name), mode, 0), 'fchmodat', name);
}

const timesBuffer = Buffer.alloc(32);
const timesView = new DataView(timesBuffer.buffer, timesBuffer.byteOffset, 32);

/** Sets modification and access time (both the same) exactly, without following a final symlink; an empty name means the descriptor itself. */
export function utimesAt(dirFd: number, name: Buffer | string, sec: number, nsec: number): void {
  const wideSec = BigInt(sec);
  const wideNsec = BigInt(nsec);
  timesView.setBigInt64(0, wideSec, true);
  timesView.setBigInt64(8, wideNsec, true);
  timesView.setBigInt64(16, wideSec, true);
  timesView.setBigInt64(24, wideNsec, true);
  const flags = AT_SYMLINK_NOFOLLOW | (name.length === 0 ? AT_EMPTY_PATH : 0);
  check(fn.utimensat(dirFd, cstring(scratchA, name), timesBuffer, flags), 'utimensat', name);
}

export function syncFilesystem(fd: number): void {
  check(fn.syncfs(fd), 'syncfs');
}

/** {@link syncFilesystem} on a thread of the pool. */
export function syncFilesystemAsync(fd: number): Promise<void> {
  return callAsync(fn.syncfs, [fd], 'syncfs', '');
}

/** Exclusive, non-blocking flock(2); gives false when another open description holds it. */
export function tryLockFd(fd: number): boolean {
  if (fn.flock(fd, 2 | 4) === 0) return true;
  if (errnoName(koffi.errno()) === 'EAGAIN') return false;
  return fail('flock', null);
}

/** The next offset with data at or after `offset`, or null when only a hole follows (lseek SEEK_DATA). */
export function seekData(fd: number, offset: number): number | null {
  const at: number = fn.lseek(fd, offset, 3);
  if (at >= 0) return at;
  return errnoName(koffi.errno()) === 'ENXIO' ? null : fail('lseek', null);
}

/** The end of the data run that starts at `offset` (lseek SEEK_HOLE). */
export function seekHole(fd: number, offset: number): number {
  return check(fn.lseek(fd, offset, 4), 'lseek');
}

/**
 * copy_file_range(2) at given offsets of two files, whose own offsets stay, on a thread of the pool. Gives how much was copied: less than asked for
 * at the end of the file, for one. Throws EXDEV and others where the filesystems cannot do it.
 */
export function copyFileRange(fromFd: number, fromOffset: number, toFd: number, toOffset: number, length: number): Promise<number> {
  const offsets = [fromOffset, toOffset].map((offset) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(offset), 0);
    return bytes;
  });
  return resultAsync(fn.copyFileRange, [fromFd, offsets[0], toFd, offsets[1], length, 0], 'copy_file_range', '');
}

/* ---- extended attributes ---- */

const xattrBuffer = Buffer.alloc(65_536);

function splitNames(length: number): Buffer[] {
  const names: Buffer[] = [];
  for (let at = 0; at < length; ) {
    const end = xattrBuffer.indexOf(0, at);
    names.push(Buffer.from(xattrBuffer.subarray(at, end)));
    at = end + 1;
  }
  return names;
}

/** Names of a file's extended attributes by descriptor; none where the filesystem has no attributes. */
export function listXattrsFd(fd: number): Buffer[] {
  const length = fn.flistxattr(fd, xattrBuffer, xattrBuffer.length);
  if (length < 0 && errnoName(koffi.errno()) === 'EOPNOTSUPP') return [];
  return splitNames(check(length, 'flistxattr'));
}

/** Names of the attributes of a name in the current directory, a symlink itself included. See {@link changeDirectory}. */
export function listXattrsHere(name: Buffer): Buffer[] {
  const length = fn.llistxattr(cstring(scratchA, name), xattrBuffer, xattrBuffer.length);
  if (length < 0 && errnoName(koffi.errno()) === 'EOPNOTSUPP') return [];
  return length === 0 ? [] : splitNames(check(length, 'llistxattr', name));
}

/** A value by descriptor, or null when the attribute is not there. */
export function getXattrFd(fd: number, attribute: Buffer | string): Buffer | null {
  return xattrValue(fn.fgetxattr(fd, cstring(scratchB, attribute), xattrBuffer, xattrBuffer.length), 'fgetxattr', attribute);
}

/** A value of a name in the current directory, a symlink itself included; null when the attribute is not there. */
export function getXattrHere(name: Buffer, attribute: Buffer | string): Buffer | null {
  return xattrValue(
    fn.lgetxattr(cstring(scratchA, name), cstring(scratchB, attribute), xattrBuffer, xattrBuffer.length),
    'lgetxattr',
    attribute,
  );
}

function xattrValue(length: number, syscall: string, attribute: Buffer | string): Buffer | null {
  if (length >= 0) return Buffer.from(xattrBuffer.subarray(0, length));
  const errno = errnoName(koffi.errno());
  return errno === 'ENODATA' || errno === 'EOPNOTSUPP' ? null : fail(syscall, attribute);
}

export function setXattrFd(fd: number, attribute: Buffer | string, value: Buffer): void {
  check(fn.fsetxattr(fd, cstring(scratchB, attribute), value, value.length, 0), 'fsetxattr', attribute);
}

/** Sets an attribute of a name in the current directory, a symlink itself included. */
export function setXattrHere(name: Buffer, attribute: Buffer | string, value: Buffer): void {
  check(fn.lsetxattr(cstring(scratchA, name), cstring(scratchB, attribute), value, value.length, 0), 'lsetxattr', attribute);
}

/* ---- the process ---- */

/** fchdir(2). Only for workers: the current directory belongs to the whole process. */
export function changeDirectory(fd: number): void {
  check(fn.fchdir(fd), 'fchdir');
}

/** chroot(2) to the current directory. */
export function chrootHere(): void {
  check(fn.chroot(cstring(scratchA, '.')), 'chroot');
}

export function setUmask(mask: number): number {
  return fn.umask(mask);
}

const PR_SET_DUMPABLE = 4;
const PR_SET_NO_NEW_PRIVS = 38;

export function setNotDumpable(): void {
  check(fn.prctl(PR_SET_DUMPABLE, 0n, 0n, 0n, 0n), 'prctl');
}

export function setNoNewPrivileges(): void {
  check(fn.prctl(PR_SET_NO_NEW_PRIVS, 1n, 0n, 0n, 0n), 'prctl');
}

/** Installs a classic BPF program as the seccomp filter of every thread (SECCOMP_FILTER_FLAG_TSYNC). Needs no_new_privs or CAP_SYS_ADMIN. */
export function installSeccompFilter(program: Buffer): void {
  const fprog = Buffer.alloc(16);
  fprog.writeUInt16LE(program.length / 8, 0);
  fprog.writeBigUInt64LE(koffi.address(program), 8);
  // A positive result is the id of a thread that could not take the filter.
  if (check(fn.seccomp(NR.seccomp, 1, 1, fprog), 'seccomp') !== 0) throw new SyscallError('seccomp', 3, 'on every thread');
}

/** pipe2(2) with O_CLOEXEC; gives [read end, write end]. Jobs get these, since Node's own pipes are sockets. */
export function makePipe(flags = 0): [number, number] {
  const fds = Buffer.alloc(8);
  check(fn.pipe2(fds, flags | O_CLOEXEC), 'pipe2');
  return [fds.readInt32LE(0), fds.readInt32LE(4)];
}

const F_GETFL = 3;
const F_SETFL = 4;

/** Sets or clears O_NONBLOCK of an open file description. */
export function setNonBlocking(fd: number, on: boolean): void {
  const flags = check(fn.fcntl(fd, F_GETFL, 0), 'fcntl');
  check(fn.fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK), 'fcntl');
}

const F_DUPFD_CLOEXEC = 1030;

/** A second descriptor (O_CLOEXEC) of the same open file description. The caller closes it. */
export function duplicate(fd: number): number {
  return check(fn.fcntl(fd, F_DUPFD_CLOEXEC, 3), 'fcntl');
}

const F_SETPIPE_SZ = 1031;

/** Gives a pipe room for that many bytes (F_SETPIPE_SZ of fcntl(2)), 64 KiB by default; without room for it within the user's bounds nothing changes. */
export function setPipeSize(fd: number, bytes: number): void {
  if (fn.fcntl(fd, F_SETPIPE_SZ, bytes) < 0 && errnoName(koffi.errno()) !== 'EPERM') fail('fcntl', null);
}

/** ioctl(2) with a buffer argument. Gives the call's result. */
export function ioctlBuffer(fd: number, request: number, argument: Buffer): number {
  return check(fn.ioctl(fd, request, argument), 'ioctl');
}

/** ioctl(2) with a number argument. Gives the call's result. */
export function ioctlNumber(fd: number, request: number, argument: number): number {
  return check(fn.ioctlInt(fd, request, argument), 'ioctl');
}

/* ---- sockets ---- */

/** Who is at the other end of a connected Unix socket, as the kernel recorded at connect (socket(7), SO_PEERCRED). */
export type PeerCredentials = { pid: number; uid: number; gid: number };

export function getPeerCredentials(socketFd: number): PeerCredentials {
  const value = Buffer.alloc(12);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(12, 0);
  check(fn.getsockopt(socketFd, 1, 17, value, length), 'getsockopt');
  return { pid: value.readInt32LE(0), uid: value.readUInt32LE(4), gid: value.readUInt32LE(8) };
}

/** A connected pair of Unix stream sockets (socketpair(2)), both O_CLOEXEC. */
export function makeSocketPair(): [number, number] {
  const fds = Buffer.alloc(8);
  check(fn.socketpair(1, 1 | O_CLOEXEC, 0, fds), 'socketpair');
  return [fds.readInt32LE(0), fds.readInt32LE(4)];
}

const AF_UNIX = 1;
const SOCK_DGRAM = 2;

/** Sends one datagram to a Unix socket, whose address is a path or, after a NUL byte, an abstract name (unix(7)). */
export function sendDatagram(address: Buffer, data: Buffer): void {
  const fd = check(fn.socket(AF_UNIX, SOCK_DGRAM | O_CLOEXEC, 0), 'socket');
  try {
    const name = Buffer.concat([Buffer.of(AF_UNIX, 0), address]);
    check(fn.sendto(fd, data, data.length, 0x4000 /* MSG_NOSIGNAL */, name, name.length), 'sendto', address);
  } finally {
    close(fd);
  }
}

const SCM_RIGHTS = 1;
const SOL_SOCKET = 1;
const MAX_FDS = 250;

/** The pieces of a struct msghdr with one iovec and room for descriptors (cmsg(3), 64-bit layout). */
function messageHeader(data: Buffer, controlLength: number): { header: Buffer; iovec: Buffer; control: Buffer } {
  const iovec = Buffer.alloc(16);
  iovec.writeBigUInt64LE(koffi.address(data), 0);
  iovec.writeBigUInt64LE(BigInt(data.length), 8);
  const control = Buffer.alloc(Math.max(controlLength, 16));
  const header = Buffer.alloc(56);
  header.writeBigUInt64LE(koffi.address(iovec), 16);
  header.writeBigUInt64LE(1n, 24);
  if (controlLength > 0) {
    header.writeBigUInt64LE(koffi.address(control), 32);
    header.writeBigUInt64LE(BigInt(controlLength), 40);
  }
  return { header, iovec, control };
}

/** Sends bytes with descriptors over a Unix stream socket (unix(7), SCM_RIGHTS). Gives the number of bytes sent. */
export function sendWithFds(socketFd: number, data: Buffer, fds: number[]): number {
  const payload = 16 + fds.length * 4;
  const { header, control } = messageHeader(data, fds.length === 0 ? 0 : (payload + 7) & ~7);
  if (fds.length > 0) {
    control.writeBigUInt64LE(BigInt(payload), 0);
    control.writeInt32LE(SOL_SOCKET, 8);
    control.writeInt32LE(SCM_RIGHTS, 12);
    for (const [index, fd] of fds.entries()) control.writeInt32LE(fd, 16 + index * 4);
  }
  return check(fn.sendmsg(socketFd, header, 0x4000 /* MSG_NOSIGNAL */), 'sendmsg');
}

/** Receives bytes and descriptors (O_CLOEXEC); blocks on a blocking socket. No bytes mean that the other end has closed. */
export function receiveWithFds(socketFd: number, data: Buffer): { length: number; fds: number[] } {
  const { header, control } = messageHeader(data, 16 + MAX_FDS * 4);
  const length = check(fn.recvmsg(socketFd, header, 0x40000000 /* MSG_CMSG_CLOEXEC */), 'recvmsg');
  const fds: number[] = [];
  if (header.readBigUInt64LE(40) >= 16n && control.readInt32LE(12) === SCM_RIGHTS) {
    const end = Number(control.readBigUInt64LE(0));
    for (let at = 16; at + 4 <= end; at += 4) fds.push(control.readInt32LE(at));
  }
  return { length, fds };
}

/* ---- mounts ---- */

const OPEN_TREE_CLONE = 1;

/** A detached clone of a mount's subtree (open_tree(2) with OPEN_TREE_CLONE). The caller closes the descriptor. */
export function cloneTree(dirFd: number, name: Buffer | string, recursive = false): number {
  const flags = OPEN_TREE_CLONE | O_CLOEXEC | (recursive ? AT_RECURSIVE : 0) | (name.length === 0 ? AT_EMPTY_PATH : 0);
  return check(fn.openTree(NR.openTree, dirFd, cstring(scratchA, name), flags), 'open_tree', name);
}

/** mount_setattr(2) on a mount's descriptor: attributes to set, and a user namespace to map ids by. */
export function setMountAttributes(fd: number, set: number, idmapUsernsFd: number | null = null, recursive = false): void {
  const attr = Buffer.alloc(32);
  attr.writeBigUInt64LE(BigInt(idmapUsernsFd === null ? set : set | MOUNT_ATTR_IDMAP), 0);
  attr.writeBigUInt64LE(BigInt(Math.max(idmapUsernsFd ?? 0, 0)), 24);
  const flags = AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0);
  check(fn.mountSetattr(NR.mountSetattr, fd, cstring(scratchA, ''), flags, attr, 32), 'mount_setattr');
}

export function fsOpen(type: string): number {
  return check(fn.fsopen(NR.fsopen, cstring(scratchA, type), 1 /* FSOPEN_CLOEXEC */), 'fsopen', type);
}

const FSCONFIG_SET_FLAG = 0;
const FSCONFIG_SET_STRING = 1;
const FSCONFIG_SET_FD = 5;
const FSCONFIG_CMD_CREATE = 6;

/** Throws with the kernel's own words on why a filesystem context refused (read from the context's descriptor). */
export function fsSetString(fsFd: number, key: string, value: string): void {
  check(fn.fsconfig(NR.fsconfig, fsFd, FSCONFIG_SET_STRING, cstring(scratchA, key), cstring(scratchB, value), 0), 'fsconfig', key);
}

export function fsSetFlag(fsFd: number, key: string): void {
  check(fn.fsconfig(NR.fsconfig, fsFd, FSCONFIG_SET_FLAG, cstring(scratchA, key), null, 0), 'fsconfig', key);
}

export function fsSetFd(fsFd: number, key: string, fd: number): void {
  check(fn.fsconfig(NR.fsconfig, fsFd, FSCONFIG_SET_FD, cstring(scratchA, key), null, fd), 'fsconfig', key);
}

export function fsCreate(fsFd: number): void {
  check(fn.fsconfig(NR.fsconfig, fsFd, FSCONFIG_CMD_CREATE, null, null, 0), 'fsconfig', 'create');
}

/** A detached mount of a configured filesystem context. The caller closes the descriptor. */
export function fsMount(fsFd: number, attributes: number): number {
  return check(fn.fsmount(NR.fsmount, fsFd, 1 /* FSMOUNT_CLOEXEC */, attributes), 'fsmount');
}

const MOVE_MOUNT_F_EMPTY_PATH = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH = 0x40;

/** Attaches a detached mount at a directory given by descriptor, or by a name below one. */
export function attachMount(mountFd: number, dirFd: number, name: Buffer | string = ''): void {
  const flags = MOVE_MOUNT_F_EMPTY_PATH | (name.length === 0 ? MOVE_MOUNT_T_EMPTY_PATH : 0);
  check(fn.moveMount(NR.moveMount, mountFd, cstring(scratchA, ''), dirFd, cstring(scratchB, name), flags), 'move_mount', name);
}

/** mount(2) by path: for remounts and propagation, and for the filesystems that the new calls cannot set up. */
export function mount(source: string, target: string, type: string | null, flags: number, data: string | null): void {
  check(fn.mount(Buffer.from(`${source}\0`), Buffer.from(`${target}\0`), bytesOrNull(type), flags, bytesOrNull(data)), 'mount', target);
}

/** {@link mount} on a thread of the pool. */
export function mountAsync(source: string, target: string, type: string | null, flags: number, data: string | null): Promise<void> {
  return callAsync(
    fn.mount,
    [Buffer.from(`${source}\0`), Buffer.from(`${target}\0`), bytesOrNull(type), flags, bytesOrNull(data)],
    'mount',
    target,
  );
}

export function umount(target: string, flags = 0): void {
  check(fn.umount2(Buffer.from(`${target}\0`), flags), 'umount2', target);
}

/** {@link umount} on a thread of the pool. */
export function umountAsync(target: string, flags = 0): Promise<void> {
  return callAsync(fn.umount2, [Buffer.from(`${target}\0`), flags], 'umount2', target);
}

function bytesOrNull(text: string | null): Buffer | null {
  return text === null ? null : Buffer.from(`${text}\0`);
}

async function callAsync(call: Fn, args: unknown[], syscall: string, name: string): Promise<void> {
  await resultAsync(call, args, syscall, `"${escapeName(Buffer.from(name))}"`);
}

function resultAsync(call: Fn, args: unknown[], syscall: string, detail: string): Promise<number> {
  return new Promise((resolve, reject) => {
    call.async(...args, (error: Error | null, result: number) => {
      // koffi saves errno of the pool's thread for the callback.
      if (error !== null) reject(error);
      else if (result < 0) reject(new SyscallError(syscall, koffi.errno(), detail));
      else resolve(result);
    });
  });
}

/** Closes every descriptor from `first` up on the next exec (close_range(2), CLOSE_RANGE_CLOEXEC). */
export function closeOnExecFrom(first: number): void {
  check(fn.closeRange(NR.closeRange, first, 0xffffffff, 4), 'close_range');
}

const FSPICK_EMPTY_PATH = 0x8;
const FSCONFIG_CMD_RECONFIGURE = 7;

/** Makes a whole filesystem (not just one mount of it) read-only, on a thread of the pool. Throws EBUSY while anything holds a file on it open for writing. */
export async function remountReadOnly(mountFd: number): Promise<void> {
  const context = check(fn.fspick(NR.fspick, mountFd, cstring(scratchA, ''), FSPICK_EMPTY_PATH | 1), 'fspick');
  try {
    fsSetFlag(context, 'ro');
    await callAsync(fn.fsconfig, [NR.fsconfig, context, FSCONFIG_CMD_RECONFIGURE, null, null, 0], 'fsconfig', 'reconfigure');
  } finally {
    close(context);
  }
}
