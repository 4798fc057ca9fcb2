import { z } from 'zod';

const GIB = 1024 ** 3;

/** How large a disk image may become. */
export const diskLimitsSchema = z.strictObject({
  /** Bytes of the image, holes included; `E_LIMIT_UNPACKED` beyond. */
  maxBytes: z
    .int()
    .min(1)
    .max(8192 * GIB)
    .default(1024 * GIB),
  /** Files of the tree, each inode once; `E_LIMIT_ENTRIES` beyond. */
  maxInodes: z.int().min(1).max(100_000_000).default(2_000_000),
});

/** What a disk worker is asked to do. Its descriptors: the root directory of the tree, and an empty file that is open for writing. */
export const diskRequestSchema = z.strictObject({ limits: diskLimitsSchema });

/** What a disk worker answers. */
export const diskResultSchema = z.strictObject({
  /** Of the image: a multiple of 4096. */
  sizeBytes: z.int().min(4096).multipleOf(4096),
  inodes: z.int().min(1),
  /** Left out: they are of no use without the process that made them. */
  sockets: z.int().min(0),
});

/** See {@link diskResultSchema}. */
export type DiskResult = z.infer<typeof diskResultSchema>;
