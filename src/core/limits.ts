import { z } from 'zod';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;

/** What one job may use. Sizes in bytes, times in milliseconds. */
export const limitsSchema = z.strictObject({
  memoryBytes: z
    .int()
    .min(16 * MIB)
    .default(2 * GIB),
  /** Cores; 0.5 is half of one. */
  cpus: z.number().min(0.01).max(1024).default(1),
  pids: z.int().min(4).max(4_000_000).default(1024),
  diskBytes: z
    .int()
    .min(16 * MIB)
    .max(1024 * GIB)
    .default(8 * GIB),
  inodes: z.int().min(1024).max(100_000_000).default(500_000),
  /** Wall clock from the script's first instruction. */
  timeMs: z
    .int()
    .min(1)
    .max(24 * 24 * 3600 * 1000)
    .default(15 * 60 * 1000),
  /** Longest time without output; 0 is no limit. */
  silenceMs: z
    .int()
    .min(0)
    .max(24 * 24 * 3600 * 1000)
    .default(0),
  /** Standard output and standard error together. */
  outputBytes: z
    .int()
    .min(1024)
    .max(64 * GIB)
    .default(256 * MIB),
});

/** See {@link limitsSchema}. */
export type Limits = z.infer<typeof limitsSchema>;

/** The name of a limit as the user set it; `disk` covers bytes and inodes. */
export const limitNames = ['memory', 'pids', 'disk', 'time', 'silence', 'output'] as const;

/** See {@link limitNames}. */
export type LimitName = (typeof limitNames)[number];
