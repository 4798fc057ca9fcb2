import { z } from 'zod';
import { layerCompressions } from '../../core/image.ts';
import { contextTops } from './context-filter.ts';

const GIB = 1024 * 1024 * 1024;

/** What one layer may cost. */
export const unpackLimitsSchema = z.strictObject({
  /** Members; `E_LIMIT_ENTRIES` beyond. */
  maxEntries: z.int().min(1).default(1_000_000),
  /** Uncompressed bytes; `E_LIMIT_UNPACKED` beyond. */
  maxUnpackedBytes: z
    .int()
    .min(1)
    .default(64 * GIB),
  /** Uncompressed bytes for each compressed one; `E_LIMIT_RATIO` beyond. */
  maxRatio: z.int().min(1).default(200),
  /** Below so many uncompressed bytes the ratio does not count. */
  ratioFloorBytes: z
    .int()
    .min(0)
    .default(64 * 1024 * 1024),
  /** gzip members or zstd frames; `E_COMPRESSION` beyond. Formats with lazy access have one for each file. */
  maxMembers: z.int().min(1).default(500_000),
  /** False leaves POSIX access control lists out. */
  keepAcls: z.boolean().default(true),
});

/** See {@link unpackLimitsSchema}; all numbers set. */
export type UnpackLimits = z.infer<typeof unpackLimitsSchema>;

/**
 * A request to the worker. With it go the descriptors: the input (the blob, or for zstd a pipe), the staging directory, and for zstd
 * the blob, for a context perhaps the base below it.
 */
export const unpackRequestSchema = z.strictObject({
  kind: z.literal('layer').default('layer'),
  compression: z.enum(layerCompressions),
  /** Size of the blob. */
  blobBytes: z.int().min(0),
  limits: unpackLimitsSchema,
  /** Extracts only what is below this top directory of an uploaded context, with the directory taken off; null for a layer. */
  context: z.enum(contextTops).nullable().default(null),
});

/** See {@link unpackRequestSchema}. */
export type UnpackRequest = z.infer<typeof unpackRequestSchema>;

/** What the worker answers. It has read hostile bytes: nothing in it is believed beyond its form. */
export const unpackResultSchema = z.strictObject({
  diffId: z.string().regex(/^sha256:[0-9a-f]{64}$/),
  unpackedBytes: z.int().min(0),
  entries: z.int().min(0),
  /** Paths below the root, base64 of their bytes; the root itself is empty. */
  opaqueDirectories: z.array(z.base64()),
  warnings: z.array(z.string().max(4096)).max(16),
  skippedDevices: z.int().min(0),
  droppedXattrs: z.int().min(0),
  /** Top directories that the context has members in; none for a layer. */
  tops: z.array(z.enum(contextTops)).max(contextTops.length),
});

/** See {@link unpackResultSchema}. */
export type UnpackResult = z.infer<typeof unpackResultSchema>;
