import { z } from 'zod';
import type { DiffId } from './digest.ts';
import { isDigest } from './digest.ts';
import { RootlayerError } from './errors.ts';

/** Most layers that an image may have: overlayfs and Docker both end near here. */
export const MAX_LAYERS = 127;

const noNul = (text: string): boolean => !text.includes('\0');
const text = z.string().refine(noNul, 'want no NUL byte');
const words = z.array(text);

/** `NAME=value`; the name may hold anything but `=` and NUL, as execve(2) has it. */
const envEntry = text.regex(/^[^=]+=/, 'want NAME=value');

/** A name as useradd(8) takes it, or an id that a uid_t can hold, with the same for a group behind a colon. */
const account = String.raw`(?:\d{1,10}|[A-Za-z_][A-Za-z0-9_.-]{0,254}\$?)`;
const userSchema = z
  .string()
  .regex(new RegExp(`^(?:${account}(?::${account})?|:${account})?$`), 'want user, user:group, or numbers')
  .refine((user) => user.split(':').every((part) => !/^\d+$/.test(part) || Number(part) <= 4_294_967_294), 'want ids up to 4294967294');

const presence = z.record(text, z.looseObject({}).nullable());

const healthcheckSchema = z.looseObject({
  Test: words.nullish(),
  Interval: z.int().nullish(),
  Timeout: z.int().nullish(),
  StartPeriod: z.int().nullish(),
  StartInterval: z.int().nullish(),
  Retries: z.int().nullish(),
});

/** The members of an image's `config` that rootlayer knows. Source: OCI image-spec config.md; moby's image spec v1.2 for the rest. */
const containerMembers = {
  User: userSchema,
  ExposedPorts: presence,
  Env: z.array(envEntry),
  Entrypoint: words,
  Cmd: words,
  Volumes: presence,
  WorkingDir: text,
  Labels: z.record(text, text),
  StopSignal: text,
  StopTimeout: z.int().min(0),
  Healthcheck: healthcheckSchema,
  Shell: words,
  OnBuild: words,
  ArgsEscaped: z.boolean(),
  Hostname: text,
  Domainname: text,
  AttachStdin: z.boolean(),
  AttachStdout: z.boolean(),
  AttachStderr: z.boolean(),
  Tty: z.boolean(),
  OpenStdin: z.boolean(),
  StdinOnce: z.boolean(),
} as const;

/** The `config` member of an image config: how to run a container. Members that are not known are kept as they came. */
export type ContainerConfig = Optional<typeof containerMembers> & { [key: string]: unknown };

type Optional<Members extends Record<string, z.ZodType>> = {
  -readonly [Key in keyof Members]?: z.infer<Members[Key]> | null | undefined;
};

const historySchema = z.looseObject({
  created: z.string().nullish(),
  created_by: z.string().nullish(),
  author: z.string().nullish(),
  comment: z.string().nullish(),
  empty_layer: z.boolean().nullish(),
});

const rootfsSchema = z.looseObject({
  type: z.literal('layers'),
  diff_ids: z.array(z.string().refine(isDigest, 'want "sha256:" and 64 lower-case hex digits')).max(MAX_LAYERS).nullish(),
});

const imageMembers = {
  created: z.string(),
  author: z.string(),
  architecture: z.string(),
  variant: z.string(),
  os: z.string(),
  history: z.array(historySchema).max(10_000),
} as const;

const imageConfigSchema = z.looseObject({
  ...nullish(imageMembers),
  config: z.looseObject(nullish(containerMembers)).nullish(),
  rootfs: rootfsSchema,
});

/** An image config, of OCI or of Docker: the JSON whose digest is the image's id. Unknown members are kept as they came. */
export type ImageConfig = Optional<typeof imageMembers> & {
  config?: ContainerConfig | null | undefined;
  rootfs: z.infer<typeof rootfsSchema>;
} & { [key: string]: unknown };

/** Checks a parsed image config. Throws `E_CONFIG` naming the member. */
export function parseImageConfig(value: unknown): ImageConfig {
  return checked(imageConfigSchema, value, 'image config') as ImageConfig;
}

/** Gives the diffIDs of an image, bottom to top. */
export function diffIdsOf(config: ImageConfig): DiffId[] {
  return (config.rootfs.diff_ids ?? []) as DiffId[];
}

/** The only members of a config that decide anything on this machine; all others are handed on and no more. */
export type RuntimeConfig = { env: [name: string, value: string][]; workingDir: string | null; user: string | null };

/** Gives {@link RuntimeConfig}. A working directory that is relative or has `..` in it counts as none. */
export function runtimeConfigOf(config: ContainerConfig | null | undefined): RuntimeConfig {
  const dir = config?.WorkingDir ?? '';
  const isPlain = dir.startsWith('/') && !dir.split('/').includes('..');
  return { env: envPairs(config?.Env ?? []), workingDir: isPlain ? dir : null, user: config?.User ? config.User : null };
}

/** Names in it are removed from maps by null; a whole member is removed by null too. */
const overrideSchema = z.strictObject({
  ...nullish(containerMembers),
  Labels: z.record(text, text.nullable()).nullable().optional(),
  ExposedPorts: presence.nullable().optional(),
  Volumes: presence.nullable().optional(),
});

/**
 * Gives the base's container config with an override merged in, member by member: `Env` by name (the last one wins, in the order of first
 * appearance), `Labels`, `ExposedPorts` and `Volumes` by key, where null removes the key; all others are replaced. null removes a member.
 * `Entrypoint` without `Cmd` clears the inherited `Cmd`, as in a Dockerfile. Throws `E_CONFIG` for an unknown member or a malformed value.
 */
export function mergeConfig(base: ContainerConfig | null | undefined, override: Record<string, unknown> | null): ContainerConfig {
  const merged: ContainerConfig = withoutNulls(base ?? {});
  if (override === null) return merged;
  const changes = checked(overrideSchema, override, 'config') as ContainerConfig;
  if (changes.Entrypoint && changes.Cmd === undefined) delete merged.Cmd;
  for (const [key, value] of Object.entries(changes)) {
    if (value === undefined) continue;
    if (value === null) delete merged[key];
    else merged[key] = mergeMember(key, merged[key], value);
  }
  return merged;
}

function mergeMember(key: string, before: unknown, value: unknown): unknown {
  if (key === 'Env') return mergeEnv((before ?? []) as string[], value as string[]);
  if (key === 'Labels' || key === 'ExposedPorts' || key === 'Volumes') {
    return withoutNulls({ ...(before as Record<string, unknown> | undefined), ...(value as Record<string, unknown>) });
  }
  return value;
}

/** Joins two lists of `NAME=value`: the last value of a name wins and stands where the name first did. */
export function mergeEnv(base: readonly string[], more: readonly string[]): string[] {
  return [...new Map(envPairs([...base, ...more]))].map(([name, value]) => `${name}=${value}`);
}

function envPairs(env: readonly string[]): [string, string][] {
  return env.map((entry) => {
    const at = entry.indexOf('=');
    return [entry.slice(0, at), entry.slice(at + 1)];
  });
}

function withoutNulls(members: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== null && value !== undefined));
}

/** What becomes of a base's config: see {@link deriveConfig}. */
export type DeriveOptions = {
  /** ISO 8601. */
  readonly created: string;
  /** Shown by `docker history`. */
  readonly createdBy: string;
  readonly override: Record<string, unknown> | null;
  /** As GOARCH has it (`amd64`); wanted without a base, and otherwise instead of the base's. */
  readonly architecture?: string;
};

/**
 * Gives the config of an image that has the base's layers and one more (or none more, with null): the base's members with the override merged in,
 * diffIDs and history extended. Where the base's history does not have one entry a layer, it is replaced by plain ones. Same input, same text:
 * the known members in the order of the OCI spec, all others sorted. Throws `E_CONFIG`. Source: OCI image-spec config.md, "Properties".
 */
export function deriveConfig(
  base: ImageConfig | null,
  layer: DiffId | null,
  options: DeriveOptions,
): { config: ImageConfig; json: string } {
  const architecture = options.architecture ?? base?.architecture ?? undefined;
  if (architecture === undefined) {
    throw new RootlayerError(
      'E_CONFIG',
      'Cannot make an image config: neither the base image nor the caller says which architecture it is for',
    );
  }
  const diffIds = [...(base === null ? [] : diffIdsOf(base)), ...(layer === null ? [] : [layer])];
  if (diffIds.length > MAX_LAYERS) {
    throw new RootlayerError('E_CONFIG', `Cannot make an image of ${diffIds.length} layers: want at most ${MAX_LAYERS}`);
  }
  const step = { created: options.created, created_by: options.createdBy, ...(layer === null ? { empty_layer: true } : {}) };
  const rest = Object.entries(base ?? {}).filter(([key]) => !DERIVED.has(key) && !STALE.has(key));
  const members: Record<string, unknown> = {
    created: options.created,
    author: base?.author,
    architecture,
    variant: options.architecture === undefined || options.architecture === base?.architecture ? base?.variant : undefined,
    os: base?.os || 'linux',
    config: sorted(mergeConfig(base?.config, options.override)),
    rootfs: { type: 'layers', diff_ids: diffIds },
    history: [...(base === null ? [] : repairedHistory(base)), step],
    ...Object.fromEntries(rest.map(([key, value]): [string, unknown] => [key, sorted(value)]).sort(byKey)),
  };
  const config = withoutNulls(members) as ImageConfig;
  return { config, json: JSON.stringify(config) };
}

/** Members that are made anew. */
const DERIVED = new Set(['created', 'author', 'architecture', 'variant', 'os', 'config', 'rootfs', 'history']);

/** Members of older image formats that speak of the base itself, and would be wrong for anything made from it. */
const STALE = new Set(['id', 'parent', 'parent_id', 'checksum', 'Size', 'container', 'container_config', 'docker_version', 'throwaway']);

function repairedHistory(base: ImageConfig): object[] {
  const history = base.history ?? [];
  const layers = diffIdsOf(base).length;
  if (history.filter((entry) => entry.empty_layer !== true).length === layers) return history.map((entry) => withoutNulls(entry));
  return Array.from({ length: layers }, () => withoutNulls({ created: base.created }));
}

/** What Docker writes as `null` where nothing is set counts as absent. */
function nullish(members: Record<string, z.ZodType>): Record<string, z.ZodType> {
  return Object.fromEntries(Object.entries(members).map(([key, schema]) => [key, schema.nullish()]));
}

/** Sorts the keys of objects, at every level; lists keep their order. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .map(([key, member]): [string, unknown] => [key, sorted(member)])
      .sort(byKey),
  );
}

function byKey([a]: [string, unknown], [b]: [string, unknown]): number {
  return a < b ? -1 : 1;
}

function checked<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const where = issue === undefined || issue.path.length === 0 ? '' : ` member ${JSON.stringify(issue.path.join('.')).slice(0, 200)}`;
  const why =
    issue?.code === 'unrecognized_keys'
      ? `there is no member ${JSON.stringify(issue.keys[0]?.slice(0, 100))}`
      : (issue?.message ?? 'it is malformed');
  throw new RootlayerError('E_CONFIG', `Cannot use ${what}${where}: ${why}`);
}
