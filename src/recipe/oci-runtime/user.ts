import { RootlayerError } from '../../core/errors.ts';
import { recipeError } from '../recipe-error.ts';
import { bytesOf } from '../tree/pack.ts';
import type { Tree } from '../tree/tree.ts';
import type { RuntimeProcess } from './config.ts';
import { resolveInTree } from './path.ts';

/** A passwd file is read whole. */
const MAX_BYTES = 1024 * 1024;

/**
 * Gives the ids of a user as images name one: a name or number, and behind a colon a group; names are looked up in the root file system. Without a group
 * it is the one that /etc/passwd has for the user, else 0. Throws `E_RECIPE`. Source: OCI image-spec config.md, "User".
 */
export async function resolveUser(text: string, rootfs: Tree, signal: AbortSignal): Promise<RuntimeProcess['user']> {
  const [user = '', group] = text.split(':', 2);
  const accounts = await records(rootfs, '/etc/passwd', signal);
  const account = accounts.find(([name, , uid]) => (isNumber(user) ? uid === user : name === user));
  const uid = user === '' ? 0 : idOf(isNumber(user) ? user : account?.[2], 'user', user);
  if (group === undefined) return { uid, gid: idOf(account?.[3] ?? '0', 'group', user) };
  if (isNumber(group)) return { uid, gid: idOf(group, 'group', group) };
  const groups = await records(rootfs, '/etc/group', signal);
  return { uid, gid: idOf(groups.find(([name]) => name === group)?.[2], 'group', group) };
}

function isNumber(text: string): boolean {
  return /^\d+$/.test(text);
}

function idOf(text: string | undefined, what: 'user' | 'group', name: string): number {
  if (text !== undefined && isNumber(text) && Number(text) <= 4_294_967_294) return Number(text);
  throw recipeError(['user'], `there is no ${what} ${JSON.stringify(name)} in the root file system`);
}

/** The lines of a file with colons, split; none when there is no such file. */
async function records(rootfs: Tree, file: string, signal: AbortSignal): Promise<string[][]> {
  const path = resolveInTree(rootfs, file);
  const node = path === null ? undefined : rootfs.lookup(path);
  if (path === null || node?.type !== 'file') return [];
  if (node.size > MAX_BYTES)
    throw new RootlayerError('E_RECIPE', `Cannot read "${file}" of the root file system: it has ${node.size} bytes`);
  const chunks: Buffer[] = [];
  for await (const chunk of bytesOf(node, path, signal)) chunks.push(chunk);
  return Buffer.concat(chunks)
    .toString('latin1')
    .split('\n')
    .map((line) => line.split(':'));
}
