import t from 'tap';
import { type FileNode, PLAIN_DIRECTORY, Tree, type TreeNode } from '../../../src/recipe/tree/tree.ts';

const file: FileNode = {
  type: 'file',
  mode: 0o644,
  uid: 1,
  gid: 2,
  mtimeSec: 3,
  size: 0,
  source: { kind: 'bytes', bytes: Buffer.alloc(0) },
};
const dir: TreeNode = { ...PLAIN_DIRECTORY, mode: 0o700 };

const b = (text: string): Buffer => Buffer.from(text, 'latin1');

function paths(tree: Tree): string[] {
  return [...tree.entries()].map(({ path }) => path.toString('latin1'));
}

function treeOf(...entries: [string, TreeNode][]): Tree {
  const tree = new Tree();
  for (const [path, node] of entries) {
    tree.insertParents(b(path));
    tree.insert(b(path), node);
  }
  return tree;
}

t.test('Tree.entries() gives directories before what is in them, names sorted by bytes', async (t) => {
  const tree = treeOf(['b', file], ['a.c', file], ['a/z', file], ['a/\xff', file], ['a/é', file], ['Z', file]);
  t.same(paths(tree), ['', 'Z', 'a', 'a/z', 'a/é', 'a/\xff', 'a.c', 'b']);
});

t.test('Tree.entries() goes down a tree that is deeper than the call stack', async (t) => {
  const tree = new Tree();
  const parts: string[] = [];
  for (let depth = 0; depth < 3000; depth += 1) {
    parts.push('d');
    tree.insert(b(parts.join('/')), dir);
  }
  t.equal(paths(tree).length, 3001);
});

t.test('Tree.insert() keeps what is in a directory that is put again, and takes it away with anything else', async (t) => {
  const tree = treeOf(['d/x', file]);
  tree.insert(b('d'), dir);
  t.same(paths(tree), ['', 'd', 'd/x']);
  t.equal(tree.lookup(b('d'))?.mode, 0o700);
  tree.insert(b('d'), file);
  t.same(paths(tree), ['', 'd']);
});

t.test('Tree.insert() refuses a path below what is no directory, a malformed one, and a root that is none', async (t) => {
  const tree = treeOf(['f', file]);
  t.throws(() => tree.insert(b('f/x'), file), { code: 'E_CONFLICT', message: 'Cannot place "f/x": its parent is no directory' });
  t.throws(() => tree.insert(b('missing/x'), file), { code: 'E_CONFLICT' });
  for (const path of ['/x', 'x/', '.', '..', 'f/..']) t.throws(() => tree.insert(b(path), file), { code: 'E_CONFLICT' }, path);
  t.throws(() => tree.insert(b(''), file), { code: 'E_CONFLICT', message: 'Cannot place "": the root is a directory, not a file' });
});

t.test('Tree.remove() takes a node with all that is in it, and empties the root', async (t) => {
  const tree = treeOf(['d/x', file], ['e', file]);
  t.equal(tree.remove(b('d')), true);
  t.equal(tree.remove(b('d')), false);
  t.same(paths(tree), ['', 'e']);
  tree.remove(b(''));
  t.same(paths(tree), ['']);
});

t.test('Tree.merge() lets the other tree win and merges directories', async (t) => {
  const tree = treeOf(['at/d/x', file], ['at/s', file]);
  const other = treeOf(['d/y', file], ['s/z', file]);
  other.insert(b(''), dir);
  tree.merge(other, b('at'));
  t.same(paths(tree), ['', 'at', 'at/d', 'at/d/x', 'at/d/y', 'at/s', 'at/s/z']);
  t.equal(tree.lookup(b('at'))?.mode, 0o700);
});

t.test('Tree.names() gives the sorted names of a directory', async (t) => {
  const tree = treeOf(['d/y', file], ['d/x', file]);
  t.same(
    tree.names(b('d')).map((name) => name.toString()),
    ['x', 'y'],
  );
  t.same(tree.names(b('none')), []);
});
