import type { BaseImage } from '../archive/base-archive.ts';
import { type BaseIndex, baseIndex } from '../script/base-index.ts';
import { type FileNode, PLAIN_DIRECTORY, Tree, type TreeNode } from '../tree/tree.ts';
import type { RootLayerParts } from './root-layer.ts';

const TMP = Buffer.from('tmp');
const EMPTY = Buffer.alloc(0);

/** As the seed does before a script runs: a base without `/tmp` gets one that only root may write to. */
export async function addSeedTmp(contents: Tree, base: BaseImage | null, signal: AbortSignal): Promise<void> {
  if (contents.lookup(TMP) !== undefined) return;
  if (base === null || !(await baseIndex(base, signal)).has('tmp')) contents.insert(TMP, PLAIN_DIRECTORY);
}

/**
 * Gives the tree that the seed would have found in its upper directory: the root with the mode of the contents unless the script changed it, whiteouts of mode
 * 0644 and no opaque marks, every character device as a whiteout, and deletions of `/dev`, `/proc`, `/sys` and the store where the base has them empty,
 * because the seed removes its mount points.
 */
export async function seedRootTree(
  tree: Tree,
  contents: Tree,
  { copyToRoot }: Pick<RootLayerParts, 'copyToRoot'>,
  base: BaseImage | null,
  signal: AbortSignal,
): Promise<Tree> {
  const index = base === null ? null : await baseIndex(base, signal);
  const hasItems = copyToRoot !== null && copyToRoot.length > 0;
  const result = new Tree(rootNode(tree.root, index, hasItems ? contents.root.mode : PLAIN_DIRECTORY.mode));
  addEntries(result, tree);
  for (const mountPoint of ['dev', 'proc', 'sys']) removeMountPoint(result, mountPoint, index);
  return result;
}

/** Gives a layer as the seed packs it from its upper directory: character devices as whiteouts of mode 0644, and no opaque marks. */
export function seedUpperTree(tree: Tree): Tree {
  const result = new Tree(tree.root.type === 'directory' ? tree.root : PLAIN_DIRECTORY);
  addEntries(result, tree);
  return result;
}

function addEntries(result: Tree, tree: Tree): void {
  for (const { path, node } of tree.entries()) if (path.length > 0) addEntry(result, path, node);
}

/** The engine's root begins as the base's, the seed's as a fresh directory. */
function rootNode(root: TreeNode, index: BaseIndex | null, seedMode: number): typeof PLAIN_DIRECTORY {
  const before = index?.get('')?.mode ?? PLAIN_DIRECTORY.mode;
  return { ...PLAIN_DIRECTORY, uid: root.uid, gid: root.gid, mode: root.mode === before ? seedMode : root.mode };
}

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
const SLASH = 0x2f;

const WHITEOUT_NODE: FileNode = {
  type: 'file',
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtimeSec: 0,
  size: 0,
  source: { kind: 'bytes', bytes: EMPTY },
};

function addEntry(result: Tree, path: Buffer, node: TreeNode): void {
  const slash = path.lastIndexOf(SLASH);
  const name = path.toString('latin1', slash + 1);
  if (name === OPAQUE) return;
  if (node.type === 'char')
    result.insert(Buffer.concat([path.subarray(0, slash + 1), Buffer.from(WHITEOUT), path.subarray(slash + 1)]), WHITEOUT_NODE);
  else result.insert(path, name.startsWith(WHITEOUT) ? WHITEOUT_NODE : node);
}

/** What is empty can be removed, and is; of a directory of the base that leaves a whiteout. */
function removeMountPoint(result: Tree, name: string, index: BaseIndex | null): void {
  const path = Buffer.from(name);
  const lower = index?.get(name);
  if (lower?.isDirectory === false || (lower !== undefined && !lower.isEmpty) || result.names(path).length > 0) return;
  result.remove(path);
  if (lower !== undefined) result.insert(Buffer.from(`${WHITEOUT}${name}`), WHITEOUT_NODE);
}
