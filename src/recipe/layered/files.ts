import { lstatSync, readdirSync, readlinkSync, type Stats } from 'node:fs';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import { packEntries } from '../tree/pack.ts';
import { joined, PLAIN_DIRECTORY, type TreeEntry, type TreeNode } from '../tree/tree.ts';

/** Where the store is, and what its files look like in a layer. */
export type StoreOptions = {
  /** Absolute, without a final slash; the layer's members begin with it. */
  readonly storeDir: string;
  /** Put in front of a store path to read it; empty where the store lies at its own place. */
  readonly storeRoot: string;
  readonly mtimeSec: number;
  readonly owner: { readonly uid: number; readonly gid: number; readonly uname: string; readonly gname: string };
};

/**
 * Gives the tar of a layer of store paths: the store directory and what it lies in, then each path with all its files in the order of their names, owners
 * and times as the options say, modes as they are, hard links as files of their own, without attributes. Made anew each time, nothing is kept. Throws
 * `E_RECIPE` for what cannot be read or is no file, directory or link, and what `packEntries` throws.
 */
export function storeLayerTar(
  paths: readonly string[],
  options: StoreOptions,
  signal: AbortSignal,
): AsyncGenerator<Buffer, void, undefined> {
  const { owner, mtimeSec } = options;
  return packEntries(storeEntries(paths, options), { format: 'python', prefix: '/', owner, mtimeSec }, signal);
}

/** Gives how many bytes the files of a store path have. */
export function diskSizeOf(path: string, storeRoot: string): number {
  let total = 0;
  for (const { node } of entriesBelow(withoutSlash(path), storeRoot)) total += node.type === 'file' ? node.size : 0;
  return total;
}

/** Gives the store directory, what it lies in, and the files of store paths, as they are on this machine but owned by root. */
export function* storeEntries(
  paths: Iterable<string>,
  { storeDir, storeRoot }: Pick<StoreOptions, 'storeDir' | 'storeRoot'>,
): Generator<TreeEntry, void, undefined> {
  for (const path of ancestorsOf(storeDir)) yield { path, node: PLAIN_DIRECTORY };
  for (const path of paths) yield* entriesBelow(withoutSlash(path), storeRoot);
}

/** `nix`, then `nix/store`. */
function ancestorsOf(storeDir: string): Buffer[] {
  const parts = storeDir.split('/').filter((part) => part !== '');
  return parts.map((_, at) => Buffer.from(parts.slice(0, at + 1).join('/')));
}

/** A path and all below it, each directory in front of its files. Listing waits for the disk, but only as long as one directory takes. */
function* entriesBelow(path: Buffer, storeRoot: string): Generator<TreeEntry, void, undefined> {
  const source = Buffer.concat([Buffer.from(`${storeRoot}/`), path]);
  const found = explained(source, () => lstatSync(source));
  yield { path, node: nodeOf(source, found) };
  if (!found.isDirectory()) return;
  const names = explained(source, () => readdirSync(source, { encoding: 'buffer' })).sort(Buffer.compare);
  for (const name of names) yield* entriesBelow(joined(path, name), storeRoot);
}

function nodeOf(source: Buffer, found: Stats): TreeNode {
  const attributes = { mode: found.mode & 0o7777, uid: 0, gid: 0, mtimeSec: 0 };
  if (found.isDirectory()) return { ...attributes, type: 'directory' };
  if (found.isFile()) return { ...attributes, type: 'file', size: found.size, source: { kind: 'path', path: source } };
  if (found.isSymbolicLink()) {
    return { ...attributes, type: 'symlink', target: explained(source, () => readlinkSync(source, { encoding: 'buffer' })) };
  }
  throw unreadable(source, 'it is a device, pipe or socket, want files, directories and links');
}

function withoutSlash(path: string): Buffer {
  return Buffer.from(path.replace(/^\/+/, ''));
}

function explained<T>(source: Buffer, read: () => T): T {
  try {
    return read();
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    throw unreadable(source, code === 'ENOENT' ? 'there is no such file' : code, error);
  }
}

function unreadable(source: Buffer, why: string, cause?: unknown): RootlayerError {
  return new RootlayerError('E_RECIPE', `Cannot read store path "${escapeName(source)}": ${why}`, { cause });
}
