import path from 'node:path';
import { z } from 'zod';
import { streamLayeredImageArgsSchema } from '../layered/args.ts';

const text = z.string().regex(/^[^\0]*$/, 'want no NUL byte');

const absolute = text
  .regex(/^\//, 'want an absolute path')
  .refine(
    (name) => path.posix.normalize(name) === name && (name === '/' || !name.endsWith('/')),
    'want a path without ".", ".." and needless slashes',
  );

const mountSchema = z.strictObject({
  type: text.min(1),
  source: text.min(1),
  options: z.array(text.min(1)).default([]),
});

/** zod's own check of keys says no more than that one is wrong. */
function checkDestinations(mounts: Readonly<Record<string, unknown>>, context: z.RefinementCtx): void {
  for (const destination of Object.keys(mounts)) {
    const issue = absolute.safeParse(destination).error?.issues[0];
    if (issue !== undefined) context.addIssue({ code: 'custom', path: [destination], message: issue.message });
  }
}

/** What the runtime mounts at a place. Source: OCI runtime-spec config.md, "Mounts". */
export type RuntimeMount = z.output<typeof mountSchema>;

const id = z.int().min(0).max(4_294_967_294);

const mappingSchema = z.strictObject({ containerID: id, hostID: id, size: z.int().min(1).max(4_294_967_295) });

/** Ids in the container and what they are on the host. Source: OCI runtime-spec config-linux.md, "User namespace mappings". */
export type IdMapping = z.output<typeof mappingSchema>;

const shared = streamLayeredImageArgsSchema.pick({
  ...{ fromImage: true, fromImageName: true, fromImageTag: true },
  ...{ storeDir: true, storeRoot: true, references: true, closure: true, compat: true },
});

/** What `buildContainer` takes: the names, meanings and defaults of ociTools, and from `env` on what it lacks. */
export const buildContainerArgsSchema = shared.extend({
  /** Program and arguments; null: what the image runs. Store paths in them come into the bundle with all they refer to. */
  args: z.array(text).min(1, 'want a program').nullable().default(null),
  /** By destination; one of the same destination as a default takes its place, null takes the default away. */
  mounts: z.record(z.string(), mountSchema.nullable()).superRefine(checkDestinations).default({}),
  os: text.min(1).default('linux'),
  /** In Go's words, as `uname -m` has them, or null for this machine's. */
  arch: text.min(1).nullable().default(null),
  /** The root file system cannot be written to. */
  readonly: z.boolean().default(false),
  /** `NAME=value`, over those of the image. */
  env: z.array(text.regex(/^[^=]+=/, 'want NAME=value')).default([]),
  /** null: that of the image, else `/`. */
  cwd: absolute.nullable().default(null),
  /** Names or numbers as images have them; null: that of the image, else root. */
  user: text.nullable().default(null),
  terminal: z.boolean().default(false),
  hostname: text.min(1).nullable().default(null),
  /** As `CAP_CHOWN`; none by default. */
  capabilities: z.array(z.string().regex(/^CAP_[A-Z_]+$/, 'want a name such as CAP_CHOWN')).default([]),
  /** Root in the container is another user of the host: by default the calling one, who must not be root. */
  userNamespace: z.boolean().default(false),
  uidMappings: z.array(mappingSchema).min(1, 'want a mapping').nullable().default(null),
  gidMappings: z.array(mappingSchema).min(1, 'want a mapping').nullable().default(null),
});

/** See {@link buildContainerArgsSchema}. */
export type BuildContainerArgs = z.input<typeof buildContainerArgsSchema>;

/** Checked arguments, with their defaults. */
export type ContainerArgs = z.output<typeof buildContainerArgsSchema>;
