import { z } from 'zod';
import { timeSchema } from '../layered/args.ts';
import { referencesSchema } from '../layered/references.ts';
import { recipeError } from '../recipe-error.ts';
import { contentsSchema, filePathSchema, fromImageArgs, idSchema, layerArgs, machineArgs, scriptArgs, storeArgs } from '../script/args.ts';
import { compressorChoices } from '../tree/compressors.ts';

/** What {@link buildImage} takes: the names, meanings and defaults of dockerTools, and from `storeDir` on what stands in for Nix. */
export const buildImageArgsSchema = z.strictObject({
  /** Of the image; lower-cased. The file is called after what stands behind the last slash. */
  name: z.string().min(1).max(4096),
  /** null: 32 characters that stand for the content. */
  tag: z.string().min(1).nullable().default(null),
  ...fromImageArgs,
  copyToRoot: contentsSchema,
  /** The older name of `copyToRoot`. */
  contents: contentsSchema,
  /** Links to directories stay links, as with `rsync -K`. */
  keepContentsDirlinks: z.boolean().default(false),
  /** How to run a container: `Cmd`, `Env` and so on. */
  config: z.record(z.string(), z.unknown()).nullable().default(null),
  /** In Go's words; null is the base image's, or this machine's. */
  architecture: z.string().min(1).nullable().default(null),
  /** Bash, in the layer's directory, in a sandbox. */
  extraCommands: z.string().default(''),
  /** The owner of all files, in a layer made without `runAsRoot`. */
  uid: idSchema.nullable().default(null),
  gid: idSchema.nullable().default(null),
  /** Bash, run as root of a sandbox with the base image as its root directory. */
  runAsRoot: z.string().nullable().default(null),
  ...machineArgs,
  created: timeSchema.default('1970-01-01T00:00:01Z'),
  compressor: z.enum(compressorChoices).default('gz'),
  /** Registers the store paths in the image's own Nix database. */
  includeNixDB: z.boolean().default(false),
  ...storeArgs,
  references: referencesSchema.default({}),
  /** Store paths to put in, with all that they refer to. */
  closure: z.array(filePathSchema).default([]),
  /** What is taken over from the base's config: all by a rule per field, or `Env` alone. */
  inherit: z.enum(['all', 'seed']).nullable().default(null),
  ...layerArgs,
  ...scriptArgs,
});

/** See {@link buildImageArgsSchema}. */
export type BuildImageArgs = z.input<typeof buildImageArgsSchema>;

/** Checked arguments: of `contents` and `copyToRoot` the one that was given, and which one that is. */
export type BuildImageParts = Omit<z.output<typeof buildImageArgsSchema>, 'contents'> & { readonly place: 'contents' | 'copyToRoot' };

/** Throws `E_RECIPE` for arguments that contradict each other; warns of the older name. */
export function checkedParts(args: z.output<typeof buildImageArgsSchema>, note: (line: string) => void): BuildImageParts {
  const { contents, ...parts } = args;
  if (contents !== null && parts.copyToRoot !== null) {
    throw recipeError(['contents'], `in docker image ${args.name}: You can not specify both contents and copyToRoot.`);
  }
  if (contents !== null) {
    note(`warning: in docker image ${args.name}: The contents parameter is deprecated. Change to copyToRoot.`);
  }
  if (parts.runAsRoot !== null && parts.compat !== 'seed') refuseOwner(parts);
  return contents === null ? { ...parts, place: 'copyToRoot' } : { ...parts, copyToRoot: contents, place: 'contents' };
}

function refuseOwner(parts: { readonly uid: number | null; readonly gid: number | null }): void {
  for (const name of ['uid', 'gid'] as const) {
    if (parts[name] === null) continue;
    throw recipeError([name], 'it cannot be given together with runAsRoot', 'let the script set owners with chown');
  }
}
