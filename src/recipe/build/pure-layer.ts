import { z } from 'zod';
import { parseArguments } from '../arguments.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { baseJsonSchema, contentsSchema, idSchema, layerArgs, scriptArgs } from '../script/args.ts';
import type { ScriptBase } from '../script/base.ts';
import { readBaseJson } from '../script/base-json.ts';
import { runOnTree } from '../script/in-tools.ts';
import { toolsImage } from '../script/tools-image.ts';
import { type PackOptions, packTree } from '../tree/pack.ts';
import { measured } from '../tree/pack-stream.ts';
import type { Tree } from '../tree/tree.ts';
import { contentsTree, type LayerDirectory, type LayerDraft, layerDirectory } from './build-image-layer.ts';

const pureLayerShape = {
  name: z.string().min(1),
  copyToRoot: contentsSchema,
  /** Links to directories stay links, as with `rsync -K`. */
  keepContentsDirlinks: z.boolean().default(false),
  /** Bash, in the layer's directory, in a sandbox. */
  extraCommands: z.string().default(''),
  uid: idSchema.default(0),
  gid: idSchema.default(0),
  ...layerArgs,
  ...scriptArgs,
} as const;

/** What {@link mkPureLayer} takes. */
export const pureLayerArgsSchema = z.strictObject({ ...pureLayerShape, baseJson: baseJsonSchema });

/** See {@link pureLayerArgsSchema}. */
export type PureLayerArgs = z.input<typeof pureLayerArgsSchema>;

/**
 * Makes a layer of files, without root and without a base image: `copyToRoot`, changed by `extraCommands` where there are any. All belongs to `uid`:`gid` and
 * has the time `sourceDateEpoch`. An engine is asked for only when commands must run. Throws `E_RECIPE`, `E_CONFLICT`, `E_USAGE`, and what a failed
 * job throws. Source: nixpkgs dockerTools, mkPureLayer.
 */
export async function mkPureLayer(args: PureLayerArgs, context: RecipeContext): Promise<LayerDirectory> {
  const { baseJson, ...parsed } = parseArguments(pureLayerArgsSchema, args);
  const config = await readBaseJson(baseJson);
  return layerDirectory(parsed.name, await pureLayer(parsed, null, context), config);
}

/** Checked arguments without `baseJson`, and what the argument with the contents is called. */
export type PureLayerParts = Omit<z.output<typeof pureLayerArgsSchema>, 'baseJson'> & { readonly place?: string };

/** {@link mkPureLayer} as far as the layer itself. `prepare` is called with the contents before the commands run. */
export async function pureLayer(
  parts: PureLayerParts,
  base: ScriptBase | null,
  context: RecipeContext,
  prepare: (tree: Tree) => Promise<void> = async () => {},
): Promise<LayerDraft> {
  const { name, uid, gid, sourceDateEpoch: mtimeSec, compat } = parts;
  if (parts.copyToRoot === null || parts.copyToRoot.length === 0) context.note('No contents to add to layer.');
  const contents = await contentsTree(parts, context);
  await prepare(contents);
  const scripted = parts.extraCommands === '' ? null : await runExtraCommands(contents, parts, base, context);
  try {
    context.note('Packing layer...');
    const tree = scripted?.tree ?? contents;
    const packing: PackOptions = { format: compat === 'seed' ? 'gnu' : 'plain', mtimeSec, owner: { uid, gid } };
    const tar = await measured((signal) => packTree(tree, packing, signal), context.signal);
    context.note(`Finished building layer '${name}'`);
    return { tree, packing, tar, [Symbol.asyncDispose]: async () => await scripted?.[Symbol.asyncDispose]() };
  } catch (error) {
    await scripted?.[Symbol.asyncDispose]();
    throw error;
  }
}

/** What commands on a layer's directory need. */
export type ExtraCommands = Pick<PureLayerParts, 'name' | 'extraCommands' | 'tools' | 'isolation' | 'sourceDateEpoch' | 'copyToRoot'>;

/** Runs `extraCommands` as root of a sandbox, in the directory that the tree is. Its variables are those that dockerTools' builder has of its own. */
export async function runExtraCommands(
  tree: Tree,
  parts: ExtraCommands,
  base: ScriptBase | null,
  context: RecipeContext,
): Promise<{ readonly tree: Tree } & AsyncDisposable> {
  const { name, extraCommands: commands, isolation, sourceDateEpoch, copyToRoot } = parts;
  const session = await context.session();
  const tools = await toolsImage(session, parts.tools, base, context);
  const env = {
    name: `docker-layer-${name}`,
    contents: (copyToRoot ?? []).filter((item) => typeof item === 'string').join(' '),
    SOURCE_DATE_EPOCH: String(sourceDateEpoch),
  };
  return await runOnTree(session, tree, { commands, tools, env, job: { isolation } }, context);
}
