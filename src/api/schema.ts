import { z } from 'zod';
import type { Digest } from '../core/digest.ts';
import type { Feature } from '../core/engine.ts';
import { ERROR_CODES, type ErrorBody, type ErrorCode } from '../core/errors.ts';
import type { JobId } from '../core/ids.ts';
import { type ImageRecord, imageFormats, layerCompressions } from '../core/image.ts';
import { boundaries, isolationChoices, type JobEvent, type JobRecord, jobStates } from '../core/job.ts';
import { limitNames, limitsSchema } from '../core/limits.ts';
import { logStreams } from './session.ts';

/** The same type with brands taken off: what JSON can say. */
type Plain<T> = T extends Digest | JobId ? string : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;

const digest = z.string().regex(/^sha256:[0-9a-f]{64}$/);
const time = z.iso.datetime();
const bytes = z.int().min(0);

/* ---- requests ---- */

/** A flag in a query: `1` or `true`, `0` or `false`. */
const flag = z.enum(['1', 'true', '0', 'false']).transform((value) => value === '1' || value === 'true');

export const noQuery = z.strictObject({});
export const jobParams = z.strictObject({ id: z.string().describe('id of a job: 32 lower-case hex digits') });
export const imageParams = z.strictObject({
  ref: z.string().min(1).max(4096).describe('name:tag, image id, or digest of the archive the image came in; percent-encoded'),
});
export const importQuery = z.strictObject({
  name: z.string().min(1).max(4096).optional().describe('name:tag to store the image under, instead of the names in the archive'),
  select: z.string().min(1).max(4096).optional().describe('which image of an archive with several: exact name:tag or digest'),
  shared: flag.default(false).describe('readable by every caller; only an administrator may'),
});
export const imageFormatQuery = z.strictObject({ format: z.enum(imageFormats).default('docker-archive') });
export const compressionQuery = z.strictObject({ compression: z.enum(layerCompressions).default('none') });
export const eventsQuery = z.strictObject({
  from: z.coerce.number().int().min(1).max(Number.MAX_SAFE_INTEGER).default(1).describe('number of the first event'),
  follow: flag.default(false).describe('go on until the event "end"'),
});
export const logQuery = z.strictObject({ stream: z.enum(logStreams).default('both'), follow: flag.default(false) });

/* ---- answers ---- */

const errorCodes = Object.keys(ERROR_CODES).filter((code): code is ErrorCode => Object.hasOwn(ERROR_CODES, code));

export const errorSchema = z.strictObject({
  code: z.enum(errorCodes),
  message: z.string(),
  hint: z.string().exactOptional(),
  retryable: z.boolean(),
}) satisfies z.ZodType<Plain<ErrorBody>>;

export const problemSchema = z.strictObject({
  ...errorSchema.shape,
  type: z.string(),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
});

export const imageSchema = z.strictObject({
  id: digest,
  sourceDigest: digest.nullable(),
  names: z.array(z.string()),
  layers: z.array(z.strictObject({ diffId: digest, blobDigest: digest, blobSizeBytes: bytes, compression: z.enum(layerCompressions) })),
  createdAt: time,
  sizeBytes: bytes,
  uid: z.int().min(0),
  shared: z.boolean(),
}) satisfies z.ZodType<Plain<ImageRecord>>;

const isolationName = z.enum(isolationChoices).exclude(['auto']);

export const jobSchema = z.strictObject({
  id: z.string().regex(/^[0-9a-f]{32}$/),
  state: z.enum(jobStates),
  uid: z.int().min(0),
  from: z.string(),
  baseImage: digest.nullable(),
  createdAt: time,
  startedAt: time.nullable(),
  finishedAt: time.nullable(),
  isolation: z
    .strictObject({
      used: isolationName,
      why: z.string(),
      boundary: z.enum(boundaries),
      refused: z.array(z.strictObject({ isolation: isolationName, lacked: z.string() })),
    })
    .nullable(),
  limits: limitsSchema,
  exitStatus: z.int().nullable(),
  exitStatusBy: z.enum(['kernel', 'guest']).nullable(),
  endedByLimit: z.strictObject({ limit: z.enum(limitNames), value: z.number(), peak: z.number().nullable() }).nullable(),
  usage: z
    .strictObject({
      memoryPeakBytes: bytes.nullable(),
      pidsPeak: z.int().nullable(),
      cpuMs: z.number().nullable(),
      diskBytes: bytes.nullable(),
      outputBytes: bytes,
    })
    .nullable(),
  error: errorSchema.nullable(),
  layer: z
    .strictObject({ diffId: digest, tarsum: z.string(), sizeBytes: bytes, entries: z.int(), warnings: z.array(z.string()) })
    .nullable(),
  imageName: z.string().nullable(),
  timingsMs: z.record(z.string(), z.number()),
}) satisfies z.ZodType<Plain<JobRecord>>;

const eventBase = { n: z.int().min(1), timeMs: z.number() };
const progressShape = { stage: z.string(), done: z.number(), total: z.number().nullable(), unit: z.enum(['bytes', 'entries']) };

export const eventSchema = z.discriminatedUnion('type', [
  z.strictObject({ ...eventBase, type: z.literal('state'), state: z.enum(jobStates) }),
  z.strictObject({
    ...eventBase,
    type: z.literal('log'),
    stream: z.enum(['stdout', 'stderr']),
    data: z.string(),
    encoding: z.literal('base64').exactOptional(),
  }),
  z.strictObject({ ...eventBase, type: z.literal('progress'), ...progressShape }),
  z.strictObject({ ...eventBase, type: z.literal('warning'), message: z.string() }),
  z.strictObject({ ...eventBase, type: z.literal('end'), job: jobSchema }),
]) satisfies z.ZodType<Plain<JobEvent>>;

/** One line of an import's answer: progress, then one result or one error. */
export const importLineSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('progress'), ...progressShape }),
  z.strictObject({ type: z.literal('result'), image: imageSchema }),
  z.strictObject({ type: z.literal('error'), error: errorSchema }),
]);

export const imageDetailsSchema = z.strictObject({ image: imageSchema, config: z.unknown() });
export const imageListSchema = z.strictObject({ images: z.array(imageSchema) });
export const jobListSchema = z.strictObject({ jobs: z.array(jobSchema) });
export const contextSchema = z.strictObject({ id: z.string().regex(/^[0-9a-f]{32}$/) });
export const versionSchema = z.strictObject({ version: z.string(), api: z.literal('v1'), node: z.string() });
export const healthSchema = z.strictObject({ status: z.enum(['ok', 'draining']), uptimeSec: z.number(), connections: z.int() });
export const featuresSchema = z.strictObject({
  features: z.array(
    z.strictObject({
      name: z.string(),
      ok: z.boolean(),
      required: z.boolean(),
      detail: z.string(),
      remedy: z.string().nullable(),
    }) satisfies z.ZodType<Plain<Feature>>,
  ),
});
