import path from 'node:path';
import { Readable } from 'node:stream';
import { z } from 'zod';
import { compatChoices } from '../../core/job.ts';
import { Scope } from '../../core/scope.ts';
import { parseArguments } from '../arguments.ts';
import { SEED_EPOCH } from '../build/seed-epoch.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { filePathSchema } from '../script/args.ts';
import type { ImageFile } from '../tree/image-file.ts';
import { type PackOptions, packTree } from '../tree/pack.ts';
import { PLAIN_DIRECTORY } from '../tree/tree.ts';
import { type BaseImage, openBaseImage } from './base-archive.ts';
import { mergeLayers } from './merge-layers.ts';

/** What {@link exportImage} takes: the names, meanings and defaults of dockerTools. */
export const exportImageArgsSchema = z.strictObject({
  /** A docker-archive or OCI layout. */
  fromImage: filePathSchema,
  fromImageName: z.string().nullable().default(null),
  fromImageTag: z.string().nullable().default(null),
  /** Of the file; by default that of `fromImage`, without the ending of a compression. */
  name: z
    .string()
    .regex(/^[^/\0]+$/, 'want the name of a file, without a directory')
    .nullable()
    .default(null),
  /** Taken and not needed: nothing is run. */
  diskSize: z.int().min(0).default(1024),
  compat: z.enum(compatChoices).default('none'),
});

/** See {@link exportImageArgsSchema}. */
export type ExportImageArgs = z.input<typeof exportImageArgsSchema>;

/**
 * Gives the merged root of an image as one uncompressed tar, without its config: names `./x` in order, whiteouts applied, owners as they are. Nothing is
 * run, and neither root nor an engine is needed. Times, attributes and hard links are kept; with `compat` "seed" they are as the seed's tar has them: one
 * time for all, no attributes, hard links as copies. Throws `E_RECIPE`, what `openBaseImage` throws and what a layer is refused for.
 */
export async function exportImage(args: ExportImageArgs, { signal, note }: Pick<RecipeContext, 'signal' | 'note'>): Promise<ImageFile> {
  const parsed = parseArguments(exportImageArgsSchema, args);
  const { fromImage, fromImageName: name, fromImageTag: tag } = parsed;
  const scope = new Scope();
  try {
    const image = scope.use(await openBaseImage(fromImage, { name, tag }, signal));
    noteChoice(image, note);
    const tree = await mergeLayers(image.layers, scope, signal);
    // The seed's root directory is that of its empty upper directory.
    if (parsed.compat === 'seed') tree.insert(Buffer.alloc(0), PLAIN_DIRECTORY);
    return {
      fileName: parsed.name ?? plainName(fromImage),
      open: (use) => Readable.from(packTree(tree, PACKING[parsed.compat], use), { objectMode: false }),
      [Symbol.asyncDispose]: async () => await scope[Symbol.asyncDispose](),
    };
  } catch (error) {
    await scope[Symbol.asyncDispose]();
    throw error;
  }
}

const PACKING: Record<(typeof compatChoices)[number], PackOptions> = {
  none: { format: 'plain', prefix: './' },
  seed: { format: 'gnu', mtimeSec: SEED_EPOCH },
};

function plainName(file: string): string {
  return path
    .basename(file)
    .replace(/\.tgz$/, '.tar')
    .replace(/\.(?:gz|zst)$/, '');
}

/** Tells people that an image was taken which nobody had named. */
function noteChoice(image: BaseImage, note: (line: string) => void): void {
  if (image.isFirstOfSeveral) note("From-image name or tag wasn't set. Reading the first image.");
}
