import type { z } from 'zod';
import type { CompatChoice } from '../../core/job.ts';
import { escapeName } from '../../core/names.ts';
import { LAYER_VERSION } from '../../image/root-layer.ts';
import { helperTree } from '../helpers/content.ts';
import { addText } from '../helpers/tree.ts';
import type { RecipeContext } from '../recipe-context.ts';
import type { contentsSchema } from '../script/args.ts';
import { type CopyItem, copyToRoot } from '../tree/contents.ts';
import type { PackOptions } from '../tree/pack.ts';
import type { LayerTar } from '../tree/pack-stream.ts';
import { type DirectoryNode, type FileNode, PLAIN_DIRECTORY, Tree } from '../tree/tree.ts';
import { jshonText } from './seed-json.ts';

/** A layer that has been made and can be packed again, with more behind it. Dispose it to free what its bytes are in. */
export interface LayerDraft extends AsyncDisposable {
  readonly tree: Tree;
  readonly packing: PackOptions;
  readonly tar: LayerTar;
}

/** The result of mkPureLayer and mkRootLayer: a directory of three files. Dispose it to free what its bytes are in. */
export interface LayerDirectory extends AsyncDisposable {
  /** What the directory is called. */
  readonly fileName: string;
  /** `layer.tar`, `json` and `VERSION`. */
  readonly tree: Tree;
  readonly layer: LayerTar;
  /** The text of `json`. */
  readonly json: string;
}

/** Gives a draft as the directory that dockerTools makes of a layer. */
export function layerDirectory(name: string, draft: LayerDraft, baseJson: Readonly<Record<string, unknown>>): LayerDirectory {
  const json = jshonText({ ...baseJson, checksum: draft.tar.tarsum });
  const tree = new Tree(PLAIN_DIRECTORY);
  addText(tree, 'json', json, 0o644);
  addText(tree, 'VERSION', LAYER_VERSION, 0o644);
  tree.insert(Buffer.from('layer.tar'), layerFile(draft.tar));
  return {
    ...{ fileName: `docker-layer-${name}`, tree, json, layer: draft.tar },
    [Symbol.asyncDispose]: async () => await draft[Symbol.asyncDispose](),
  };
}

/** Gives a layer as a file of a tree. */
export function layerFile({ sizeBytes: size, open }: LayerTar): FileNode {
  return { ...PLAIN_DIRECTORY, mode: 0o644, type: 'file', size, source: { kind: 'stream', open } };
}

/** How contents are to be put together. */
export type ContentsOptions = {
  readonly copyToRoot: z.output<typeof contentsSchema>;
  readonly keepContentsDirlinks: boolean;
  readonly compat: CompatChoice;
  /** The argument they came in. */
  readonly place?: string;
};

/**
 * Gives the contents of a layer as a tree, owner 0:0. With `compat` "seed" its root has the mode of the last item, and user and group may write to it;
 * otherwise 0755, whatever the items' own roots allow.
 */
export async function contentsTree(options: ContentsOptions, { note, signal }: Pick<RecipeContext, 'note' | 'signal'>): Promise<Tree> {
  const { copyToRoot: items, compat, keepContentsDirlinks: keepDirlinks, place = 'copyToRoot' } = options;
  const tree = new Tree(PLAIN_DIRECTORY);
  const isSeed = compat === 'seed';
  const rules = {
    keepDirlinks,
    quickCheck: isSeed,
    place,
    onItem: (item: string): void => note(`Adding ${item}`),
    onSkip: (skipped: Buffer): void => note(`warning: "${escapeName(skipped)}" is a socket and was left out`),
  };
  if (items !== null && items.length > 0) note('Adding contents...');
  await copyToRoot(tree, (items ?? []).map(itemOf), rules, signal);
  tree.insert(EMPTY, isSeed ? rootOf(tree) : PLAIN_DIRECTORY);
  return tree;
}

/** Gives what a path or helper of a recipe brings. */
function itemOf(item: NonNullable<ContentsOptions['copyToRoot']>[number]): CopyItem {
  return typeof item === 'string' ? item : helperTree(item);
}

const EMPTY = Buffer.alloc(0);

function rootOf({ root }: Tree): DirectoryNode {
  return { ...PLAIN_DIRECTORY, mode: root.mode | 0o220 };
}
