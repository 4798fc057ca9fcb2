import { type BigIntStats, statSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import { recipeError } from '../recipe-error.ts';
import { directoryAt } from './contents-link.ts';
import { explainRead, nodeOf, readNodes } from './contents-scan.ts';
import { joined, Tree, type TreeNode } from './tree.ts';

/** How items are put into a tree. */
export type CopyOptions = {
  /**
   * False, as `rsync -k` does: a link to a directory becomes a directory with what is in the linked one. True, as `rsync -K` does: links to directories stay,
   * and what a later item has below such a link goes into the directory that it leads to.
   */
  readonly keepDirlinks: boolean;
  /** As rsync, keep a file when a later one of the same name has the same size and time, whatever is in it. */
  readonly quickCheck: boolean;
  /** The argument the items came in, for messages; one item may have come without a list. */
  readonly place: string;
  /** Hears of each item before it is added. */
  onItem(item: string): void;
  /** Hears of sockets, which are left out. */
  onSkip(path: Buffer): void;
};

/** A path of this machine, or a tree that is already made. */
export type CopyItem = string | Tree;

/**
 * Puts the contents of directories into a tree, as dockerTools does with `copyToRoot`: owner 0:0, modes, times and links as they are, later items over
 * earlier ones, the root with the mode and time of the last directory. An item that is a plain file goes into the root under its own name. Symlinks are
 * resolved within the tree, with its root as `/`; nothing outside is ever written.
 *
 * Throws `E_RECIPE` for an item that is not there; `E_CONFLICT` for a file or link in the place of a directory with something in it, for a loop of links, and for a
 * directory in the place of a link that leads out of the tree; `E_USAGE` for what cannot be read.
 */
export async function copyToRoot(tree: Tree, items: readonly CopyItem[], options: CopyOptions, signal: AbortSignal): Promise<void> {
  for (const [index, item] of items.entries()) {
    const copy = new Copy(tree, options, signal);
    if (item instanceof Tree) {
      copy.tree(item);
      continue;
    }
    options.onItem(item);
    const source = Buffer.from(item);
    const stats = await statItem(item, items.length === 1 ? [options.place] : [options.place, index]);
    const node = nodeOf(source, stats);
    if (node === null) options.onSkip(source);
    else if (node.type === 'directory') await copy.directory(source, EMPTY, owned(node), [identity(stats)]);
    else place(tree, Buffer.from(path.basename(item)), owned(node), source, options);
  }
}

const EMPTY = Buffer.alloc(0);

class Copy {
  readonly #tree: Tree;
  readonly #options: CopyOptions;
  readonly #signal: AbortSignal;

  constructor(tree: Tree, options: CopyOptions, signal: AbortSignal) {
    this.#tree = tree;
    this.#options = options;
    this.#signal = signal;
  }

  /** A tree brings its files as a directory of this machine would, but for its root, which changes nothing. */
  tree(item: Tree): void {
    const targets = new Map<string, Buffer>([['', EMPTY]]);
    for (const { path: inside, node } of item.entries()) {
      if (inside.length === 0) continue;
      const slash = inside.lastIndexOf(SLASH);
      const parent = targets.get(inside.toString('latin1', 0, Math.max(slash, 0))) ?? EMPTY;
      const wanted = joined(parent, inside.subarray(slash + 1));
      if (node.type !== 'directory') {
        place(this.#tree, wanted, node, inside, this.#options);
        continue;
      }
      const target = this.#directoryFor(wanted, inside);
      this.#tree.insert(target, node);
      targets.set(inside.toString('latin1'), target);
    }
  }

  /** `above` are the directories that are being copied: one that comes again is a loop of links. */
  async directory(source: Buffer, wanted: Buffer, node: TreeNode, above: readonly string[]): Promise<void> {
    this.#signal.throwIfAborted();
    const target = this.#directoryFor(wanted, source);
    this.#tree.insert(target, node);
    for (const child of await readNodes(source)) {
      if (child.node === null) {
        this.#options.onSkip(child.path);
        continue;
      }
      const to = joined(target, child.name);
      const linked = this.#options.keepDirlinks ? null : linkedDirectory(child.path, child.node);
      if (linked !== null) await this.#linked(child.path, to, linked, above);
      else if (child.node.type === 'directory') await this.directory(child.path, to, owned(child.node), above);
      else place(this.#tree, to, owned(child.node), child.path, this.#options);
    }
  }

  /** Real directories cannot be within themselves: only what is reached by a link is watched. */
  async #linked(source: Buffer, to: Buffer, stats: BigIntStats, above: readonly string[]): Promise<void> {
    const own = identity(stats);
    if (above.includes(own) || above.length > MAX_LINKS) {
      throw new RootlayerError('E_CONFLICT', `Cannot copy "${escapeName(source)}": its link leads to a directory that it is in`);
    }
    const node = nodeOf(source, stats);
    if (node !== null) await this.directory(source, to, owned(node), [...above, own]);
  }

  /** Where a directory goes: where it is wanted, or, with `keepDirlinks`, to where a link in that place leads. */
  #directoryFor(wanted: Buffer, source: Buffer): Buffer {
    const before = this.#tree.lookup(wanted);
    if (!this.#options.keepDirlinks || before?.type !== 'symlink') return wanted;
    const inside = directoryAt(this.#tree, wanted);
    if (inside !== null) return inside;
    const { target } = before;
    if (target[0] !== SLASH || !isHostDirectory(target)) return wanted;
    throw new RootlayerError(
      'E_CONFLICT',
      `Cannot copy "${escapeName(source)}": an earlier item left a link to "${escapeName(target)}" in its place, which is not in the layer`,
      { hint: 'copy that directory too, before this item, or set keepContentsDirlinks to false' },
    );
  }
}

/** Links on the way to a directory; the kernel follows no more than 40. */
const MAX_LINKS = 40;
const SLASH = 0x2f;

function place(tree: Tree, to: Buffer, node: TreeNode, source: Buffer, { quickCheck }: CopyOptions): void {
  const before = tree.lookup(to);
  if (before?.type === 'directory' && tree.names(to).length > 0) {
    const what = node.type === 'symlink' ? 'a symlink' : `a ${node.type}`;
    throw new RootlayerError(
      'E_CONFLICT',
      `Cannot copy "${escapeName(source)}": ${what} cannot take the place of a directory with something in it`,
    );
  }
  tree.insert(to, quickCheck ? withBytesOf(before, node) : node);
}

/** The attributes of the new file, the bytes of the one before. Source: rsync(1), "--size-only" and the quick check. */
function withBytesOf(before: TreeNode | undefined, node: TreeNode): TreeNode {
  const isSame = before?.type === 'file' && node.type === 'file' && before.size === node.size && before.mtimeSec === node.mtimeSec;
  return isSame ? { ...node, source: before.source } : node;
}

function owned<T extends TreeNode>(node: T): T {
  return { ...node, uid: 0, gid: 0 };
}

/** Gives what a symlink to a directory leads to, null for anything else. */
function linkedDirectory(source: Buffer, node: TreeNode): BigIntStats | null {
  if (node.type !== 'symlink') return null;
  try {
    const stats = statSync(source, { bigint: true });
    return stats.isDirectory() ? stats : null;
  } catch {
    // It leads nowhere, or where we may not look: it stays a link.
    return null;
  }
}

function isHostDirectory(target: Buffer): boolean {
  try {
    return statSync(target).isDirectory();
  } catch {
    return false;
  }
}

function identity(stats: BigIntStats): string {
  return `${stats.dev}:${stats.ino}`;
}

async function statItem(item: string, at: readonly PropertyKey[]): Promise<BigIntStats> {
  try {
    return await explainRead(Buffer.from(item), () => stat(item, { bigint: true }));
  } catch (error) {
    throw recipeError(at, `there is no file or directory ${JSON.stringify(item)} that you may read`, undefined, error);
  }
}
