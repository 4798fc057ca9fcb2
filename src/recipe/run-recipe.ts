import { existsSync } from 'node:fs';
import { exportImage } from './archive/export-image.ts';
import { mergeImages } from './archive/merge-images.ts';
import { pullImage } from './archive/pull-image.ts';
import { suggest } from './arguments.ts';
import { type BuiltImage, buildImage } from './build/build-image.ts';
import { mkPureLayer } from './build/pure-layer.ts';
import { mkRootLayer } from './build/root-layer.ts';
import { runWithOverlay } from './build/run-with-overlay.ts';
import { type HelperRecipe, helperTree } from './helpers/content.ts';
import { type MergeDrvsArgs, mergeDrvs } from './helpers/merge-drvs.ts';
import { shadowSetup } from './helpers/shadow-setup.ts';
import { buildLayeredImage, buildLayeredImageWithNixDb } from './layered/compressed.ts';
import type { LayeredImage } from './layered/image.ts';
import { streamLayeredImage } from './layered/stream-layered-image.ts';
import { buildImageWithNixDb } from './nix/build-image.ts';
import { buildNixShellImage, streamNixShellImage } from './nix/shell-image.ts';
import type { BuildContainerArgs } from './oci-runtime/args.ts';
import { buildContainer } from './oci-runtime/bundle.ts';
import { writeBundle } from './oci-runtime/write.ts';
import type { RecipeContext } from './recipe-context.ts';
import { recipeError } from './recipe-error.ts';
import { argumentSchemas, isRecipeFunction, type RecipeFunction } from './schema.ts';
import { type ShellScriptArgs, shellScript } from './script/shell-script.ts';
import type { ImageFile } from './tree/image-file.ts';
import type { LayerTar } from './tree/pack-stream.ts';
import type { Tree } from './tree/tree.ts';

/** What a recipe makes: one file, a few files, or a text. Dispose it to free what it is made of. */
export type RecipeResult = AsyncDisposable & {
  /** What it is called when nobody says otherwise. */
  readonly fileName: string;
  /** What there is to know of it, beside its bytes. */
  readonly facts: Readonly<Record<string, unknown>>;
} & (
    | { readonly kind: 'file'; readonly open: ImageFile['open'] }
    | {
        readonly kind: 'tree';
        readonly tree: Tree /** Writes it to an empty directory; when left out, as files of the caller. */;
        write?(dir: string, context: RecipeContext): Promise<void>;
      }
    | { readonly kind: 'text'; readonly text: string; readonly mode: number }
  );

/** Runs a recipe as it was written: `function` and its arguments. Throws `E_RECIPE` naming the place, and what the function throws. */
export async function runRecipe(recipe: Readonly<Record<string, unknown>>, context: RecipeContext): Promise<RecipeResult> {
  const { function: name, ...args } = withoutSchema(recipe);
  const run = RUNNERS[functionOf(name)];
  checkImageFiles(args);
  return await run(args, context);
}

/** The functions name a missing archive by its file; of a recipe the place is told, too. What is no text is left to their own checks. */
function checkImageFiles({ fromImage, images }: Readonly<Record<string, unknown>>): void {
  const listed: unknown[] = Array.isArray(images) ? images : [];
  const named: [place: PropertyKey[], file: unknown][] = [[['fromImage'], fromImage], ...listed.map(atImages)];
  for (const [place, file] of named) {
    const isPath = typeof file === 'string' && /^[^\0]+$/.test(file);
    if (isPath && !existsSync(file)) throw recipeError(place, `there is no file ${JSON.stringify(file)}`);
  }
}

function atImages(file: unknown, at: number): [place: PropertyKey[], file: unknown] {
  return [['images', at], file];
}

/** Editors want it in the file; it says nothing. */
function withoutSchema({ $schema: _schema, ...members }: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return members;
}

function functionOf(name: unknown): RecipeFunction {
  if (typeof name === 'string' && isRecipeFunction(name)) return name;
  const known = Object.keys(argumentSchemas);
  if (name === undefined) throw recipeError(['function'], 'it is missing, want the name of a function', `known are: ${known.join(', ')}`);
  const { words, hint } = suggest(typeof name === 'string' ? name : '', known);
  throw recipeError(['function'], `there is no function ${JSON.stringify(name)}${words}`, hint);
}

type Runner = (args: Readonly<Record<string, unknown>>, context: RecipeContext) => Promise<RecipeResult>;

const NOTHING_TO_FREE = { [Symbol.asyncDispose]: async (): Promise<void> => {} };

const RUNNERS: Record<RecipeFunction, Runner> = {
  binSh: helper('binSh', 'bin-sh'),
  buildContainer: bundle,
  buildImage: file(buildImage, imageFacts),
  buildImageWithNixDb: file(buildImageWithNixDb, imageFacts),
  buildLayeredImage: file(buildLayeredImage, layeredFacts),
  buildLayeredImageWithNixDb: file(buildLayeredImageWithNixDb, layeredFacts),
  buildNixShellImage: file(buildNixShellImage, layeredFacts),
  caCertificates: helper('caCertificates', 'ca-certificates'),
  exportImage: file(exportImage, noFacts),
  fakeNss: helper('fakeNss', 'fake-nss'),
  mergeDrvs: merged,
  mergeImages: file(mergeImages, noFacts),
  mkPureLayer: directory(mkPureLayer),
  mkRootLayer: directory(mkRootLayer),
  pullImage: file(pullImage, noFacts),
  runWithOverlay: directory(runWithOverlay),
  shadowSetup: async (args) => ({
    kind: 'text',
    text: shadowSetup(args),
    mode: 0o644,
    fileName: 'shadow-setup.sh',
    facts: {},
    ...NOTHING_TO_FREE,
  }),
  shellScript: async (args) => {
    const { name, text, mode } = shellScript(args as ShellScriptArgs);
    return { kind: 'text', text, mode, fileName: name, facts: {}, ...NOTHING_TO_FREE };
  },
  streamLayeredImage: file(streamLayeredImage, layeredFacts),
  streamNixShellImage: file(streamNixShellImage, layeredFacts),
  usrBinEnv: helper('usrBinEnv', 'usr-bin-env'),
};

/** A function that makes one file; it checks its arguments itself. */
function file<Args, Made extends ImageFile>(
  make: (args: Args, context: RecipeContext) => Promise<Made>,
  factsOf: (made: Made) => Readonly<Record<string, unknown>>,
): Runner {
  return async (args, context) => {
    const made = await make(args as Args, context);
    const { fileName } = made;
    return {
      kind: 'file',
      fileName,
      facts: factsOf(made),
      open: made.open,
      [Symbol.asyncDispose]: async () => await made[Symbol.asyncDispose](),
    };
  };
}

function noFacts(): Record<string, unknown> {
  return {};
}

function layeredFacts({ imageName, imageTag, layers }: LayeredImage): Record<string, unknown> {
  return {
    imageName,
    imageTag,
    layers: layers.map(({ tar, kind, paths }) => ({ kind, diffId: tar.diffId, sizeBytes: tar.sizeBytes, paths })),
  };
}

function imageFacts({ imageName, imageTag, layer }: BuiltImage): Record<string, unknown> {
  const { diffId, sizeBytes, tarsum, entries } = layer;
  return { imageName, imageTag, layer: { diffId, sizeBytes, tarsum, entries } };
}

/** A layer with the files that go with it. */
type MadeDirectory = AsyncDisposable & { readonly fileName: string; readonly tree: Tree; readonly layer: LayerTar };

function directory<Args>(make: (args: Args, context: RecipeContext) => Promise<MadeDirectory>): Runner {
  return async (args, context) => {
    const made = await make(args as Args, context);
    const { fileName, tree, layer } = made;
    const { diffId, sizeBytes, tarsum, entries } = layer;
    const facts = { layer: { diffId, sizeBytes, tarsum, entries } };
    return { kind: 'tree', fileName, tree, facts, [Symbol.asyncDispose]: async () => await made[Symbol.asyncDispose]() };
  };
}

async function bundle(args: Readonly<Record<string, unknown>>, context: RecipeContext): Promise<RecipeResult> {
  const made = await buildContainer(args as BuildContainerArgs, context);
  return {
    kind: 'tree',
    tree: made.tree,
    write: async (dir, use) => await writeBundle(made, dir, use),
    fileName: 'bundle',
    facts: {},
    [Symbol.asyncDispose]: async () => await made[Symbol.asyncDispose](),
  };
}

function helper(name: HelperRecipe['function'], fileName: string): Runner {
  return async (args) => ({ kind: 'tree', tree: helperTree({ ...args, function: name }), fileName, facts: {}, ...NOTHING_TO_FREE });
}

async function merged(args: Readonly<Record<string, unknown>>, context: RecipeContext): Promise<RecipeResult> {
  const made = await mergeDrvs(args as MergeDrvsArgs, context);
  const common = { fileName: 'merge-drvs', facts: {}, [Symbol.asyncDispose]: async (): Promise<void> => await made[Symbol.asyncDispose]() };
  return made.kind === 'tree' ? { kind: 'tree', tree: made.tree, ...common } : { kind: 'text', text: made.text, mode: 0o644, ...common };
}
