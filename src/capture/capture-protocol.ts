import { z } from 'zod';
import { type DiffId, isDigest } from '../core/digest.ts';

const GIB = 1024 ** 3;

/** How large a layer may become. */
export const captureLimitsSchema = z.strictObject({
  /** Bytes of the uncompressed tar, headers and logical file sizes; `E_LIMIT_RESULT` beyond. */
  maxBytes: z
    .int()
    .min(1024)
    .default(8 * GIB),
  /** Members of the tar; `E_LIMIT_RESULT` beyond. */
  maxEntries: z.int().min(1).max(100_000_000).default(1_000_000),
  /** Names and values of the extended attributes of one file, in bytes; `E_LIMIT_XATTR` beyond. */
  maxXattrBytes: z
    .int()
    .min(0)
    .max(1024 * 1024)
    .default(128 * 1024),
});

/** What a capture worker is asked to do. Its descriptors: the directory, the output file, and for a layer perhaps the lower view. */
export const captureRequestSchema = z.strictObject({
  /** `layer`: the changeset of an upper directory over its lower view; `tree`: all of a merged root. */
  kind: z.enum(['layer', 'tree']),
  /** Whether the third descriptor, the merged view of all lower layers, is there. */
  hasLower: z.boolean(),
  /** Seconds since 1970: later mtimes are clamped to it. */
  sourceDateEpoch: z.int().min(0).nullable(),
  /** What becomes of device nodes: refused with `E_CAPTURE_DEVICE`, or kept. */
  devices: z.enum(['refuse', 'keep']),
  /**
   * `seed` packs as nixpkgs' runWithOverlay does: every entry of the upper directory, all times set to `sourceDateEpoch`, hard links as copies,
   * no attributes, names with a leading `./`.
   */
  compat: z.enum(['none', 'seed']),
  limits: captureLimitsSchema,
});

/** See {@link captureRequestSchema}. */
export type CaptureRequest = z.infer<typeof captureRequestSchema>;

/** What a capture worker answers. */
export const captureResultSchema = z.strictObject({
  /** Of the tar that is now in the output file. */
  diffId: z.custom<DiffId>((value) => typeof value === 'string' && isDigest(value), 'want a sha256 digest'),
  sizeBytes: z.int().min(1024),
  entries: z.int().min(0),
  /** Version 1 with sha256. */
  tarsum: z.string().regex(/^tarsum\.v1\+sha256:[0-9a-f]{64}$/),
  /** What was left out or changed, in words, a line each, with counts. */
  warnings: z.array(z.string().max(2000)).max(100),
});

/** See {@link captureResultSchema}. Its type is that of core's LayerSummary. */
export type CaptureResult = z.infer<typeof captureResultSchema>;
