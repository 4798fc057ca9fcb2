import { z } from 'zod';

/** What the ingest worker is asked; its descriptors are the archive (a file or a pipe) and the directory to write to. */
export const ingestRequestSchema = z.strictObject({
  /** Of what comes out of the descriptor; zstd is undone before. */
  compression: z.enum(['none', 'gzip']),
  /** Read by position, not by the descriptor's own offset. */
  isFile: z.boolean(),
  /** Bytes of all members together, and of the archive when it is compressed. */
  maxBytes: z.int().min(0),
  maxMembers: z.int().min(0),
});

/** See {@link ingestRequestSchema}. */
export type IngestRequest = z.infer<typeof ingestRequestSchema>;
