import { accessSync, constants, lstatSync, readdirSync, realpathSync, type Stats, statSync } from 'node:fs';
import path from 'node:path';
import { RootlayerError } from '../core/errors.ts';

/** What a job's result can be written as. */
export const resultFormats = ['tar', 'tar.gz', 'tar.zst', 'dir', 'docker-archive', 'oci-archive', 'oci-dir'] as const;
export type ResultFormat = (typeof resultFormats)[number];

/** What an image can be written as. */
export const exportFormats = ['docker-archive', 'oci-archive', 'oci-dir', 'rootfs-tar'] as const;
export type ExportFormat = (typeof exportFormats)[number];

/**
 * Where a result goes. `file`: a temporary file beside it, renamed when whole. `directory`: likewise. `device`: there already and no
 * regular file (`/dev/null`, a FIFO), so it is written to as it is. `stdout`: `-`.
 */
export type Target =
  | { kind: 'file'; path: string }
  | { kind: 'directory'; path: string }
  | { kind: 'device'; path: string }
  | { kind: 'stdout' };

/** A checked `-o`. */
export type OutputPlan<F extends string> = { target: Target; format: F; wasGuessed: boolean };

const ENDINGS: readonly [ending: string, format: ResultFormat][] = [
  ['.tar', 'tar'],
  ['.tar.gz', 'tar.gz'],
  ['.tgz', 'tar.gz'],
  ['.tar.zst', 'tar.zst'],
  ['.tzst', 'tar.zst'],
  ['/', 'dir'],
];

/**
 * Gives the plan for `-o OUT --format FORMAT`. Without a format the ending decides: `.tar`, `.tar.gz` or `.tgz`, `.tar.zst` or `.tzst`, a final slash
 * for `dir`; `-` is a plain tar. Throws `E_USAGE` before any work is done when the place cannot be written to.
 */
export function planResult(out: string, format: string | undefined): OutputPlan<ResultFormat> {
  if (format !== undefined) return plan(out, checkFormat(format, resultFormats), false);
  const guessed = out === '-' ? 'tar' : ENDINGS.find(([ending]) => out.endsWith(ending))?.[1];
  if (guessed === undefined) {
    throw new RootlayerError('E_USAGE', `Cannot tell the format of -o ${JSON.stringify(out)} from its ending`, {
      hint: `give it with --format ${resultFormats.join('|')}`,
    });
  }
  return plan(out, guessed, true);
}

/** Gives the plan for writing an image. Throws `E_USAGE` as {@link planResult} does. */
export function planExport(out: string, format: string): OutputPlan<ExportFormat> {
  return plan(out, checkFormat(format, exportFormats), false);
}

function checkFormat<F extends string>(format: string, known: readonly F[]): F {
  const found = known.find((name) => name === format);
  if (found === undefined)
    throw new RootlayerError('E_USAGE', `Cannot use --format ${JSON.stringify(format)}: want one of ${known.join(', ')}`);
  return found;
}

function plan<F extends string>(out: string, format: F, wasGuessed: boolean): OutputPlan<F> {
  const wantsDirectory = format === 'dir' || format === 'oci-dir';
  if (out === '-') {
    if (wantsDirectory) throw refuse(out, `the format ${format} is a directory and cannot go to standard output`);
    return { target: { kind: 'stdout' }, format, wasGuessed };
  }
  if (out === '') throw refuse(out, 'it is empty, want a path');
  return { target: wantsDirectory ? directoryTarget(out) : fileTarget(out), format, wasGuessed };
}

/** Gives where a file goes. Throws `E_USAGE` for a directory, and where nothing can be written. */
export function fileTarget(out: string): Target {
  const stat = statIfThere(out);
  if (out.endsWith('/') || stat?.isDirectory()) throw refuse(out, 'it is a directory, want a file for this format');
  // Renaming over it would replace the device by a file.
  if (stat !== undefined && !stat.isFile()) return { kind: 'device', path: out };
  // A link keeps being one: its target is what is replaced.
  const file = stat === undefined ? path.resolve(out) : realpathSync(out);
  checkParent(out, path.dirname(file));
  return { kind: 'file', path: file };
}

/** Gives where a directory goes: it is not there yet, or empty. Throws `E_USAGE`. */
export function directoryTarget(out: string): Target {
  const dir = path.resolve(out);
  const stat = lstatSync(dir, { throwIfNoEntry: false });
  if (stat !== undefined && !stat.isDirectory()) throw refuse(out, 'it is there and is no directory');
  if (stat !== undefined && readdirSync(dir).length > 0) throw refuse(out, 'the directory is not empty');
  checkParent(out, path.dirname(dir));
  return { kind: 'directory', path: dir };
}

function checkParent(out: string, parent: string): void {
  try {
    accessSync(parent, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw refuse(out, `its directory "${parent}" is not there or cannot be written to`, error);
  }
}

function statIfThere(file: string): Stats | undefined {
  try {
    return statSync(file, { throwIfNoEntry: false });
  } catch (error) {
    throw refuse(file, error instanceof Error ? error.message : String(error), error);
  }
}

function refuse(out: string, why: string, cause?: unknown): RootlayerError {
  return new RootlayerError('E_USAGE', `Cannot write to -o ${JSON.stringify(out)}: ${why}`, { cause });
}
