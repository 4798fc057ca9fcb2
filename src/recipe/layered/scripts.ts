import path from 'node:path';
import { Readable } from 'node:stream';
import type { Session } from '../../api/session.ts';
import type { Scope } from '../../core/scope.ts';
import type { BaseImage } from '../archive/base-archive.ts';
import { SEED_EPOCH } from '../build/seed-epoch.ts';
import { quoted } from '../nix/shell-rc.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { runForLayer } from '../script/engine-job.ts';
import { runOnTree } from '../script/in-tools.ts';
import { toolsImage } from '../script/tools-image.ts';
import { packEntries } from '../tree/pack.ts';
import { joined, Tree, type TreeEntry } from '../tree/tree.ts';
import type { LayeredArgs } from './args.ts';
import { storeEntries } from './files.ts';
import { mentionsInText } from './mentions.ts';
import type { ReferenceGraph } from './references.ts';

/** What the scripts of a layered image work with. */
export type ScriptSurroundings = {
  readonly base: BaseImage | null;
  /** Gives all store paths that the image needs, and what is mentioned. */
  closureWith(mentioned: Iterable<string>): ReferenceGraph;
  /** Holds what the scripts leave behind. */
  readonly scope: Scope;
};

/**
 * Runs `extraCommands`, then `fakeRootCommands`, as root of a sandbox, each beginning in the layer's directory; with `enableFakechroot` the second one sees
 * the layer as `/`. Store paths are where they belong when a script mentions them, or sees the layer as `/`. Gives the layer as they leave it; owners are
 * those that they set. Throws what the jobs fail with.
 */
export async function runLayerScripts(
  args: LayeredArgs,
  tree: Tree,
  surroundings: ScriptSurroundings,
  context: RecipeContext,
): Promise<Tree> {
  const session = await context.session();
  const { extraCommands, fakeRootCommands, enableFakechroot, isolation } = args;
  let tools: string | null = null;
  const run = async (from: Tree, commands: string): Promise<Tree> => {
    tools ??= await toolsImage(session, args.tools, baseOf(args, surroundings.base), context);
    const script = { commands, tools, also: storeFor(args, commands, surroundings), env: ENV, job: { isolation } };
    return surroundings.scope.use(await runOnTree(session, from, script, context)).tree;
  };
  const first = extraCommands === '' ? tree : await run(tree, extraCommands);
  if (fakeRootCommands === '') return first;
  return enableFakechroot ? await runAsRoot(session, args, first, surroundings, context) : await run(first, fakeRootCommands);
}

function baseOf({ fromImage }: LayeredArgs, image: BaseImage | null): Parameters<typeof toolsImage>[2] {
  if (fromImage === null || image === null) return null;
  return { file: path.resolve(fromImage), image };
}

/** Nothing is sent that no script asks for: a closure may be large. */
function storeFor(args: LayeredArgs, commands: string, { closureWith }: ScriptSurroundings): Iterable<TreeEntry> {
  const mentioned = mentionsInText(commands, args.storeDir);
  return mentioned.size === 0 ? [] : storeEntries(closureWith(mentioned).keys(), args);
}

/** The layer's own files are the changes of the job, so what is packed is the upper directory as a whole. */
async function runAsRoot(
  session: Session,
  args: LayeredArgs,
  tree: Tree,
  { closureWith, scope }: ScriptSurroundings,
  context: RecipeContext,
): Promise<Tree> {
  const { storeDir, fakeRootCommands, isolation } = args;
  const store = storeEntries(closureWith(mentionsInText(fakeRootCommands, storeDir)).keys(), args);
  const tar = packEntries(contextEntries(tree, store), { format: 'plain', mtimeSec: UNLIKE_TOOLS_SEC }, context.signal);
  const contextId = await session.addContext(Readable.from(tar, { objectMode: false }), context.signal);
  // What need not come back is taken away where it is.
  const script = Buffer.from(`${fakeRootCommands}\ncd / && rm -rf -- ${quoted(storeDir)}\n`).toString('base64');
  const from = await toolsImage(session, args.tools, null, context);
  const layer = scope.use(await runForLayer(session, { from, script, env: ENV, contextId, isolation }, context));
  return ownFiles(layer.tree, tree, storeDir);
}

const ENV = { SOURCE_DATE_EPOCH: String(SEED_EPOCH) };
const EXACT = Buffer.from('exact');

/** What is equal to a file among the tools would be no change of the job: no file of an image is likely to have this time. */
const UNLIKE_TOOLS_SEC = 86_399;
const WHITEOUT = Buffer.from('.wh.');

function* contextEntries(tree: Tree, store: Iterable<TreeEntry>): Generator<TreeEntry, void, undefined> {
  for (const { path: at, node } of store) yield { path: joined(EXACT, at), node };
  for (const { path: at, node } of tree.entries()) if (at.length > 0) yield { path: joined(EXACT, at), node };
}

/** Gives the layer without what belongs to the sandbox: `/proc`, `/sys`, the store, and deletions of files of the tools. */
function ownFiles(result: Tree, before: Tree, storeDir: string): Tree {
  const kept = new Tree(result.root.type === 'directory' ? result.root : undefined);
  for (const { path: at, node } of result.entries()) if (at.length > 0 && !isWhiteout(at)) kept.insert(at, node);
  for (const own of ['proc', 'sys', storeDir.slice(1)]) kept.remove(Buffer.from(own));
  for (let at = path.posix.dirname(storeDir.slice(1)); at !== '.'; at = path.posix.dirname(at)) {
    const parent = Buffer.from(at);
    if (kept.names(parent).length === 0 && before.lookup(parent) === undefined) kept.remove(parent);
  }
  return kept;
}

function isWhiteout(at: Buffer): boolean {
  const start = at.lastIndexOf('/') + 1;
  return at.subarray(start, start + WHITEOUT.length).equals(WHITEOUT);
}
