import { z } from 'zod';
import { parseArguments } from '../arguments.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { compressed, compressorChoices, compressors } from '../tree/compressors.ts';
import { streamLayeredImageArgsSchema } from './args.ts';
import type { LayeredImage } from './image.ts';
import { streamLayeredImage } from './stream-layered-image.ts';

/** What {@link buildLayeredImage} takes. */
export const buildLayeredImageArgsSchema = streamLayeredImageArgsSchema.extend({
  /** Of the archive as a whole; the layers in it are never compressed. */
  compressor: z.enum(compressorChoices).default('gz'),
});

/** See {@link buildLayeredImageArgsSchema}. */
export type BuildLayeredImageArgs = z.input<typeof buildLayeredImageArgsSchema>;

/** What {@link buildLayeredImageWithNixDb} takes. */
export const buildLayeredImageWithNixDbArgsSchema = buildLayeredImageArgsSchema.omit({ includeNixDB: true });

/** See {@link buildLayeredImageWithNixDbArgsSchema}. */
export type BuildLayeredImageWithNixDbArgs = z.input<typeof buildLayeredImageWithNixDbArgsSchema>;

/** Makes a layered image like `streamLayeredImage`, as a compressed archive: the same image gives the same bytes, with any number of cores. */
export async function buildLayeredImage(args: BuildLayeredImageArgs, context: RecipeContext): Promise<LayeredImage> {
  parseArguments(buildLayeredImageArgsSchema, args);
  const { compressor = 'gz', ...rest } = args;
  const image = await streamLayeredImage(rest, context);
  return {
    ...image,
    fileName: image.fileName + compressors[compressor].ext,
    open: (signal) => compressed(image.open(signal), compressor, signal),
    [Symbol.asyncDispose]: async () => await image[Symbol.asyncDispose](),
  };
}

/** Makes a layered image whose Nix database knows the store paths in it. */
export async function buildLayeredImageWithNixDb(args: BuildLayeredImageWithNixDbArgs, context: RecipeContext): Promise<LayeredImage> {
  parseArguments(buildLayeredImageWithNixDbArgsSchema, args);
  return await buildLayeredImage({ ...args, includeNixDB: true }, context);
}
