import { Readable } from 'node:stream';
import { z } from 'zod';
import { type Digest, hexOf } from '../../core/digest.ts';
import { RootlayerError } from '../../core/errors.ts';
import type { Compression } from '../../core/image.ts';
import { compatChoices } from '../../core/job.ts';
import { Scope } from '../../core/scope.ts';
import { readableNames } from '../../store/ingest/candidate.ts';
import { parseArguments } from '../arguments.ts';
import { SEED_EPOCH } from '../build/seed-epoch.ts';
import { jqText } from '../build/seed-json.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { filePathSchema } from '../script/args.ts';
import { type CompressorChoice, compressed, compressorChoices, compressors } from '../tree/compressors.ts';
import type { ImageFile } from '../tree/image-file.ts';
import { packTree } from '../tree/pack.ts';
import { PLAIN_DIRECTORY, Tree } from '../tree/tree.ts';
import { type ArchivedImage, type BaseLayer, openBaseImages } from './base-archive.ts';
import { formatRepositories, type Repositories } from './merge-documents.ts';
import { addDocument, seedMerge } from './merge-seed.ts';
import { openOuterArchive } from './outer.ts';

/** What {@link mergeImages} takes; dockerTools' own function takes the list alone. */
export const mergeImagesArgsSchema = z.strictObject({
  /** Docker-archives or OCI layouts. */
  images: z.array(filePathSchema),
  /** Of the file. */
  name: z
    .string()
    .regex(/^[^/\0]+$/, 'want the name of a file, without a directory')
    .nullable()
    .default(null),
  /** null: that of the last of the images, and gz when there is none. */
  compressor: z.enum(compressorChoices).nullable().default(null),
  compat: z.enum(compatChoices).default('none'),
});

/** See {@link mergeImagesArgsSchema}. */
export type MergeImagesArgs = z.input<typeof mergeImagesArgsSchema>;

/**
 * Gives one docker-archive with all images of several archives: each image once with all its tags, each layer once, its bytes unchanged. Neither root nor
 * an engine is needed. With `compat` "seed" the archive is that of the seeds, where of two images with one name only the last one's tags are in
 * `repositories`. Throws `E_RECIPE`, `E_CONFLICT` for one name:tag on two different images, and what `openBaseImages` throws.
 */
export async function mergeImages(args: MergeImagesArgs, { signal }: Pick<RecipeContext, 'signal'>): Promise<ImageFile> {
  const { images, name, compressor, compat } = parseArguments(mergeImagesArgsSchema, args);
  const scope = new Scope();
  try {
    const { tree, compression } = await (compat === 'seed' ? seedTree(images, scope, signal) : mergedTree(images, scope, signal));
    const output = compressor ?? COMPRESSORS[compression];
    const open: ImageFile['open'] = (use) => {
      const packing = { format: 'gnu', prefix: '', owner: ROOT, mtimeSec: SEED_EPOCH } as const;
      return compressed(Readable.from(packTree(tree, packing, use), { objectMode: false }), output, use);
    };
    const fileName = name ?? (compat === 'seed' ? SEED_NAME : `${SEED_NAME}.tar${compressors[output].ext}`);
    return { fileName, open, [Symbol.asyncDispose]: async () => await scope[Symbol.asyncDispose]() };
  } catch (error) {
    await scope[Symbol.asyncDispose]();
    throw error;
  }
}

const ROOT = { uid: 0, gid: 0 };
const COMPRESSORS: Record<Compression, CompressorChoice> = { none: 'none', gzip: 'gz', zstd: 'zstd' };
const SEED_NAME = 'merge-docker-images';

type Merged = { readonly tree: Tree; readonly compression: Compression };

async function seedTree(files: readonly string[], scope: Scope, signal: AbortSignal): Promise<Merged> {
  const inputs = [];
  for (const file of files) inputs.push(scope.use(await openOuterArchive(file, signal)));
  return { tree: seedMerge(inputs), compression: inputs.at(-1)?.compression ?? 'gzip' };
}

async function mergedTree(files: readonly string[], scope: Scope, signal: AbortSignal): Promise<Merged> {
  let compression: Compression = 'gzip';
  const collection = new Collection();
  for (const file of files) {
    const archive = scope.use(await openBaseImages(file, signal));
    compression = archive.compression;
    for (const image of archive.images) collection.add(image, file);
  }
  return { tree: collection.tree(), compression };
}

/** Images by their configs, and which of them each name:tag means: compared in one spelling, written as their archives have them. */
class Collection {
  readonly #images = new Map<Digest, { readonly image: ArchivedImage; readonly tags: string[] }>();
  readonly #tags = new Map<string, { readonly id: Digest; readonly file: string }>();

  add(image: ArchivedImage, file: string): void {
    const entry = this.#images.get(image.id) ?? { image, tags: [] };
    this.#images.set(image.id, entry);
    for (const text of image.repoTags) {
      const tag = readableNames([text])[0] ?? text;
      const before = this.#tags.get(tag);
      if (before === undefined) entry.tags.push(text);
      else if (before.id !== image.id) throw conflict(tag, before.file, file);
      this.#tags.set(tag, { id: image.id, file });
    }
  }

  tree(): Tree {
    const tree = new Tree(DIRECTORY);
    const repositories: Repositories = new Map();
    const manifest = [...this.#images.values()].map(({ image, tags }) => {
      for (const layer of image.layers) addLayer(tree, layer);
      const config = `${hexOf(image.id)}.json`;
      addDocument(tree, config, image.configText, FILE_MODE);
      addTags(repositories, tags, image.layers.at(-1));
      return { Config: config, RepoTags: tags.length === 0 ? null : tags, Layers: image.layers.map(layerName) };
    });
    addDocument(tree, 'manifest.json', jqText(manifest), FILE_MODE);
    addDocument(tree, 'repositories', formatRepositories(repositories), FILE_MODE);
    return tree;
  }
}

function conflict(tag: string, first: string, second: string): RootlayerError {
  return new RootlayerError(
    'E_CONFLICT',
    `Cannot merge images: ${tag} is one image in ${JSON.stringify(first)} and another in ${JSON.stringify(second)}`,
    { hint: 'give one of them another tag' },
  );
}

/** As in the other archives of dockerTools, nothing can be written to. */
const DIRECTORY = { ...PLAIN_DIRECTORY, mode: 0o555 };
const FILE_MODE = 0o444;

function layerName({ diffId }: BaseLayer): string {
  return `${hexOf(diffId)}/layer.tar`;
}

function addLayer(tree: Tree, layer: BaseLayer): void {
  const at = Buffer.from(layerName(layer));
  if (tree.lookup(at) !== undefined) return;
  tree.insertParents(at, DIRECTORY);
  const source = { kind: 'stream', open: (signal: AbortSignal) => layer.open(signal) } as const;
  tree.insert(at, { ...PLAIN_DIRECTORY, mode: FILE_MODE, type: 'file', size: layer.sizeBytes, source });
}

/** What readers from before Docker 1.10 go by: a tag means the topmost layer. */
function addTags(repositories: Repositories, tags: readonly string[], top: BaseLayer | undefined): void {
  if (top === undefined) return;
  for (const text of tags) {
    const colon = text.indexOf(':', text.lastIndexOf('/') + 1);
    if (colon < 0) continue;
    const name = text.slice(0, colon);
    repositories.set(name, (repositories.get(name) ?? new Map()).set(text.slice(colon + 1), hexOf(top.diffId)));
  }
}
