import { lstatSync, readdirSync, readlinkSync, type Stats, statSync } from 'node:fs';
import path from 'node:path';
import { escapeName } from '../../core/names.ts';
import { recipeError } from '../recipe-error.ts';
import { joined, PLAIN_DIRECTORY, Tree, type TreeNode } from '../tree/tree.ts';
import { storePathOf } from './references.ts';

/** A path of the recipe's contents with its place there, or a tree that is already made. */
export type LayeredItem = { readonly place: readonly PropertyKey[]; readonly content: string | Tree };

/**
 * Joins contents in one tree: a directory of the store becomes directories and links to its files, so that the files themselves stay in layers of their
 * own; its links are kept as they are. What lies elsewhere is copied, because no other layer holds it: files with their modes, owner 0:0. A file goes to the
 * root under its own name. Where two items have a file of one name, the first stays. Throws `E_RECIPE` for a missing path, and where one item has a
 * directory and another a file. Source: nixpkgs, symlinkJoin; lndir(1).
 */
export function joinContents(items: readonly LayeredItem[], storeDir: string, storeRoot: string): Tree {
  const tree = new Tree();
  for (const { place, content } of items) {
    if (typeof content === 'string') addPath(tree, place, { content, storeDir, storeRoot });
    else for (const entry of content.entries()) if (entry.path.length > 0) add(tree, place, entry.path, entry.node);
  }
  return tree;
}

type Item = { readonly content: string; readonly storeDir: string; readonly storeRoot: string };

function addPath(tree: Tree, place: readonly PropertyKey[], { content, storeDir, storeRoot }: Item): void {
  const isStored = storePathOf(content, storeDir) !== null;
  const source = isStored ? resolveStored(place, content, { storeDir, storeRoot }) : content;
  const found = statOf(place, source);
  const make = isStored ? linkTo : copyOf;
  if (!found.isDirectory())
    add(tree, place, Buffer.from(path.basename(content)), make(place, Buffer.from(source), Buffer.from(content), found));
  else addBelow(tree, place, { source: Buffer.from(source), name: Buffer.from(content), at: Buffer.alloc(0) }, make);
}

/** Links that the recipe names are followed: an absolute one leads to another store path, which may lie elsewhere on this machine. */
function resolveStored(place: readonly PropertyKey[], content: string, { storeDir, storeRoot }: Omit<Item, 'content'>): string {
  let name = content;
  for (let links = 0; links < MAX_LINKS; links += 1) {
    if (lstatSync(storeRoot + name, { throwIfNoEntry: false })?.isSymbolicLink() !== true) return storeRoot + name;
    name = path.posix.resolve(path.posix.dirname(name), readlinkSync(storeRoot + name));
    if (storePathOf(name, storeDir) === null)
      throw recipeError(place, `${JSON.stringify(content)} leads out of ${storeDir}, to ${JSON.stringify(name)}`);
  }
  throw recipeError(place, `${JSON.stringify(content)} leads to itself`);
}

/** As many as the kernel follows. */
const MAX_LINKS = 40;

/** Where a directory lies, what it is called in the image's store, and where its files go. */
type Below = { readonly source: Buffer; readonly name: Buffer; readonly at: Buffer };

type Make = (place: readonly PropertyKey[], source: Buffer, name: Buffer, found: Stats) => TreeNode;

function addBelow(tree: Tree, place: readonly PropertyKey[], { source, name, at }: Below, make: Make): void {
  for (const entry of readdirSync(source, { encoding: 'buffer' }).sort(Buffer.compare)) {
    const below = { source: joined(source, entry), name: joined(name, entry), at: joined(at, entry) };
    const found = lstatSync(below.source);
    if (found.isDirectory()) {
      add(tree, place, below.at, PLAIN_DIRECTORY);
      addBelow(tree, place, below, make);
    } else add(tree, place, below.at, make(place, below.source, below.name, found));
  }
}

function add(tree: Tree, place: readonly PropertyKey[], at: Buffer, node: TreeNode): void {
  const before = tree.lookup(at);
  if (before === undefined) tree.insert(at, node);
  else if ((before.type === 'directory') !== (node.type === 'directory')) {
    const [is, was] = node.type === 'directory' ? ['directory', 'file'] : ['file', 'directory'];
    throw recipeError(place, `it has a ${is} "${escapeName(at)}" where an item before it has a ${was}`);
  }
}

function linkTo(_place: readonly PropertyKey[], source: Buffer, name: Buffer, found: Stats): TreeNode {
  const target = found.isSymbolicLink() ? readlinkSync(source, { encoding: 'buffer' }) : name;
  return { ...OWNED, type: 'symlink', mode: 0o777, target };
}

function copyOf(place: readonly PropertyKey[], source: Buffer, _name: Buffer, found: Stats): TreeNode {
  if (found.isSymbolicLink()) return { ...OWNED, type: 'symlink', mode: 0o777, target: readlinkSync(source, { encoding: 'buffer' }) };
  if (found.isFile())
    return { ...OWNED, type: 'file', mode: found.mode & 0o7777, size: found.size, source: { kind: 'path', path: source } };
  throw recipeError(place, `"${escapeName(source)}" is a device, pipe or socket, want files, directories and links`);
}

const OWNED = { uid: 0, gid: 0, mtimeSec: 0 } as const;

/** A link that the recipe names is followed. */
function statOf(place: readonly PropertyKey[], source: string): Stats {
  try {
    return statSync(source);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    throw recipeError(
      place,
      `${JSON.stringify(source)}: ${code === 'ENOENT' ? 'there is no such file or directory' : code}`,
      undefined,
      error,
    );
  }
}
