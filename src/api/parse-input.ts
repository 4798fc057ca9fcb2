import type { z } from 'zod';
import { RootlayerError } from '../core/errors.ts';

const MAX_ISSUES = 3;
const MAX_TEXT = 300;

/**
 * Gives a value from outside as the schema has it; throws `E_PROTOCOL` with the path of what is wrong. Values are never repeated in the message:
 * they can be secrets.
 */
export function parseInput<T extends z.ZodType>(schema: T, value: unknown, what: string): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issues = result.error.issues.slice(0, MAX_ISSUES).map(describe);
  throw new RootlayerError('E_PROTOCOL', `Cannot read ${what}: ${issues.join('; ')}`, {
    hint: 'GET /v1/openapi.json describes every request',
  });
}

function describe(issue: z.core.$ZodIssue): string {
  const where = issue.path.map(String).join('.');
  const text = where === '' ? issue.message : `${where}: ${issue.message}`;
  return text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}...` : text;
}
