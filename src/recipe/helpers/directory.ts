import { createWriteStream } from 'node:fs';
import { chmod, link, lutimes, mkdir, symlink } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import { bytesOf } from '../tree/pack.ts';
import { type FileNode, joined, type Tree, type TreeNode } from '../tree/tree.ts';

/**
 * Writes a tree into an empty directory, as files of the user who calls: modes and times as the tree says, owners not, and so no set-id bits, which would
 * speak of another owner. Throws `E_RECIPE` for devices and pipes.
 */
export async function writeTree(tree: Tree, dir: string, signal: AbortSignal): Promise<void> {
  const top = Buffer.from(dir);
  const directories: { path: Buffer; node: TreeNode }[] = [];
  // A node at several places is a hard link: many links to a large file must not become many large files.
  const written = new Map<TreeNode, Buffer>();
  for (const { path, node } of tree.entries()) {
    const target = joined(top, path);
    if (node.type === 'directory') {
      if (path.length > 0) await mkdir(target, { mode: 0o700 });
      directories.push({ path: target, node });
    } else {
      const first = written.get(node);
      if (first !== undefined && (await linked(first, target))) continue;
      await writeNode(target, node, signal);
      await lutimes(target, node.mtimeSec, node.mtimeSec);
      written.set(node, target);
    }
  }
  // A directory's mode may forbid writing into it, and each file in it would change its time.
  for (const { path, node } of directories.reverse()) {
    await chmod(path, node.mode & ~SET_ID);
    await lutimes(path, node.mtimeSec, node.mtimeSec);
  }
}

/** False where the file has all the links that its filesystem allows: the next one begins with a copy. */
async function linked(first: Buffer, target: Buffer): Promise<boolean> {
  try {
    await link(first, target);
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EMLINK') return false;
    throw error;
  }
}

/** An archive of somebody's must not make programs that run as the caller. */
const SET_ID = 0o6000;

async function writeNode(path: Buffer, node: TreeNode, signal: AbortSignal): Promise<void> {
  if (node.type === 'symlink') await symlink(node.target, path);
  else if (node.type === 'file') await writeFile(path, node, signal);
  else throw new RootlayerError('E_RECIPE', `Cannot write "${escapeName(path)}": it is a ${node.type}, want files, directories and links`);
}

async function writeFile(path: Buffer, node: FileNode, signal: AbortSignal): Promise<void> {
  await pipeline(Readable.from(bytesOf(node, path, signal), { objectMode: false }), createWriteStream(path, { flags: 'wx', mode: 0o600 }), {
    signal,
  });
  await chmod(path, node.mode & ~SET_ID);
}
