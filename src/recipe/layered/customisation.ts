import path from 'node:path';
import { SEED_EPOCH } from '../build/seed-epoch.ts';
import { helperTree } from '../helpers/content.ts';
import { nixDatabase } from '../nix/database.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { packTree } from '../tree/pack.ts';
import { type LayerTar, measured } from '../tree/pack-stream.ts';
import type { Tree } from '../tree/tree.ts';
import type { LayeredArgs } from './args.ts';
import { joinContents, type LayeredItem } from './contents.ts';
import type { ReferenceGraph } from './references.ts';
import { runLayerScripts, type ScriptSurroundings } from './scripts.ts';

/** The layer on top, and whether a script had a hand in it. */
export type Customisation = { readonly tar: LayerTar; readonly wasScripted: boolean };

/** Gives the contents of a layered image, after what is given, as a tree; with the Nix database of `closure` when it is wanted. */
export async function customisationTree(args: LayeredArgs, first: readonly Tree[], closure: () => ReferenceGraph): Promise<Tree> {
  const { storeDir, storeRoot } = args;
  const items = args.contents.map((item, at): LayeredItem => {
    const content = typeof item === 'string' ? path.resolve(item) : helperTree(item);
    return { place: ['contents', at], content };
  });
  const tree = joinContents([...first.map((content): LayeredItem => ({ place: [], content })), ...items], storeDir, storeRoot);
  if (!args.includeNixDB) return tree;
  const roots = items.flatMap(({ content }) => (typeof content === 'string' && content.startsWith(`${storeDir}/`) ? [content] : []));
  tree.merge(await nixDatabase(closure(), { storeRoot, roots, registrationSec: SEED_EPOCH }));
  return tree;
}

/**
 * Gives the layer on top of a layered image: its contents as links, changed by `extraCommands` and `fakeRootCommands` in a sandbox where there are any.
 * As GNU tar writes it: names sorted and with a leading `./`, numeric owners, all times that of {@link SEED_EPOCH}, hard links as copies. What scripts
 * left behind lives as long as the scope.
 */
export async function customisationLayer(
  args: LayeredArgs,
  tree: Tree,
  surroundings: ScriptSurroundings,
  context: RecipeContext,
): Promise<Customisation> {
  const wasScripted = args.extraCommands !== '' || args.fakeRootCommands !== '';
  const final = wasScripted ? await runLayerScripts(args, tree, surroundings, context) : tree;
  const open = (signal: AbortSignal): AsyncGenerator<Buffer> =>
    packTree(final, { format: 'gnu', numericOwner: true, mtimeSec: SEED_EPOCH }, signal);
  return { tar: await measured(open, context.signal), wasScripted };
}
