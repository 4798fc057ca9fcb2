import type { BigIntStats } from 'node:fs';
import { lstat, readdir, readlink } from 'node:fs/promises';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import { joined, type TreeEntry, type TreeNode } from './tree.ts';

/**
 * Looks at a path of this machine and all below it, following no links: nodes with the owners, modes and times that are there, without attributes. Paths
 * are relative to it, empty for itself; each directory comes before what is in it, names sorted by their bytes. Sockets are left out; `onSkip` hears of
 * them. Throws `E_USAGE` for what cannot be read.
 */
export async function scan(path: Buffer, onSkip: (path: Buffer) => void, signal: AbortSignal): Promise<TreeEntry[]> {
  const found: TreeEntry[] = [];
  const node = await readNode(path);
  if (node === null) onSkip(path);
  else await add({ path: EMPTY, node }, path, found, onSkip, signal);
  return found;
}

/** Gives the node for a path, null for a socket. Throws `E_USAGE` for what cannot be read. */
async function readNode(path: Buffer): Promise<TreeNode | null> {
  const stats = await explainRead(path, () => lstat(path, { bigint: true }));
  if (!stats.isSymbolicLink()) return nodeOf(path, stats);
  const target = await explainRead(path, () => readlink(path, { encoding: 'buffer' }));
  return { ...attributesOf(stats), mode: 0o777, type: 'symlink', target };
}

/** Gives the node for what is no symlink, null for a socket. */
export function nodeOf(path: Buffer, stats: BigIntStats): TreeNode | null {
  const attributes = attributesOf(stats);
  if (stats.isDirectory()) return { ...attributes, type: 'directory' };
  if (stats.isFile()) return { ...attributes, type: 'file', size: Number(stats.size), source: { kind: 'path', path } };
  if (stats.isFIFO()) return { ...attributes, type: 'fifo' };
  if (stats.isSocket()) return null;
  return { ...attributes, type: stats.isCharacterDevice() ? 'char' : 'block', ...deviceOf(stats.rdev) };
}

/** Gives the nodes in a directory with their names, sorted by bytes; null for a socket. */
export async function readNodes(directory: Buffer): Promise<{ name: Buffer; path: Buffer; node: TreeNode | null }[]> {
  const names = (await readNames(directory)).sort(Buffer.compare);
  const found: { name: Buffer; path: Buffer; node: TreeNode | null }[] = [];
  for (let at = 0; at < names.length; at += AT_ONCE) {
    const some = names.slice(at, at + AT_ONCE).map(async (name) => {
      const path = below(directory, name);
      return { name, path, node: await readNode(path) };
    });
    found.push(...(await Promise.all(some)));
  }
  return found;
}

/** Gives the path of a name in a directory. */
export function below(directory: Buffer, name: Buffer): Buffer {
  return directory.at(-1) === SLASH ? Buffer.concat([directory, name]) : joined(directory, name);
}

/** Runs a call of the file system. Throws `E_USAGE` with the path when it fails. */
export async function explainRead<T>(path: Buffer, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    const why = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    throw new RootlayerError('E_USAGE', `Cannot read "${escapeName(path)}": ${why}, want a file or directory that you may read`, {
      cause: error,
    });
  }
}

const EMPTY = Buffer.alloc(0);
const SLASH = 0x2f;
const AT_ONCE = 64;

async function add(
  entry: TreeEntry,
  source: Buffer,
  found: TreeEntry[],
  onSkip: (path: Buffer) => void,
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  found.push(entry);
  if (entry.node.type !== 'directory') return;
  for (const { name, path, node } of await readNodes(source)) {
    if (node === null) onSkip(path);
    else await add({ path: joined(entry.path, name), node }, path, found, onSkip, signal);
  }
}

function readNames(directory: Buffer): Promise<Buffer[]> {
  return explainRead(directory, () => readdir(directory, { encoding: 'buffer' }));
}

type Attributes = Pick<TreeNode, 'mode' | 'uid' | 'gid' | 'mtimeSec'>;

function attributesOf(stats: BigIntStats): Attributes {
  return { mode: Number(stats.mode & 0o7777n), uid: Number(stats.uid), gid: Number(stats.gid), mtimeSec: floorSeconds(stats.mtimeNs) };
}

function floorSeconds(nanoseconds: bigint): number {
  const second = 1_000_000_000n;
  return Number((nanoseconds - (((nanoseconds % second) + second) % second)) / second);
}

/** Source: glibc, gnu_dev_major and gnu_dev_minor. */
function deviceOf(rdev: bigint): { major: number; minor: number } {
  return {
    major: Number(((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n)),
    minor: Number((rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n)),
  };
}
