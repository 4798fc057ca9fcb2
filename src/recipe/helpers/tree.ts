import { recipeError } from '../recipe-error.ts';
import { PLAIN_DIRECTORY, Tree } from '../tree/tree.ts';

const OWNED = { uid: 0, gid: 0, mtimeSec: 0 } as const;

/** Gives a tree of text files, mode 0644, by their paths. */
export function textTree(files: Readonly<Record<string, string>>): Tree {
  const tree = new Tree();
  for (const [name, text] of Object.entries(files)) addText(tree, name, text, 0o644);
  return tree;
}

/** Puts a text file into a tree, with the directories it lies in. */
export function addText(tree: Tree, name: string, text: string, mode: number): void {
  const path = Buffer.from(name);
  const bytes = Buffer.from(text);
  tree.insertParents(path, PLAIN_DIRECTORY);
  tree.insert(path, { ...OWNED, type: 'file', mode, size: bytes.length, source: { kind: 'bytes', bytes } });
}

/** Gives a tree of symlinks: paths and what they lead to. Throws `E_RECIPE` for one that would lead to itself. */
export function linkTree(links: Readonly<Record<string, string>>): Tree {
  const tree = new Tree();
  for (const [name, target] of Object.entries(links)) {
    if (target === `/${name}`) throw recipeError([], `the link ${target} would lead to itself`, 'name where the program itself is');
    const path = Buffer.from(name);
    tree.insertParents(path, PLAIN_DIRECTORY);
    tree.insert(path, { ...OWNED, type: 'symlink', mode: 0o777, target: Buffer.from(target) });
  }
  return tree;
}
