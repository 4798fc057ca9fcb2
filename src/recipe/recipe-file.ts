import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { buffer } from 'node:stream/consumers';
import type { z } from 'zod';
import { RootlayerError } from '../core/errors.ts';
import { parseStrictJson } from '../core/strict-json.ts';
import { recipeError } from './recipe-error.ts';
import { argumentSchemas, isRecipeFunction } from './schema.ts';

/** Gives what messages call a recipe: the name of its file. */
export function labelOf(file: string): string {
  return file === '-' ? 'recipe' : path.basename(file);
}

/** References of a large closure are long. */
const BOUNDS = { maxBytes: 256 * 1024 * 1024, maxKeys: 10_000_000, code: 'E_RECIPE' } as const;

/** Members that name files of this machine, whichever the function; in lists, and in helpers among contents, too. */
const PATH_MEMBERS = new Set([
  ...['fromImage', 'copyToRoot', 'contents', 'images', 'derivations', 'closure', 'storeRoot', 'source', 'baseJson'],
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
  const set = pairs.map((text) => pairOf(text, recipe['function']));
  return { ...withPaths(recipe, dir), ...withPaths(Object.fromEntries(set), process.cwd()) };
}

/** Gives the members of a recipe with relative paths made absolute. */
export function withPaths(recipe: Readonly<Record<string, unknown>>, dir: string): Record<string, unknown> {
  const entries = Object.entries(recipe).map(([key, value]) => {
    if (key === 'tools' && typeof value === 'string') return [key, fileOrName(value, dir)];
    return [key, PATH_MEMBERS.has(key) ? absolute(value, dir) : value];
  });
  return Object.fromEntries(entries) as Record<string, unknown>;
}

/** A name of an image in the engine stays as it is, unless there is a file of that name. */
function fileOrName(text: string, dir: string): string {
  const file = path.resolve(dir, text);
  return /^\.{0,2}\//.test(text) || existsSync(file) ? file : text;
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

function pairOf(text: string, name: unknown): [string, unknown] {
  const at = text.indexOf('=');
  if (at < 1) throw new RootlayerError('E_USAGE', `Cannot use --set ${JSON.stringify(text)}: want key=value`);
  const key = text.slice(0, at);
  return [key, jsonOrText(text.slice(at + 1), (value) => isWanted(name, key, value))];
}

/** What is no JSON is meant as it is, and so is a number or a word where a text is wanted: `tag=1.0` need not be quoted twice. */
function jsonOrText(text: string, isWanted: (value: unknown) => boolean): unknown {
  try {
    const value: unknown = JSON.parse(text);
    return (typeof value === 'object' && value !== null) || isWanted(value) || !isWanted(text) ? value : text;
  } catch {
    return text;
  }
}

function isWanted(name: unknown, key: string, value: unknown): boolean {
  if (typeof name !== 'string' || !isRecipeFunction(name)) return true;
  const shape: Readonly<Record<string, z.ZodType>> = argumentSchemas[name].shape;
  return shape[key]?.safeParse(value).success ?? true;
}
