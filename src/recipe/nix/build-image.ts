import type { z } from 'zod';
import { parseArguments } from '../arguments.ts';
import { type BuiltImage, buildImage } from '../build/build-image.ts';
import { buildImageArgsSchema } from '../build/build-image-args.ts';
import type { RecipeContext } from '../recipe-context.ts';

/** What {@link buildImageWithNixDb} takes. */
export const buildImageWithNixDbArgsSchema = buildImageArgsSchema.omit({ includeNixDB: true });

/** See {@link buildImageWithNixDbArgsSchema}. */
export type BuildImageWithNixDbArgs = z.input<typeof buildImageWithNixDbArgsSchema>;

/** Makes an image like `buildImage` whose Nix database knows the store paths in it. Source: nixpkgs dockerTools, buildImageWithNixDb. */
export async function buildImageWithNixDb(args: BuildImageWithNixDbArgs, context: RecipeContext): Promise<BuiltImage> {
  parseArguments(buildImageWithNixDbArgsSchema, args);
  return await buildImage({ ...args, includeNixDB: true }, context);
}
