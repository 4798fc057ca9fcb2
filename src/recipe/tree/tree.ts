import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { Xattr } from '../../core/tar/entry.ts';

/** Where the bytes of a file come from: a path of this machine, memory, or whatever opens (part of an archive), as often as wanted. */
export type FileSource =
  | { readonly kind: 'path'; readonly path: Buffer }
  | { readonly kind: 'bytes'; readonly bytes: Buffer }
  | { readonly kind: 'stream'; open(signal: AbortSignal): AsyncIterable<Buffer> };

/** What every node has. Modes are permission bits only, times whole seconds since 1970. */
export type NodeAttributes = {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** As a tar names the owner; none when left out. */
  readonly uname?: string;
  readonly gname?: string;
  readonly mtimeSec: number;
  readonly xattrs?: readonly Xattr[];
};

/** A regular file. The same node at two places of a tree is one file with two hard links. */
export type FileNode = NodeAttributes & { readonly type: 'file'; readonly size: number; readonly source: FileSource };

/** A directory; what is in it is the tree's. */
export type DirectoryNode = NodeAttributes & { readonly type: 'directory' };

/** A symlink, with its target as bytes. */
export type SymlinkNode = NodeAttributes & { readonly type: 'symlink'; readonly target: Buffer };

/** A device node. */
export type DeviceNode = NodeAttributes & { readonly type: 'char' | 'block'; readonly major: number; readonly minor: number };

/** A named pipe. */
export type FifoNode = NodeAttributes & { readonly type: 'fifo' };

/** One file of a tree, without its name and without what is in it. */
export type TreeNode = FileNode | DirectoryNode | SymlinkNode | DeviceNode | FifoNode;

/** A node at its place: the path is relative to the root, without a first or final slash, and empty for the root itself. */
export type TreeEntry = { readonly path: Buffer; readonly node: TreeNode };

/** A directory as every new one is: mode 0755, owner 0:0, from 1970. */
export const PLAIN_DIRECTORY: DirectoryNode = { type: 'directory', mode: 0o755, uid: 0, gid: 0, mtimeSec: 0 };

/** Names are kept as latin1 text: one character a byte, so that their order is that of the bytes. */
type Place = { node: TreeNode; readonly children: Map<string, Place> };

/**
 * Files to be packed into a layer: what they are in memory, their bytes where they lie. Paths are relative and without `.`, `..` and empty parts.
 * Nothing here follows a symlink.
 */
export class Tree {
  readonly #root: Place;

  constructor(root: DirectoryNode = PLAIN_DIRECTORY) {
    this.#root = place(root);
  }

  /** The root directory's own node. */
  get root(): TreeNode {
    return this.#root.node;
  }

  /** Puts a node in place of whatever is there. A directory keeps what is in it when a directory is put in its place. Throws `E_CONFLICT` when the parent is no directory. */
  insert(path: Buffer, node: TreeNode): void {
    if (path.length === 0) {
      this.#root.node = directoryOnly(path, node);
      return;
    }
    const { parent, name } = this.#parentOf(path);
    const before = parent.children.get(name);
    if (before !== undefined && before.node.type === 'directory' && node.type === 'directory') before.node = node;
    else parent.children.set(name, place(node));
  }

  /** Makes the directories on the way to a path that are missing, all like the one given. Throws `E_CONFLICT` when something else is in the way. */
  insertParents(path: Buffer, like: DirectoryNode = PLAIN_DIRECTORY): void {
    for (let slash = path.indexOf(SLASH); slash >= 0; slash = path.indexOf(SLASH, slash + 1)) {
      const parent = path.subarray(0, slash);
      if (this.lookup(parent) === undefined) this.insert(parent, like);
    }
  }

  /** Gives the node at a path, undefined when there is none. */
  lookup(path: Buffer): TreeNode | undefined {
    return this.#find(path)?.node;
  }

  /** Gives the names in a directory, sorted by their bytes; none for what is no directory. */
  names(path: Buffer): Buffer[] {
    return sortedNames(this.#find(path)).map((name) => Buffer.from(name, 'latin1'));
  }

  /** Takes a node away with all that is in it; tells whether there was one. The root stays, empty. */
  remove(path: Buffer): boolean {
    if (path.length === 0) {
      this.#root.children.clear();
      return true;
    }
    const found = this.#find(path);
    if (found === undefined) return false;
    const { parent, name } = this.#parentOf(path);
    return parent.children.delete(name);
  }

  /** Puts another tree below a path, whose directory takes the attributes of that tree's root; nodes of the other tree win. Throws as {@link insert}. */
  merge(other: Tree, at: Buffer = EMPTY): void {
    for (const { path, node } of other.entries()) this.insert(joined(at, path), node);
  }

  /** Gives every node, the root first, each directory before what is in it, names sorted by their bytes: the order of `tar --sort=name`. */
  *entries(from: Buffer = EMPTY): Generator<TreeEntry, void, undefined> {
    const start = this.#find(from);
    if (start === undefined) return;
    // No recursion: a tree may be deeper than the call stack.
    const stack: { readonly path: Buffer; readonly at: Place }[] = [{ path: from, at: start }];
    for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
      const { path, at } = next;
      yield { path, node: at.node };
      for (const name of sortedNames(at).reverse()) {
        const child = at.children.get(name);
        if (child !== undefined) stack.push({ path: joined(path, Buffer.from(name, 'latin1')), at: child });
      }
    }
  }

  #find(path: Buffer): Place | undefined {
    let found: Place | undefined = this.#root;
    if (path.length === 0) return found;
    for (const name of path.toString('latin1').split('/')) found = found?.children.get(name);
    return found;
  }

  #parentOf(path: Buffer): { parent: Place; name: string } {
    const slash = path.lastIndexOf(SLASH);
    const parent = this.#find(path.subarray(0, Math.max(slash, 0)));
    const name = path.toString('latin1', slash + 1);
    if (slash === 0 || name === '' || name === '.' || name === '..')
      throw new RootlayerError('E_CONFLICT', `Cannot place "${escapeName(path)}": it is no path of a tree`);
    if (parent?.node.type === 'directory') return { parent, name };
    throw new RootlayerError('E_CONFLICT', `Cannot place "${escapeName(path)}": its parent is no directory`);
  }
}

/** Joins two relative paths, of which either may be empty. */
export function joined(parent: Buffer, path: Buffer): Buffer {
  if (parent.length === 0) return path;
  return path.length === 0 ? parent : Buffer.concat([parent, SLASH_BYTES, path]);
}

const EMPTY = Buffer.alloc(0);
const SLASH = 0x2f;
const SLASH_BYTES = Buffer.from('/');

/** What is no directory never has any: images have many files, and each map takes room. */
const NO_CHILDREN: Map<string, Place> = new Map();

function place(node: TreeNode): Place {
  return { node, children: node.type === 'directory' ? new Map() : NO_CHILDREN };
}

function sortedNames(at: Place | undefined): string[] {
  return at === undefined ? [] : [...at.children.keys()].sort();
}

function directoryOnly(path: Buffer, node: TreeNode): TreeNode {
  if (node.type === 'directory') return node;
  throw new RootlayerError('E_CONFLICT', `Cannot place "${escapeName(path)}": the root is a directory, not a ${node.type}`);
}
