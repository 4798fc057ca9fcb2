import path from 'node:path';
import { hexOf } from '../../core/digest.ts';
import { Scope } from '../../core/scope.ts';
import { goArchitecture } from '../../store/platform.ts';
import { type BaseImage, type BaseLayer, openBaseImage } from '../archive/base-archive.ts';
import { parseArguments } from '../arguments.ts';
import { checkName } from '../build/build-image-archive.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { measured } from '../tree/pack-stream.ts';
import type { Tree } from '../tree/tree.ts';
import { type LayeredArgs, type StreamLayeredImageArgs, streamLayeredImageArgsSchema } from './args.ts';
import { closureOfImage } from './closure.ts';
import { layeredConfig, secondsOf } from './config.ts';
import { customisationLayer, customisationTree } from './customisation.ts';
import { storeLayerTar } from './files.ts';
import { availableLayers, checkMaxLayers, groupPaths } from './groups.ts';
import { type LayeredImage, type LayeredLayer, type LayeredParts, layeredImage } from './image.ts';
import { pythonJson, pythonList } from './json.ts';
import { mentionsIn, mentionsInText } from './mentions.ts';
import type { ReferenceGraph } from './references.ts';

/**
 * Makes an image in which store paths have layers of their own, so that images share them: the base's layers, one layer each for the most popular paths,
 * one for the rest, and on top a layer of links to `contents` with what the commands did. Every layer is read through once for its size and digest, and
 * again when the image is streamed; nothing of a store path is copied. An engine is asked for only when commands must run. Throws `E_RECIPE`, and what
 * `openBaseImage` and a failed job throw. Source: nixpkgs dockerTools, streamLayeredImage.
 */
export async function streamLayeredImage(args: StreamLayeredImageArgs, context: RecipeContext): Promise<LayeredImage> {
  return await layeredWith(parseArguments(streamLayeredImageArgsSchema, args), NOTHING_MORE, context);
}

/** What other functions put into a layered image that its arguments cannot say. */
export type LayeredExtras = {
  /** Gives trees that are joined with the contents, in front of them; told of the base image, if there is one. */
  trees(base: BaseImage | null): Promise<readonly Tree[]>;
  /** Store paths that are not taken in only because something mentions them. */
  readonly ignored: ReadonlySet<string>;
};

const NOTHING_MORE: LayeredExtras = { trees: async () => [], ignored: new Set() };

/** {@link streamLayeredImage} with checked arguments, and more. */
export async function layeredWith(args: LayeredArgs, extras: LayeredExtras, context: RecipeContext): Promise<LayeredImage> {
  checkMaxLayers(args.maxLayers);
  if (args.repoTag === null) checkName(args.name.toLowerCase(), args.tag ?? 'latest');
  const scope = new Scope();
  try {
    const base = await openBase(args, context);
    if (base !== null) scope.use(base);
    const parts = await assemble(args, extras, base, scope, context);
    return layeredImage(parts, async () => await scope[Symbol.asyncDispose]());
  } catch (error) {
    await scope[Symbol.asyncDispose]();
    throw error;
  }
}

async function openBase(args: LayeredArgs, { note, signal }: RecipeContext): Promise<BaseImage | null> {
  if (args.fromImage === null) {
    note("No 'fromImage' provided");
    return null;
  }
  return await openBaseImage(path.resolve(args.fromImage), { name: args.fromImageName, tag: args.fromImageTag }, signal);
}

async function assemble(
  args: LayeredArgs,
  extras: LayeredExtras,
  base: BaseImage | null,
  scope: Scope,
  context: RecipeContext,
): Promise<LayeredParts> {
  const available = availableLayers(args.maxLayers, base?.layers.length ?? 0);
  const config = layeredConfig(args, base);
  const createdSec = secondsOf(args.created);
  const mtimeSec = args.compat === 'seed' ? createdSec : secondsOf(args.mtime);
  const closureWith = (mentioned: Iterable<string>): ReferenceGraph =>
    closureOfImage(args, new Set([...mentioned].filter((name) => !extras.ignored.has(name))));
  const inConfig = mentionsInText(pythonJson(args.config), args.storeDir);
  const tree = await customisationTree(args, await extras.trees(base), () => closureWith(inConfig));
  const { tar, wasScripted } = await customisationLayer(args, tree, { base, closureWith, scope }, context);
  const inScripts = wasScripted ? await mentionsIn(tar.open(context.signal), args.storeDir) : [];
  const closure = closureWith([...inConfig, ...inScripts]);
  const baseLayers = (base?.layers ?? []).map(
    (tar): LayeredLayer => ({ tar, name: memberName(tar), paths: [memberName(tar)], kind: 'base' }),
  );
  for (const [at, { name }] of baseLayers.entries()) context.note(`Adding base layer ${at + 1} from ${name}`);
  const store = args.includeStorePaths
    ? await storeLayers(args, closure, { available, mtimeSec, start: baseLayers.length + 1 }, context)
    : [];
  context.note(`Creating layer ${baseLayers.length + store.length + 1} with customisation...`);
  const top = ownLayer(tar, [`${path.posix.basename(args.name)}-customisation-layer`], 'customisation');
  context.note('Adding manifests...');
  return {
    imageName: args.name.toLowerCase(),
    tag: args.tag,
    repoTag: args.repoTag,
    architecture: args.architecture ?? goArchitecture(),
    config,
    createdSec,
    mtimeSec: createdSec,
    layers: [...baseLayers, ...store, top],
    keepsRepeated: args.compat === 'seed',
  };
}

/** Layers of a docker-archive keep their names; blobs of an OCI layout are called by what they hold when it is compressed. */
function memberName({ name, diffId }: BaseLayer): string {
  return name.endsWith('.tar') ? name : `${hexOf(diffId)}/layer.tar`;
}

async function storeLayers(
  args: LayeredArgs,
  closure: ReferenceGraph,
  { available, mtimeSec, start }: { available: number; mtimeSec: number; start: number },
  { note, progress, signal }: RecipeContext,
): Promise<LayeredLayer[]> {
  const { storeDir, storeRoot, layering, uid, gid, uname, gname } = args;
  const options = { storeDir, storeRoot, mtimeSec, owner: { uid, gid, uname, gname } };
  const groups = groupPaths(closure, layering, available, storeRoot);
  const layers: LayeredLayer[] = [];
  for (const [at, paths] of groups.entries()) {
    note(`Creating layer ${start + at} from paths: ${pythonList(paths)}`);
    layers.push(ownLayer(await measured((during) => storeLayerTar(paths, options, during), signal), paths, 'store'));
    progress({ stage: 'reading', done: at + 1, total: groups.length, unit: 'entries' });
  }
  return layers;
}

function ownLayer(tar: LayeredLayer['tar'], paths: readonly string[], kind: LayeredLayer['kind']): LayeredLayer {
  return { tar, name: `${hexOf(tar.diffId)}/layer.tar`, paths, kind };
}
