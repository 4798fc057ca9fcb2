import { availableParallelism } from 'node:os';
import type { Readable } from 'node:stream';
import { filterProgram } from '../../host/filter-program.ts';

/** How an image archive can be compressed. */
export const compressorChoices = ['none', 'gz', 'zstd'] as const;

/** See {@link compressorChoices}. */
export type CompressorChoice = (typeof compressorChoices)[number];

/** By compressor: the ending of a file's name, and the program with its arguments for a number of cores, which does not change the bytes. */
export const compressors: Record<
  CompressorChoice,
  { readonly ext: string; readonly command: ((cores: number) => readonly string[]) | null }
> = {
  none: { ext: '', command: null },
  // No name, no time, and blocks that end where the content says: a small change of the image changes little of the archive.
  gz: { ext: '.gz', command: (cores) => ['pigz', `-p${cores}`, '-nTR'] },
  zstd: { ext: '.zst', command: (cores) => ['zstd', '-q', `-T${cores}`] },
};

/**
 * Gives a stream compressed by all cores, always with the same bytes, and the same as dockerTools' for one program version: `gz` by pigz with no name, no
 * time and rsyncable, `zstd` at its default level. Throws `E_TOOL` when the program is missing.
 */
export function compressed(input: Readable, compressor: CompressorChoice, signal: AbortSignal): Readable {
  const [program, ...args] = compressors[compressor].command?.(availableParallelism()) ?? [];
  return program === undefined ? input : filterProgram(program, args, input, signal);
}
