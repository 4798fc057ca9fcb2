import type { Tree } from './tree.ts';

/** As the kernel: a path may lead over so many links. Source: path_resolution(7). */
const MAX_LINKS = 40;

/**
 * Gives the path of the directory that a path of a tree leads to when every symlink on the way is followed, with the tree's root as `/`, out of which
 * nothing leads. Null when it leads to no directory.
 */
export function directoryAt(tree: Tree, path: Buffer): Buffer | null {
  const found = resolved(tree, path);
  return found !== null && tree.lookup(found)?.type === 'directory' ? found : null;
}

/** Gives the path of what a path of a tree leads to, like {@link directoryAt}; null when it leads nowhere. */
export function resolved(tree: Tree, path: Buffer): Buffer | null {
  let left = parts(path);
  let links = 0;
  const done: string[] = [];
  for (let part = left.shift(); part !== undefined; part = left.shift()) {
    if (part === '..') done.pop();
    if (part === '..') continue;
    const node = tree.lookup(joinedParts([...done, part]));
    if (node?.type === 'symlink') {
      links += 1;
      if (links > MAX_LINKS) return null;
      if (node.target[0] === SLASH) done.length = 0;
      left = [...parts(node.target), ...left];
    } else if (node?.type === 'directory' || (node !== undefined && left.length === 0)) done.push(part);
    else return null;
  }
  return joinedParts(done);
}

const SLASH = 0x2f;

function parts(path: Buffer): string[] {
  return path
    .toString('latin1')
    .split('/')
    .filter((part) => part !== '' && part !== '.');
}

function joinedParts(names: readonly string[]): Buffer {
  return Buffer.from(names.join('/'), 'latin1');
}
