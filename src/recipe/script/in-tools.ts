import { Readable } from 'node:stream';
import type { JobSubmission, Session } from '../../api/session.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { packEntries } from '../tree/pack.ts';
import { joined, PLAIN_DIRECTORY, Tree, type TreeEntry } from '../tree/tree.ts';
import { runForLayer } from './engine-job.ts';

/** Where a job on the tools image works: nothing that an image is likely to have. */
export const WORK_DIRECTORY = 'rootlayer-build';

/** What runs on a tree. */
export type TreeScript = {
  /** Bash, as it is: it begins in the tree's own directory. */
  readonly commands: string;
  /** An image in the engine with a shell: see `toolsImage`. */
  readonly tools: string;
  readonly env?: Record<string, string>;
  /** Options of the job such as limits; `from`, `script`, `env` and `contextId` are set here. */
  readonly job?: Partial<JobSubmission>;
  /** The directory below {@link WORK_DIRECTORY} that the tree is, `layer` when left out. */
  readonly directory?: string;
  /** What the commands can see beside the tree: paths are those of the sandbox. */
  readonly also?: Iterable<TreeEntry>;
};

/** A tree that a script has left; its bytes live until it is disposed of. */
export interface ScriptedTree extends AsyncDisposable {
  readonly tree: Tree;
}

/**
 * Runs commands as root of a sandbox in a directory with a tree's files, and gives the tree that they leave: owners, modes, times and attributes as they are.
 * Whiteouts and devices are not shown to the commands: they are kept aside and put back where nothing else has taken their place. Throws as `runJob`.
 */
export async function runOnTree(session: Session, tree: Tree, script: TreeScript, context: RecipeContext): Promise<ScriptedTree> {
  const at = Buffer.from(`${WORK_DIRECTORY}/${script.directory ?? 'layer'}`);
  const { shown, aside } = setAside(tree);
  const contextId = await upload(session, [...contextEntries(script.also ?? [], EMPTY), ...contextEntries(shown, at)], context.signal);
  const text = `cd '/${at.toString()}'\n${script.commands}\n`;
  const request = { ...script.job, from: script.tools, script: Buffer.from(text).toString('base64'), env: script.env ?? {}, contextId };
  const layer = await runForLayer(session, request, context);
  const result = subtree(layer.tree, at);
  putBack(result, aside);
  return { tree: result, [Symbol.asyncDispose]: async () => await layer[Symbol.asyncDispose]() };
}

/** Uploads a tree for a job, whose script finds it below a path of its root directory; its own root's attributes go only to a directory of its own. */
export async function uploadTree(session: Session, tree: Tree, at: string, signal: AbortSignal): Promise<string> {
  return await upload(session, contextEntries(tree.entries(), Buffer.from(at)), signal);
}

async function upload(session: Session, entries: Iterable<TreeEntry>, signal: AbortSignal): Promise<string> {
  const tar = packEntries(entries, { format: 'plain' }, signal);
  return await session.addContext(Readable.from(tar, { objectMode: false }), signal);
}

/** Gives what is below a path as a tree of its own; an empty one where there is no directory. */
export function subtree(tree: Tree, at: Buffer): Tree {
  const root = tree.lookup(at);
  const found = new Tree(root?.type === 'directory' ? root : PLAIN_DIRECTORY);
  if (root?.type !== 'directory') return found;
  for (const { path, node } of tree.entries(at)) if (path.length > at.length) found.insert(path.subarray(at.length + 1), node);
  return found;
}

const EMPTY = Buffer.alloc(0);
const EXACT = Buffer.from('exact');
const WHITEOUT = Buffer.from('.wh.');
const SLASH = 0x2f;

/** Engines take such names for deletions, and sandboxes cannot make devices. */
function setAside(tree: Tree): { shown: TreeEntry[]; aside: TreeEntry[] } {
  const shown: TreeEntry[] = [];
  const aside: TreeEntry[] = [];
  for (const entry of tree.entries()) (isKeptAside(entry) ? aside : shown).push(entry);
  return { shown, aside };
}

function isKeptAside({ path, node }: TreeEntry): boolean {
  return node.type === 'char' || node.type === 'block' || baseName(path).subarray(0, WHITEOUT.length).equals(WHITEOUT);
}

function baseName(path: Buffer): Buffer {
  return path.subarray(path.lastIndexOf(SLASH) + 1);
}

function* contextEntries(entries: Iterable<TreeEntry>, at: Buffer): Generator<TreeEntry, void, undefined> {
  const top = joined(EXACT, at);
  for (let slash = at.indexOf(SLASH); slash >= 0; slash = at.indexOf(SLASH, slash + 1)) {
    yield { path: joined(EXACT, at.subarray(0, slash)), node: PLAIN_DIRECTORY };
  }
  for (const { path, node } of entries) if (path.length > 0 || at.length > 0) yield { path: joined(top, path), node };
}

/** A whiteout for what is there again would delete it: of a directory only what lower layers have in it is hidden. */
function putBack(tree: Tree, aside: readonly TreeEntry[]): void {
  for (const { path, node } of aside) {
    const parent = path.subarray(0, Math.max(path.lastIndexOf(SLASH), 0));
    if (tree.lookup(parent)?.type !== 'directory' || tree.lookup(path) !== undefined) continue;
    const hidden = hiddenBy(parent, baseName(path));
    const now = hidden === null ? undefined : tree.lookup(hidden);
    if (hidden === null || now === undefined) tree.insert(path, node);
    else if (now.type === 'directory') tree.insert(joined(hidden, OPAQUE), node);
  }
}

const OPAQUE = Buffer.from('.wh..wh..opq');

/** Gives the path that a whiteout is for, null for what is none. */
function hiddenBy(parent: Buffer, name: Buffer): Buffer | null {
  const isWhiteout = name.subarray(0, WHITEOUT.length).equals(WHITEOUT) && !name.equals(OPAQUE);
  return isWhiteout ? joined(parent, name.subarray(WHITEOUT.length)) : null;
}
