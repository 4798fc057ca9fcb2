import { z } from 'zod';
import { compatChoices } from '../../core/job.ts';
import { contentItemSchema } from '../helpers/content.ts';
import { filePathSchema as filePath, idSchema as id, scriptArgs, storeArgs } from '../script/args.ts';
import { layeringChoices } from './groups.ts';
import { referencesSchema } from './references.ts';

const DEFAULT_TIME = '1970-01-01T00:00:01Z';

/** A time as ISO 8601, or `now`. */
export const timeSchema = z.union([z.literal('now'), z.iso.datetime({ offset: true }), z.iso.date()], {
  error: 'want a time such as "1970-01-01T00:00:01Z", or "now"',
});

/** What {@link streamLayeredImage} takes. The names, meanings and defaults of dockerTools, and from `storeDir` on what stands in for Nix. */
export const streamLayeredImageArgsSchema = z.strictObject({
  /** Of the image; lower-cased. */
  name: z.string().min(1).max(4096),
  /** null: 32 characters that stand for the content. */
  tag: z.string().min(1).nullable().default(null),
  /** A base image: docker-archive or OCI layout. */
  fromImage: filePath.nullable().default(null),
  fromImageName: z.string().nullable().default(null),
  fromImageTag: z.string().nullable().default(null),
  /** What the root shows, as links into the store: a path, or a list of paths and helpers. */
  contents: z.union([contentItemSchema.transform((item) => [item]), z.array(contentItemSchema)]).default([]),
  /** How to run a container: `Cmd`, `Env` and so on. */
  config: z.record(z.string(), z.unknown()).default({}),
  /** In Go's words; null: this machine's. */
  architecture: z.string().min(1).nullable().default(null),
  created: timeSchema.default(DEFAULT_TIME),
  /** Time of the files in store layers; with `compat` "seed" that of `created`. */
  mtime: timeSchema.default(DEFAULT_TIME),
  uid: id.default(0),
  gid: id.default(0),
  uname: z.string().default('root'),
  gname: z.string().default('root'),
  maxLayers: z.int().default(100),
  /** Bash, in the directory of the layer on top. */
  extraCommands: z.string().default(''),
  /** Bash as root, likewise; owners are kept. */
  fakeRootCommands: z.string().default(''),
  /** `fakeRootCommands` sees the layer as its root directory. */
  enableFakechroot: z.boolean().default(false),
  /** false: the files of the store are left out, to be mounted where the image runs. */
  includeStorePaths: z.boolean().default(true),
  /** Registers the store paths in the image's own Nix database. */
  includeNixDB: z.boolean().default(false),
  /** For the caller's own use. */
  passthru: z.record(z.string(), z.unknown()).default({}),
  ...storeArgs,
  references: referencesSchema.default({}),
  /** More store paths to put in, beside what contents and config name. */
  closure: z.array(filePath).default([]),
  /** How paths are dealt to layers: the most needed alone, or the largest with what only they need. */
  layering: z.enum(layeringChoices).default('popularity'),
  /** Instead of name and tag, as it is. */
  repoTag: z.string().min(1).nullable().default(null),
  /** What is taken over from the base's config: all by a rule per field, or `Env` alone. */
  inherit: z.enum(['all', 'seed']).nullable().default(null),
  ...scriptArgs,
  compat: z.enum(compatChoices).default('none'),
});

/** See {@link streamLayeredImageArgsSchema}. */
export type StreamLayeredImageArgs = z.input<typeof streamLayeredImageArgsSchema>;

/** Checked arguments, with their defaults. */
export type LayeredArgs = z.output<typeof streamLayeredImageArgsSchema>;
