import { assertNever } from '../../core/assert-never.ts';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { OuterMember } from '../archive/members.ts';
import type { OuterArchive } from '../archive/outer.ts';
import { cleanPath } from '../script/layer.ts';
import { PLAIN_DIRECTORY, Tree, type TreeNode } from '../tree/tree.ts';

/** Gives an image archive as the tree that `tar -x` would make of it, with all permissions for writing taken away, as the seed does. */
export function outerTree(outer: OuterArchive): Tree {
  const tree = new Tree({ ...PLAIN_DIRECTORY, mode: readOnly(PLAIN_DIRECTORY.mode) });
  for (const member of outer.members) {
    const path = cleanPath(member.name);
    tree.insertParents(path, { ...PLAIN_DIRECTORY, mode: readOnly(PLAIN_DIRECTORY.mode) });
    tree.insert(path, nodeOf(member, tree));
  }
  return tree;
}

/** `chmod ug+rw`, then `chmod a-w`. */
function readOnly(mode: number): number {
  return (mode | 0o440) & ~0o222;
}

function nodeOf(member: OuterMember, tree: Tree): TreeNode {
  const common = { mode: readOnly(member.mode), uid: 0, gid: 0, mtimeSec: member.mtimeSec };
  switch (member.type) {
    case 'directory':
      return { ...common, type: 'directory' };
    case 'file':
      return {
        ...common,
        type: 'file',
        size: member.sizeBytes,
        source: { kind: 'stream', open: (signal) => member.openRange(0, member.sizeBytes, signal) },
      };
    case 'symlink':
      return { ...common, mode: 0o777, type: 'symlink', target: transformed(member.linkName) };
    case 'hardlink': {
      const target = tree.lookup(cleanPath(member.linkName));
      if (target !== undefined && target.type !== 'directory') return target;
      throw new RootlayerError('E_ARCHIVE_LINK', `Cannot read member "${escapeName(member.name)}": it is a hard link to nothing`);
    }
    case 'char':
    case 'block':
    case 'fifo':
      throw new RootlayerError(
        'E_IMAGE_FORMAT',
        `Cannot read member "${escapeName(member.name)}": an image archive holds files, directories and links`,
      );
    default:
      return assertNever(member.type);
  }
}

const SLASH = 0x2f;

/** The seed's `--xform s:'^./'::` takes one character and a slash off the targets of links too. */
function transformed(target: Buffer): Buffer {
  return target[1] === SLASH ? target.subarray(2) : target;
}
