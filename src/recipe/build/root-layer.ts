import { z } from 'zod';
import type { JobSubmission, Session } from '../../api/session.ts';
import { Scope } from '../../core/scope.ts';
import { parseArguments } from '../arguments.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { baseJsonSchema, contentsSchema, fromImageArgs, layerArgs, machineArgs, machineLimits, scriptArgs } from '../script/args.ts';
import { openBase, type ScriptBase } from '../script/base.ts';
import { readBaseJson } from '../script/base-json.ts';
import { importFile, runForLayer } from '../script/engine-job.ts';
import { uploadTree } from '../script/in-tools.ts';
import { type PackOptions, packTree } from '../tree/pack.ts';
import { measured } from '../tree/pack-stream.ts';
import type { Tree } from '../tree/tree.ts';
import { contentsTree, type LayerDirectory, type LayerDraft, layerDirectory } from './build-image-layer.ts';
import { runExtraCommands } from './pure-layer.ts';
import { addSeedTmp, seedRootTree } from './seed-root-tree.ts';

const rootLayerShape = {
  name: z.string().min(1),
  /** Bash, run as root of a sandbox with the base image as its root directory and nothing but a loopback network. */
  runAsRoot: z.string(),
  copyToRoot: contentsSchema,
  /** Links to directories stay links, as with `rsync -K`. */
  keepContentsDirlinks: z.boolean().default(false),
  ...fromImageArgs,
  ...machineArgs,
  /** Bash, in the layer's directory, after `runAsRoot`. */
  extraCommands: z.string().default(''),
  ...layerArgs,
  ...scriptArgs,
} as const;

/** What {@link mkRootLayer} takes. */
export const rootLayerArgsSchema = z.strictObject({ ...rootLayerShape, baseJson: baseJsonSchema });

/** See {@link rootLayerArgsSchema}. */
export type RootLayerArgs = z.input<typeof rootLayerArgsSchema>;

/**
 * Makes the layer that `runAsRoot` leaves on a base image with `copyToRoot` in it. The script runs in a sandbox of the engine. Throws `E_RECIPE`, what
 * `openBaseImage` throws, and what a failed job throws. Source: nixpkgs dockerTools, mkRootLayer.
 */
export async function mkRootLayer(args: RootLayerArgs, context: RecipeContext): Promise<LayerDirectory> {
  const { baseJson, ...parsed } = parseArguments(rootLayerArgsSchema, args);
  const config = await readBaseJson(baseJson);
  const base = await openBase(parsed, context);
  try {
    return layerDirectory(parsed.name, await rootLayer(parsed, base, context), config);
  } finally {
    // Of the base only the engine's copy is needed further.
    await base?.image[Symbol.asyncDispose]();
  }
}

/** Checked arguments without `baseJson`, and what the argument with the contents is called. */
export type RootLayerParts = Omit<z.output<typeof rootLayerArgsSchema>, 'baseJson'> & { readonly place?: string };

/** {@link mkRootLayer} as far as the layer itself. `prepare` is called with the layer's tree before `extraCommands` run. */
export async function rootLayer(
  parts: RootLayerParts,
  base: ScriptBase | null,
  context: RecipeContext,
  prepare: ((tree: Tree) => Promise<void>) | null = null,
): Promise<LayerDraft> {
  const scope = new Scope();
  try {
    const isSeed = parts.compat === 'seed';
    const contents = await contentsTree(parts, context);
    if (isSeed) await addSeedTmp(contents, base?.image ?? null, context.signal);
    const session = await context.session();
    const ran = scope.use(await runAsRoot(session, contents, parts, base, context));
    let tree = isSeed ? await seedRootTree(ran.tree, contents, parts, base?.image ?? null, context.signal) : ran.tree;
    await prepare?.(tree);
    if (parts.extraCommands !== '') tree = scope.use(await runExtraCommands(tree, parts, base, context)).tree;
    context.note('Packing layer...');
    const packing = rootPacking(parts);
    const isAsItCame = !isSeed && tree === ran.tree && prepare === null;
    const tar = isAsItCame ? ran.tar : await measured((signal) => packTree(tree, packing, signal), context.signal);
    context.note(`Finished building layer '${parts.name}'`);
    return { tree, packing, tar, [Symbol.asyncDispose]: async () => await scope[Symbol.asyncDispose]() };
  } catch (error) {
    await scope[Symbol.asyncDispose]();
    throw error;
  }
}

/** The seed sets all times; otherwise only what is later than the epoch is brought back to it. */
export function rootPacking({ compat, sourceDateEpoch }: Pick<RootLayerParts, 'compat' | 'sourceDateEpoch'>): PackOptions {
  return compat === 'seed' ? { format: 'gnu', mtimeSec: sourceDateEpoch } : { format: 'plain', maxMtimeSec: sourceDateEpoch };
}

/** The text is run by bash whatever its first line says, and stops at the first error. */
async function runAsRoot(
  session: Session,
  contents: Tree,
  parts: RootLayerParts,
  base: ScriptBase | null,
  context: RecipeContext,
): ReturnType<typeof runForLayer> {
  const from = base === null ? 'scratch' : (await importFile(session, base.file, base.image.id, context)).id;
  const hasContents = [...contents.entries()].length > 1;
  const request: JobSubmission = {
    from,
    script: Buffer.from(`set -e\n${parts.runAsRoot}\n`).toString('base64'),
    contextId: hasContents ? await uploadTree(session, contents, '', context.signal) : null,
    isolation: parts.isolation,
    limits: machineLimits(parts),
    sourceDateEpoch: parts.sourceDateEpoch,
    compat: parts.compat,
  };
  return await runForLayer(session, request, context);
}
