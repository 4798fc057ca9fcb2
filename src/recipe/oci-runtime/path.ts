import { joined, type Tree } from '../tree/tree.ts';

/** As many as the kernel follows. Source: path_resolution(7). */
const MAX_LINKS = 40;

/** Gives the path in a tree that an absolute path leads to, symlinks resolved below the root; null when there is nothing. */
export function resolveInTree(tree: Tree, file: string): Buffer | null {
  const todo = componentsOf(Buffer.from(file)).reverse();
  let real: Buffer = Buffer.alloc(0);
  let links = 0;
  for (let name = todo.pop(); name !== undefined; name = todo.pop()) {
    if (name === '..') {
      real = real.subarray(0, Math.max(real.lastIndexOf(SLASH), 0));
      continue;
    }
    const at = joined(real, Buffer.from(name, 'latin1'));
    const node = tree.lookup(at);
    if (node === undefined) return null;
    if (node.type !== 'symlink') {
      real = at;
      continue;
    }
    links += 1;
    if (links > MAX_LINKS) return null;
    if (node.target[0] === SLASH) real = Buffer.alloc(0);
    todo.push(...componentsOf(node.target).reverse());
  }
  return real;
}

const SLASH = 0x2f;

function componentsOf(path: Buffer): string[] {
  return path
    .toString('latin1')
    .split('/')
    .filter((part) => part !== '' && part !== '.');
}
