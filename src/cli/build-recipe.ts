import { statSync } from 'node:fs';
import { chmod } from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';
import { DigestStream } from '../api/digest-stream.ts';
import type { Digest } from '../core/digest.ts';
import { RootlayerError, toRootlayerError } from '../core/errors.ts';
import type { JobRecord } from '../core/job.ts';
import { SEED_EPOCH } from '../recipe/build/seed-epoch.ts';
import { writeTree } from '../recipe/helpers/directory.ts';
import type { RecipeContext } from '../recipe/recipe-context.ts';
import { inFile, recipeError } from '../recipe/recipe-error.ts';
import { labelOf, readRecipe } from '../recipe/recipe-file.ts';
import { type RecipeResult, runRecipe } from '../recipe/run-recipe.ts';
import { packTree } from '../recipe/tree/pack.ts';
import { EXIT_CANCELLED, EXIT_FAILURE, exitStatusOf } from './exit-status.ts';
import { directoryTarget, fileTarget, type Target } from './output-plan.ts';
import type { Outcome } from './program.ts';
import { saveDirectory, saveStream } from './save.ts';

/** What `rootlayer build` was asked for. */
export type BuildRequest = { readonly output?: string; readonly set: readonly string[] };

/** The one document of `rootlayer build --json`. The digest is that of the file; directories have none. */
export type Built = { output: { path: string; sizeBytes: number; digest: Digest | null } } & Record<string, unknown>;

/**
 * Runs a recipe and writes what it makes: a file, a directory for a few files (or a tar of them, when OUT ends in `.tar`), a text. Errors of the recipe name
 * its file; one of a script leaves the script's own status in `outcome`.
 */
export async function buildRecipe(
  file: string | undefined,
  request: BuildRequest,
  context: RecipeContext,
  outcome: Outcome,
): Promise<Built> {
  if (file === undefined) throw new RootlayerError('E_USAGE', 'Cannot build without a recipe: want a JSON file, or "-"');
  outcome.statusOf = statusOfError;
  const label = labelOf(file);
  try {
    const recipe = await readRecipe(file, request.set);
    await using made = await runRecipe(recipe, context);
    const output = await write(made, request.output, context);
    return { function: recipe['function'], ...made.facts, output };
  } catch (error) {
    if (context.signal.aborted) throw new RootlayerError('E_CANCELLED', `Cannot build ${label}: it was cancelled`, { cause: error });
    throw inFile(toRootlayerError(error), label);
  }
}

/** A job that failed is the cause of its error: a script's own status counts. */
function statusOfError(error: RootlayerError): number {
  if (error.code === 'E_CANCELLED') return EXIT_CANCELLED;
  const { cause } = error;
  return isJob(cause) ? exitStatusOf(cause) : EXIT_FAILURE;
}

function isJob(value: unknown): value is JobRecord {
  return typeof value === 'object' && value !== null && 'exitStatus' in value && 'state' in value;
}

type Written = Built['output'];

async function write(made: RecipeResult, out: string | undefined, context: RecipeContext): Promise<Written> {
  const { progress, signal } = context;
  const name = placeFor(made, out);
  const wantsTar = name === '-' || name.endsWith('.tar');
  if (made.kind === 'tree' && !wantsTar) return await writeDirectory(made, name, context);
  const target: Target = name === '-' ? { kind: 'stdout' } : fileTarget(name);
  const bytes = streamOf(made, signal);
  const hashed = bytes.pipe(new DigestStream());
  bytes.once('error', (error) => hashed.destroy(error));
  hashed.once('close', () => bytes.destroy());
  const fetched = { stream: hashed, sizeBytes: null, fileName: made.fileName, digest: hashed.digest };
  // The stream's own failure is told by saving it.
  fetched.digest.catch(() => {});
  const saved = await saveStream(fetched, target, (done, total) => progress({ stage: 'writing', done, total, unit: 'bytes' }), signal);
  if (made.kind === 'text' && target.kind === 'file') await chmod(target.path, made.mode);
  return { path: name === '-' ? '-' : path.resolve(name), ...saved };
}

/** A directory that is there is where the result goes under its own name. */
function placeFor({ kind, fileName }: RecipeResult, out: string | undefined): string {
  if (out === undefined) return bareName(fileName);
  if (out === '') throw new RootlayerError('E_USAGE', 'Cannot write to -o "": it is empty, want a path');
  const isDirectory = statSync(out, { throwIfNoEntry: false })?.isDirectory() === true;
  return kind !== 'tree' && (isDirectory || out.endsWith('/')) ? path.join(out, bareName(fileName)) : out;
}

/** Where a result goes is for the caller to say: a recipe of somebody's must not choose among the caller's files. */
function bareName(fileName: string): string {
  if (/^[^/\0]+$/.test(fileName) && !/^\.{1,2}$/.test(fileName)) return fileName;
  throw recipeError(
    ['name'],
    `the result would be called ${JSON.stringify(fileName)}, want the name of a file, without a directory`,
    'say where it goes with -o',
  );
}

function streamOf(made: RecipeResult, signal: AbortSignal): Readable {
  if (made.kind === 'file') return made.open(signal);
  if (made.kind === 'text') return Readable.from([Buffer.from(made.text)], { objectMode: false });
  return Readable.from(packTree(made.tree, { format: 'gnu', mtimeSec: SEED_EPOCH }, signal), { objectMode: false });
}

async function writeDirectory(made: RecipeResult & { kind: 'tree' }, out: string, context: RecipeContext): Promise<Written> {
  const { tree } = made;
  const target = directoryTarget(out);
  if (target.kind !== 'directory') throw new RootlayerError('E_INTERNAL', 'Cannot write a directory there');
  const fill = made.write ?? (async (dir: string): Promise<void> => await writeTree(tree, dir, context.signal));
  await saveDirectory(target.path, async (draft) => await fill(draft, context));
  const sizeBytes = [...tree.entries()].reduce((sum, { node }) => sum + (node.type === 'file' ? node.size : 0), 0);
  return { path: target.path, sizeBytes, digest: null };
}
