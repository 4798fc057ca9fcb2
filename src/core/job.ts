import { z } from 'zod';
import type { DiffId, Digest } from './digest.ts';
import type { ErrorBody } from './errors.ts';
import type { JobId } from './ids.ts';
import { type LimitName, type Limits, limitsSchema } from './limits.ts';

/** How a job can be confined; `auto` lets policy and the machine choose. */
export const isolationChoices = ['auto', 'userns', 'chroot', 'vm'] as const;
export type IsolationChoice = (typeof isolationChoices)[number];
export type Isolation = Exclude<IsolationChoice, 'auto'>;

export const networkChoices = ['none', 'host'] as const;
export type NetworkChoice = (typeof networkChoices)[number];

export const compatChoices = ['none', 'seed'] as const;
export type CompatChoice = (typeof compatChoices)[number];

const envName = /^[A-Za-z_][A-Za-z0-9_]*$/;

/** Values that only the first `execve` sees; NUL cannot be in them. */
const MAX_VARIABLES = 1000;
/** What execve(2) takes for one string, and well below what it takes in all. */
const MAX_VARIABLE_BYTES = 131_072 - 1;
const MAX_ENV_BYTES = 1024 * 1024;

const envSchema = z
  .record(
    z.string().regex(envName, 'want letters, digits and underscores, not starting with a digit'),
    z.string().refine((value) => !value.includes('\0'), 'want no NUL byte'),
  )
  .refine((env) => Object.keys(env).length <= MAX_VARIABLES, `want at most ${MAX_VARIABLES} variables`)
  .refine((env) => sizesOf(env).every((size) => size <= MAX_VARIABLE_BYTES), `want at most ${MAX_VARIABLE_BYTES} bytes a variable`)
  .refine((env) => sizesOf(env).reduce((sum, size) => sum + size, 0) <= MAX_ENV_BYTES, `want at most ${MAX_ENV_BYTES} bytes in all`);

function sizesOf(env: Record<string, string>): number[] {
  return Object.entries(env).map(([name, value]) => Buffer.byteLength(name) + Buffer.byteLength(value) + 2);
}

const MAX_TERMINAL_SIDE = 1000;

/** Height and width of a terminal, in characters. */
export const terminalSizeSchema = z.strictObject({
  rows: z.int().min(1).max(MAX_TERMINAL_SIDE),
  columns: z.int().min(1).max(MAX_TERMINAL_SIDE),
});
export type TerminalSize = z.infer<typeof terminalSizeSchema>;

/**
 * One request to run a script on a base image, as a client sends it. No member is a path of the host: the files of `--copy`
 * and `--file` travel as a context, a tar stream uploaded before (`contextId`).
 */
export const jobRequestSchema = z.strictObject({
  /** A name:tag or digest of an image in the store, or `scratch`. */
  from: z.string().min(1).max(4096),
  /** The script's bytes as base64, so that any bytes survive. At most 16 MiB decoded. */
  script: z.base64().max(24 * 1024 * 1024),
  isolation: z.enum(isolationChoices).default('auto'),
  network: z.enum(networkChoices).default('none'),
  env: envSchema.default({}),
  limits: limitsSchema.prefault({}),
  /** Seconds since 1970: later mtimes in the layer are clamped to it, and it is the image's `created`. */
  sourceDateEpoch: z.int().min(0).max(253_402_300_799).nullable().default(null),
  /** An uploaded tar: members below `copy/` go into the upper with owner 0:0 before the script, those below `files/` are shown to the script only. */
  contextId: z
    .string()
    .regex(/^[0-9a-f]{32}$/)
    .nullable()
    .default(null),
  /** name:tag of the resulting image; kept in the store under it when given. */
  name: z.string().max(4096).nullable().default(null),
  /** Merged over the base's config field by field; see core/image.ts. */
  config: z.record(z.string(), z.unknown()).nullable().default(null),
  /**
   * `seed`: a layer like that of nixpkgs' dockerTools: every entry of the upper with one time (`sourceDateEpoch`, 315532800 when null),
   * names with a leading `./`, hard links as copies, no attributes.
   */
  compat: z.enum(compatChoices).default('none'),
  /** Gives the script a terminal of this size in place of pipes; all of its output is `stdout` then. */
  terminal: terminalSizeSchema.nullable().default(null),
});

/** A checked {@link jobRequestSchema}. */
export type JobRequest = z.infer<typeof jobRequestSchema>;

/** The states of a job, in order; the last four are final. Source of the state machine: docs/architecture.md. */
export const jobStates = ['queued', 'preparing', 'running', 'capturing', 'done', 'failed', 'cancelled', 'lost'] as const;
export type JobState = (typeof jobStates)[number];

export function isFinal(state: JobState): boolean {
  return state === 'done' || state === 'failed' || state === 'cancelled' || state === 'lost';
}

/** The layer a job made. Sizes in bytes; `sizeBytes` is that of the uncompressed tar. */
export type LayerSummary = {
  diffId: DiffId;
  tarsum: string;
  sizeBytes: number;
  entries: number;
  /** What the capture left out or changed, in words: sockets, unreadable attributes. */
  warnings: string[];
};

/** What a job used at its peak, where the machine can tell. */
export type JobUsage = {
  memoryPeakBytes: number | null;
  pidsPeak: number | null;
  cpuMs: number | null;
  diskBytes: number | null;
  outputBytes: number;
};

/**
 * What stands between a script and the host: the namespaces of the kernel that they share, a virtual machine with hardware support, or
 * nothing that counts as a security boundary (`chroot`; `vm` under software emulation).
 */
export const boundaries = ['kernel', 'hardware', 'none'] as const;
export type Boundary = (typeof boundaries)[number];

/** Which isolation a job got, why, and what each refused one lacked. */
export type IsolationReport = { used: Isolation; why: string; boundary: Boundary; refused: { isolation: Isolation; lacked: string }[] };

/** A job as the API shows it. Times are ISO 8601 in UTC. */
export type JobRecord = {
  id: JobId;
  state: JobState;
  uid: number;
  from: string;
  /** Config digest of the base image; null for `scratch`. */
  baseImage: Digest | null;
  createdAt: string;
  startedAt: string | null;
  finishedAt: string | null;
  isolation: IsolationReport | null;
  limits: Limits;
  /** The script's own exit status (128 + signal when killed), null when it did not run to an end. */
  exitStatus: number | null;
  /** Who tells the exit status: the host's kernel, or the guest, which could say anything. Null without a status. */
  exitStatusBy: 'kernel' | 'guest' | null;
  /** The limit that ended the job, with its value in the unit of {@link Limits}. */
  endedByLimit: { limit: LimitName; value: number; peak: number | null } | null;
  usage: JobUsage | null;
  error: ErrorBody | null;
  layer: LayerSummary | null;
  /** name:tag under which the image was stored, if asked for. */
  imageName: string | null;
  /** Seconds spent per stage, for the curious. */
  timingsMs: Record<string, number>;
};

/** What to do with the output of a job, in order; `n` counts from 1 without gaps, `timeMs` is since the job was accepted. */
export type JobEvent = { n: number; timeMs: number } & (
  | { type: 'state'; state: JobState }
  | { type: 'log'; stream: 'stdout' | 'stderr' /** UTF-8 text, or base64 when `encoding` says so. */; data: string; encoding?: 'base64' }
  | { type: 'progress'; stage: string; done: number; total: number | null; unit: 'bytes' | 'entries' }
  | { type: 'warning'; message: string }
  | { type: 'end'; job: JobRecord }
);
