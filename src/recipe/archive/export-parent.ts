import { escapeName } from '../../core/names.ts';
import { pathError } from '../../store/unpack/entry-path.ts';
import { type DirectoryNode, joined, type Tree } from '../tree/tree.ts';

/** As many as the kernel follows. Source: path_resolution(7). */
const MAX_LINKS = 40;

/**
 * Gives the real path of the directory that a member of a layer goes into. Where its path leads over a symlink of the same tree, the link is resolved below
 * the root, as chroot would; directories that are missing are made like `like`. `member` is for messages. Throws `E_ARCHIVE_PATH` when something else than
 * a directory is in the way, or links go in circles.
 */
export function resolveParent(tree: Tree, path: Buffer, like: DirectoryNode, member: Buffer): Buffer {
  if (tree.lookup(path)?.type === 'directory') return path;
  const todo = componentsOf(path).reverse();
  let real: string[] = [];
  let links = 0;
  for (let component = todo.pop(); component !== undefined; component = todo.pop()) {
    if (component === '..') {
      real.pop();
      continue;
    }
    const target = step(tree, joined(pathOf(real), Buffer.from(component, 'latin1')), like, member);
    if (target === null) {
      real.push(component);
      continue;
    }
    links += 1;
    if (links > MAX_LINKS) throw pathError('E_ARCHIVE_PATH', member, `its parent leads over more than ${MAX_LINKS} symlinks`);
    if (target[0] === SLASH) real = [];
    todo.push(...componentsOf(target).reverse());
  }
  return pathOf(real);
}

const SLASH = 0x2f;

/** Gives the target when there is a symlink, and null when there is, or now is, a directory. */
function step(tree: Tree, at: Buffer, like: DirectoryNode, member: Buffer): Buffer | null {
  const node = tree.lookup(at);
  if (node === undefined) tree.insert(at, like);
  else if (node.type === 'symlink') return node.target;
  else if (node.type !== 'directory') throw pathError('E_ARCHIVE_PATH', member, `its parent "${escapeName(at)}" is no directory`);
  return null;
}

function pathOf(parts: readonly string[]): Buffer {
  return Buffer.from(parts.join('/'), 'latin1');
}

function componentsOf(path: Buffer): string[] {
  return path
    .toString('latin1')
    .split('/')
    .filter((part) => part !== '' && part !== '.');
}
