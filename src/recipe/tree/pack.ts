import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { setImmediate } from 'node:timers/promises';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { TarMember } from '../../core/tar/entry.ts';
import { encodeEntry, endOfArchive, padding } from '../../core/tar/writer.ts';
import { readAt } from '../archive/members.ts';
import { encodeGnuEntry } from './pack-gnu.ts';
import { encodePythonEntry } from './pack-python.ts';
import { Batch, recordPadding } from './pack-stream.ts';
import type { FileNode, Tree, TreeEntry, TreeNode } from './tree.ts';

/** A member with the names of its owner, which only some formats write, and whether names of owners are written at all. */
export type PackedMember = TarMember & { readonly uname: string; readonly gname: string; readonly numericOwner: boolean };

/**
 * How members are written:
 *
 * - `gnu`: as GNU tar 1.34 does by default with `--hard-dereference`: names `./x`, the names of owners, no attributes, records of 10,240 bytes;
 * - `python`: as Python's tarfile does in its PAX format, whole numbers as times: no attributes, hard links as copies, records of 10,240 bytes;
 * - `plain`: as the engine packs layers: names `x` and `./` for the root, PAX where needed, attributes, hard links as links.
 */
export type PackFormat = 'gnu' | 'python' | 'plain';

/** What to write into a tar, and what to write instead of what a node says. */
export type PackOptions = {
  readonly format: PackFormat;
  /** Put in front of every path; by default `./` in `gnu` and nothing otherwise. The root is written as `./` where the prefix is empty. */
  readonly prefix?: string;
  /** The owner of every member; its names go to the formats that write names. */
  readonly owner?: { readonly uid: number; readonly gid: number; readonly uname?: string; readonly gname?: string };
  /** Leaves out the names of owners, as `tar --numeric-owner` does. */
  readonly numericOwner?: boolean;
  /** The time of every member. */
  readonly mtimeSec?: number;
  /** Later times become this one. */
  readonly maxMtimeSec?: number;
};

/** Gives a tree as a tar in the order of {@link Tree.entries}. Throws as {@link packEntries}. */
export function packTree(tree: Tree, options: PackOptions, signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
  return packEntries(tree.entries(), options, signal);
}

/**
 * Gives nodes as a tar, in their order, with its end. One file is open at a time; the same nodes give the same bytes. A whole number of 512-byte
 * blocks; hash and measure it with `measured` in pack-stream.ts. Throws `E_CONFLICT` for a file that has changed since it was looked at, and what
 * the writers of headers throw.
 */
export function packEntries(
  entries: Iterable<TreeEntry>,
  options: PackOptions,
  signal: AbortSignal,
): AsyncGenerator<Buffer, void, undefined> {
  return packParts([{ entries, options }], signal);
}

/** Nodes with their own options: what `tar --append` puts behind others. */
export type PackPart = { readonly entries: Iterable<TreeEntry>; readonly options: PackOptions };

/** Gives the members of several parts as one tar, like {@link packEntries}. All parts have one format. */
export async function* packParts(parts: readonly PackPart[], signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
  const batch = new Batch();
  for (const { entries, options } of parts) {
    for await (const piece of pieces(entries, options, signal)) {
      const full = batch.add(piece);
      if (full === null) continue;
      yield full;
      // Small files are read without waiting, and an interrupt must come through all the same.
      await setImmediate();
    }
  }
  batch.add(endOfArchive);
  if (parts[0]?.options.format !== 'plain') for (const piece of recordPadding(batch.total)) batch.add(piece);
  yield batch.take();
}

async function* pieces(entries: Iterable<TreeEntry>, options: PackOptions, signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
  const encode = ENCODERS[options.format];
  const links = options.format === 'plain' ? new Map<TreeNode, Buffer>() : null;
  for (const { path, node } of entries) {
    signal.throwIfAborted();
    const member = memberOf(path, node, options);
    const first = node.type === 'file' ? links?.get(node) : undefined;
    if (first !== undefined) {
      yield encode({ ...member, type: 'hardlink', size: 0, linkName: first });
      continue;
    }
    if (node.type === 'file') links?.set(node, member.name);
    yield encode(member);
    if (node.type === 'file' && node.size > 0) {
      yield* bytesOf(node, path, signal);
      yield padding(node.size);
    }
  }
}

const ENCODERS: Record<PackFormat, (member: PackedMember) => Buffer> = {
  gnu: encodeGnuEntry,
  python: encodePythonEntry,
  plain: encodeEntry,
};

const EMPTY = Buffer.alloc(0);
const SLASH = Buffer.from('/');
const ROOT = Buffer.from('./');

function memberOf(path: Buffer, node: TreeNode, options: PackOptions): PackedMember {
  const { owner, numericOwner = false } = options;
  const isDevice = node.type === 'char' || node.type === 'block';
  const { uid, gid } = owner ?? node;
  return {
    name: nameOf(path, node, options),
    type: node.type,
    mode: node.mode,
    uid,
    gid,
    uname: numericOwner ? '' : ((owner ?? node).uname ?? knownName(uid)),
    gname: numericOwner ? '' : ((owner ?? node).gname ?? knownName(gid)),
    numericOwner,
    size: node.type === 'file' ? node.size : 0,
    mtimeSec: options.mtimeSec ?? Math.min(node.mtimeSec, options.maxMtimeSec ?? node.mtimeSec),
    linkName: node.type === 'symlink' ? node.target : EMPTY,
    devMajor: isDevice ? node.major : 0,
    devMinor: isDevice ? node.minor : 0,
    xattrs: options.format === 'plain' ? (node.xattrs ?? []) : [],
  };
}

/** The one name that every system agrees on: names of this machine's users would make the bytes depend on the machine. */
function knownName(id: number): string {
  return id === 0 ? 'root' : '';
}

function nameOf(path: Buffer, node: TreeNode, { format, prefix = format === 'gnu' ? './' : '' }: PackOptions): Buffer {
  if (path.length === 0) return prefix === '' ? ROOT : Buffer.from(prefix);
  const name = prefix === '' ? path : Buffer.concat([Buffer.from(prefix), path]);
  return node.type === 'directory' ? Buffer.concat([name, SLASH]) : name;
}

/** Gives the bytes of a file, exactly as many as its size says; `path` is for messages. Throws `E_CONFLICT` when it has changed meanwhile. */
export async function* bytesOf(node: FileNode, path: Buffer, signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
  const { source, size } = node;
  if (source.kind === 'path') {
    yield* readFile(source.path, size, signal);
    return;
  }
  let left = size;
  for await (const chunk of source.kind === 'bytes' ? [source.bytes] : source.open(signal)) {
    left -= chunk.length;
    if (left < 0) break;
    yield chunk;
  }
  if (left !== 0) throw new RootlayerError('E_CONFLICT', `Cannot pack "${escapeName(path)}": it has not the ${size} bytes that it had`);
}

const CHUNK_BYTES = 1024 * 1024;

/** Exactly as many bytes as the header says, whoever writes to the file meanwhile. */
async function* readFile(path: Buffer, size: number, signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
  if (size <= SMALL_BYTES) {
    yield readSmall(path, size);
    return;
  }
  const handle = await openFile(path);
  try {
    const found = await handle.stat();
    if (!found.isFile() || found.size !== size) throw changed(path, size);
    for (let at = 0; at < size; ) {
      signal.throwIfAborted();
      const wanted = Math.min(CHUNK_BYTES, size - at);
      const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(wanted), 0, wanted, at);
      if (bytesRead === 0) throw changed(path, size);
      at += bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await handle.close();
  }
}

const SMALL_BYTES = 256 * 1024;

/** Reading a small file takes less time than four calls that wait for another thread. */
function readSmall(path: Buffer, size: number): Buffer {
  const fd = openSmall(path);
  try {
    const found = fstatSync(fd);
    const bytes = found.isFile() && found.size === size ? readAt(fd, 0, size) : null;
    if (bytes?.length !== size) throw changed(path, size);
    return bytes;
  } finally {
    closeSync(fd);
  }
}

/** Without O_NONBLOCK a FIFO put there since would be waited for. */
const FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

function openSmall(path: Buffer): number {
  try {
    return openSync(path, FLAGS);
  } catch (error) {
    throw unreadable(path, error);
  }
}

async function openFile(path: Buffer): Promise<FileHandle> {
  try {
    return await open(path, FLAGS);
  } catch (error) {
    throw unreadable(path, error);
  }
}

function unreadable(path: Buffer, error: unknown): RootlayerError {
  const why = error instanceof Error && 'code' in error ? String(error.code) : String(error);
  return new RootlayerError('E_USAGE', `Cannot read "${escapeName(path)}": ${why}, want a file that you may read`, { cause: error });
}

function changed(path: Buffer, size: number): RootlayerError {
  return new RootlayerError('E_CONFLICT', `Cannot pack "${escapeName(path)}": it changed meanwhile, want a file of ${size} bytes`);
}
