import { readFile } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { buffer } from 'node:stream/consumers';
import { RootlayerError } from '../core/errors.ts';
import { parseStrictJson } from '../core/strict-json.ts';
import { recipeError } from './recipe-error.ts';

/** Gives what messages call a recipe: the name of its file. */
export function labelOf(file: string): string {
  return file === '-' ? 'recipe' : path.basename(file);
}

/** References of a large closure are long. */
const BOUNDS = { maxBytes: 256 * 1024 * 1024, maxKeys: 10_000_000, code: 'E_RECIPE' } as const;

/** Members that name files of this machine, whichever the function; in lists, and in helpers among contents, too. */
const PATH_MEMBERS = new Set([
  ...['fromImage', 'copyToRoot', 'contents', 'tools', 'images', 'derivations', 'closure', 'storeRoot', 'source', 'baseJson', 'rcfile'],
]);

/**
 * Gives a recipe as it was written, paths made absolute. It is read from a file, or from standard input for `-`, with `key=value` pairs set over its members: the value is JSON, or else a text. Relative paths
 * in the file are relative to it, those of standard input and of pairs to the working directory. Throws `E_USAGE` when it cannot be read, `E_RECIPE` for what
 * is no JSON object.
 */
export async function readRecipe(file: string, pairs: readonly string[]): Promise<Record<string, unknown>> {
  const bytes = file === '-' ? await buffer(process.stdin) : await readBytes(file);
  const recipe = objectOnly(parseStrictJson(bytes, { ...BOUNDS, what: labelOf(file) }));
  const dir = file === '-' ? process.cwd() : path.dirname(path.resolve(file));
  return { ...withPaths(recipe, dir), ...withPaths(Object.fromEntries(pairs.map(pairOf)), process.cwd()) };
}

/** Gives the members of a recipe with relative paths made absolute. */
export function withPaths(recipe: Readonly<Record<string, unknown>>, dir: string): Record<string, unknown> {
  const entries = Object.entries(recipe).map(([key, value]) => [key, PATH_MEMBERS.has(key) ? absolute(value, dir) : value]);
  return Object.fromEntries(entries) as Record<string, unknown>;
}

function absolute(value: unknown, dir: string): unknown {
  if (typeof value === 'string') return value === '' ? value : path.resolve(dir, value);
  if (Array.isArray(value)) return value.map((item) => absolute(item, dir));
  return isObject(value) && 'function' in value ? withPaths(value, dir) : value;
}

async function readBytes(file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (error) {
    const why = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    throw new RootlayerError('E_USAGE', `Cannot read recipe ${JSON.stringify(file)}: ${why}, want a JSON file, or "-"`, { cause: error });
  }
}

function objectOnly(value: unknown): Record<string, unknown> {
  if (isObject(value)) return value;
  throw recipeError([], 'want one JSON object with the member "function"');
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function pairOf(text: string): [string, unknown] {
  const at = text.indexOf('=');
  if (at < 1) throw new RootlayerError('E_USAGE', `Cannot use --set ${JSON.stringify(text)}: want key=value`);
  return [text.slice(0, at), jsonOrText(text.slice(at + 1))];
}

function jsonOrText(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // What is no JSON is meant as it is: a tag need not be quoted twice.
    return text;
  }
}
