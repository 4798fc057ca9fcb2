import path from 'node:path';
import { Readable } from 'node:stream';
import { Scope } from '../../core/scope.ts';
import { parseArguments } from '../arguments.ts';
import { checkConfig } from '../layered/config.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { openBase, type ScriptBase } from '../script/base.ts';
import { compressed, compressors } from '../tree/compressors.ts';
import type { ImageFile } from '../tree/image-file.ts';
import { packParts, packTree } from '../tree/pack.ts';
import { type LayerFacts, type LayerTar, measured } from '../tree/pack-stream.ts';
import type { Tree } from '../tree/tree.ts';
import { archiveTree } from './build-image-archive.ts';
import { type BuildImageArgs, type BuildImageParts, buildImageArgsSchema, checkedParts } from './build-image-args.ts';
import { closureEntries, registerStore } from './build-image-closure.ts';
import type { LayerDraft } from './build-image-layer.ts';
import { pureLayer } from './pure-layer.ts';
import { rootLayer } from './root-layer.ts';
import { SEED_EPOCH } from './seed-epoch.ts';
import { seedArchiveTree } from './seed-image.ts';

export { type BuildImageArgs, buildImageArgsSchema } from './build-image-args.ts';

/** An image as an archive, ready to be written as often as wanted. */
export interface BuiltImage extends ImageFile {
  /** Lower case. */
  readonly imageName: string;
  readonly imageTag: string;
  readonly configText: string;
  /** The layer that was added to the base image's. */
  readonly layer: LayerFacts;
}

/**
 * Makes an image of one more layer: files, and what scripts make of them, on a base image or on none. The archive holds the base's layers, the layer, the
 * config, `manifest.json` and `repositories`. Layers are read once for their digests and again when the archive is written: nothing is copied, and nothing is
 * held in memory. An engine is asked for only when a script must run.
 *
 * Throws `E_RECIPE` for arguments, `E_CONFLICT` and `E_USAGE` for files, and what `openBaseImage` and a failed job throw. Source: nixpkgs dockerTools, buildImage.
 */
export async function buildImage(args: BuildImageArgs, context: RecipeContext): Promise<BuiltImage> {
  const parts = checkedParts(parseArguments(buildImageArgsSchema, args), context.note);
  checkConfig(parts.config ?? {});
  const scope = new Scope();
  const release = async (): Promise<void> => await scope[Symbol.asyncDispose]();
  try {
    const base = await openBase(parts.compat === 'seed' ? { ...parts, fromImageName: null, fromImageTag: null } : parts, context);
    if (base !== null) scope.use(base.image);
    const draft = scope.use(await makeLayer(parts, base, context));
    context.note('Adding layer...');
    const layer = await withClosure(draft, parts, base, context);
    context.note('Adding meta...');
    const { tree, imageName, imageTag, configText } = await assemble(parts, { layer, madeTarsum: draft.tar.tarsum }, base, scope, context);
    context.note('Cooking the image...');
    return { ...archiveFile(parts, tree), imageName, imageTag, configText, layer, [Symbol.asyncDispose]: release };
  } catch (error) {
    await release();
    throw error;
  }
}

async function makeLayer(parts: BuildImageParts, base: ScriptBase | null, context: RecipeContext): Promise<LayerDraft> {
  const { runAsRoot } = parts;
  const name = path.posix.basename(parts.name);
  const prepare = parts.includeNixDB ? (tree: Tree): Promise<void> => registerStore(tree, parts, context) : undefined;
  if (runAsRoot !== null) return await rootLayer({ ...parts, name, runAsRoot }, base, context, prepare);
  return await pureLayer({ ...parts, name, uid: parts.uid ?? 0, gid: parts.gid ?? 0 }, base, context, prepare);
}

/** The layer with all store paths behind it that it needs and the base has not. */
async function withClosure(
  draft: LayerDraft,
  parts: BuildImageParts,
  base: ScriptBase | null,
  { signal }: RecipeContext,
): Promise<LayerTar> {
  const more = await closureEntries(draft, parts, base, signal);
  if (more.length === 0) return draft.tar;
  const options = { format: draft.packing.format, prefix: '', owner: { uid: 0, gid: 0 }, mtimeSec: parts.sourceDateEpoch } as const;
  const own = { entries: { [Symbol.iterator]: () => draft.tree.entries() }, options: draft.packing };
  return await measured((use) => packParts([own, { entries: more, options }], use), signal);
}

/** The layer as it goes into the image, and its tarsum before store paths were put behind it. */
export type FinishedLayer = { readonly layer: LayerTar; readonly madeTarsum: string };

async function assemble(
  parts: BuildImageParts,
  finished: FinishedLayer,
  base: ScriptBase | null,
  scope: Scope,
  context: RecipeContext,
): ReturnType<typeof archiveTree> {
  if (parts.compat !== 'seed') return await archiveTree(parts, finished.layer, base);
  return await seedArchiveTree(parts, finished, scope, context.signal);
}

function archiveFile({ name, compressor }: BuildImageParts, tree: Tree): Pick<ImageFile, 'fileName' | 'open'> {
  const packing = { format: 'gnu', prefix: '', owner: { uid: 0, gid: 0 }, mtimeSec: SEED_EPOCH } as const;
  return {
    fileName: `docker-image-${path.posix.basename(name)}.tar${compressors[compressor].ext}`,
    open: (signal) => compressed(Readable.from(packTree(tree, packing, signal), { objectMode: false }), compressor, signal),
  };
}
