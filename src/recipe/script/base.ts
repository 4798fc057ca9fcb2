import { existsSync } from 'node:fs';
import path from 'node:path';
import { type BaseImage, openBaseImage } from '../archive/base-archive.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { recipeError } from '../recipe-error.ts';

/** A base image with the file that it is in. */
export type ScriptBase = { readonly file: string; readonly image: BaseImage };

/** Which base image: see `fromImageArgs`. */
export type BaseArgs = { readonly fromImage: string | null; readonly fromImageName: string | null; readonly fromImageTag: string | null };

/**
 * Opens the base image that the arguments name, null when they name none; the caller disposes of the image. Without a name and a tag the first one of an
 * archive counts. Throws `E_RECIPE` for a file that is not there, and what `openBaseImage` throws.
 */
export async function openBase(args: BaseArgs, { note, signal }: Pick<RecipeContext, 'note' | 'signal'>): Promise<ScriptBase | null> {
  if (args.fromImage === null) return null;
  const file = path.resolve(args.fromImage);
  if (!existsSync(file)) throw recipeError(['fromImage'], `there is no file ${JSON.stringify(args.fromImage)}`);
  note('Unpacking base image...');
  if (args.fromImageName === null || args.fromImageTag === null) note("From-image name or tag wasn't set. Reading the first ID.");
  return { file, image: await openBaseImage(file, { name: args.fromImageName, tag: args.fromImageTag }, signal) };
}
