import { RootlayerError } from '../core/errors.ts';

const PREFIX = 'Cannot use recipe: ';

/**
 * Gives the error for a place in a recipe, or in the arguments of an image function: its members as a JSON pointer (RFC 6901). The message reads
 * `Cannot use recipe: /config/Env: ...`.
 */
export function recipeError(place: readonly PropertyKey[], why: string, hint?: string, cause?: unknown): RootlayerError {
  return new RootlayerError('E_RECIPE', `${PREFIX}${pointer(place)}${why}`, { hint, cause });
}

/** Gives the same error with the name of the recipe's file in its message; what is no error of a recipe stays as it is. */
export function inFile(error: unknown, file: string): unknown {
  if (!(error instanceof RootlayerError) || error.code !== 'E_RECIPE' || !error.message.startsWith(PREFIX)) return error;
  return new RootlayerError('E_RECIPE', `Cannot use ${file}: ${error.message.slice(PREFIX.length)}`, { hint: error.hint, cause: error });
}

function pointer(place: readonly PropertyKey[]): string {
  if (place.length === 0) return '';
  return `${place.map((part) => `/${String(part).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('')}: `;
}
