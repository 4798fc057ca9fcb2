import { readFile, stat } from 'node:fs/promises';
import { RootlayerError } from '../../core/errors.ts';
import { parseStrictJson } from '../../core/strict-json.ts';
import { recipeError } from '../recipe-error.ts';

/** Gives the object of `baseJson`: a file with JSON, or the object itself. Throws `E_RECIPE`. */
export async function readBaseJson(baseJson: string | Record<string, unknown>): Promise<Record<string, unknown>> {
  if (typeof baseJson !== 'string') return baseJson;
  const value = parsed(await readBytes(baseJson));
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw recipeError(['baseJson'], `${JSON.stringify(baseJson)} holds no object`);
}

async function readBytes(file: string): Promise<Buffer> {
  try {
    if ((await stat(file)).isFile()) return await readFile(file);
  } catch (error) {
    throw recipeError(['baseJson'], `there is no file ${JSON.stringify(file)} that you may read`, undefined, error);
  }
  throw recipeError(['baseJson'], `${JSON.stringify(file)} is no file`);
}

function parsed(bytes: Buffer): unknown {
  try {
    return parseStrictJson(bytes, { what: 'the file' });
  } catch (error) {
    throw recipeError(['baseJson'], error instanceof RootlayerError ? error.message : String(error), undefined, error);
  }
}
