import { z } from 'zod';

const GIB = 1024 ** 3;

/** What the result of a guest may cost. */
export const resultLimitsSchema = z.strictObject({
  /** Bytes of the tar, and so of all logical file sizes; `E_LIMIT_RESULT` beyond. Headers take more room here than in a layer. */
  maxBytes: z
    .int()
    .min(1024)
    .default(10 * GIB),
  /** Members; `E_LIMIT_RESULT` beyond. */
  maxEntries: z.int().min(1).max(100_000_000).default(1_000_000),
});

/** See {@link resultLimitsSchema}; all numbers set. */
export type ResultLimits = z.infer<typeof resultLimitsSchema>;

/** A request to an unpack worker. With it go the descriptors: the tar (a pipe, read to its end) and the upper directory. */
export const resultRequestSchema = z.strictObject({ kind: z.literal('result'), limits: resultLimitsSchema });

/** See {@link resultRequestSchema}. */
export type ResultRequest = z.infer<typeof resultRequestSchema>;

const idSchema = z
  .int()
  .min(0)
  .max(2 ** 32 - 2);
const modeSchema = z.int().min(0).max(0o7777);
const ownerSchema = z.strictObject({ uid: idSchema, gid: idSchema, mode: modeSchema });
const deviceNumberSchema = z
  .int()
  .min(0)
  .max(2 ** 32 - 1);
/** A path below the root in base64; empty for the root itself. */
const pathSchema = z.base64();

const deviceSchema = z.strictObject({
  kind: z.enum(['char', 'block']),
  path: pathSchema,
  major: deviceNumberSchema,
  minor: deviceNumberSchema,
  owner: ownerSchema,
  mtimeSec: z.int(),
  mtimeNsec: z.int().min(0).max(999_999_999),
});

/** Another name of a device of the same list. */
const linkSchema = z.strictObject({ kind: z.literal('link'), path: pathSchema, target: pathSchema });

const xattrSchema = z.strictObject({
  name: z.enum(['trusted.overlay.opaque', 'security.capability', 'system.posix_acl_access', 'system.posix_acl_default']),
  /** In base64. */
  value: z.base64(),
});

const attributesSchema = z.strictObject({ path: pathSchema, owner: ownerSchema.nullable(), xattrs: z.array(xattrSchema).max(4) });

/** What the worker leaves to the daemon, in the order in which it is due; it comes from hostile bytes, and is no more believed than they are. */
export const lateWorkSchema = z.strictObject({
  nodes: z.array(z.discriminatedUnion('kind', [deviceSchema, linkSchema])),
  attributes: z.array(attributesSchema),
});

/** See {@link lateWorkSchema}. */
export type LateWork = z.infer<typeof lateWorkSchema>;
/** A device, or another name of one. */
export type LateNode = LateWork['nodes'][number];
/** Owner, mode and attributes of a file that is there; a null owner leaves owner and mode alone. */
export type LateAttributes = LateWork['attributes'][number];

/** What the worker answers. */
export const resultAnswerSchema = z.strictObject({
  bytes: z.int().min(0),
  entries: z.int().min(0),
  warnings: z.array(z.string().max(4096)).max(16),
  late: lateWorkSchema,
});

/** See {@link resultAnswerSchema}. */
export type ResultAnswer = z.infer<typeof resultAnswerSchema>;
