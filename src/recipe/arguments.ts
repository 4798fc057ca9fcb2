import { z } from 'zod';
import { recipeError } from './recipe-error.ts';

/**
 * Checks the arguments of an image function. Throws `E_RECIPE` naming the first place that is wrong: an unknown member with the known one it may have been
 * meant to be, or a wrong type with what is wanted.
 */
export function parseArguments<Schema extends z.ZodType>(schema: Schema, value: unknown): z.output<Schema> {
  const result = schema.safeParse(value, { reportInput: true });
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  if (issue === undefined) throw recipeError([], 'it is malformed');
  throw issueError(schema, issue, value);
}

type Issue = z.core.$ZodIssue;

function issueError(schema: z.ZodType, issue: Issue, value: unknown): Error {
  if (issue.code === 'unrecognized_keys') return unknownMember(schema, issue.path, issue.keys[0] ?? '');
  const deeper = issue.code === 'invalid_union' ? bestOf(issue.errors) : undefined;
  if (deeper !== undefined) return issueError(schema, { ...deeper, path: [...issue.path, ...deeper.path] } as Issue, value);
  if (issue.code === 'invalid_type') {
    const found = memberAt(value, issue.path);
    if (found === undefined) return recipeError(issue.path, `it is missing, want ${withArticle(issue.expected)}`);
    return recipeError(issue.path, `it is ${kindOf(found)}, want ${withArticle(issue.expected)}`);
  }
  return recipeError(issue.path, issue.message);
}

/** Of the ways in which a union does not fit, the one that got furthest tells most; when none got anywhere, the union's own words do. */
function bestOf(branches: readonly (readonly Issue[])[]): Issue | undefined {
  const firsts = branches.map(([first]) => first).filter((issue) => issue !== undefined);
  const deep = firsts.filter((issue) => issue.path.length > 0 || issue.code === 'unrecognized_keys');
  return deep.sort((a, b) => b.path.length - a.path.length)[0];
}

/** Gives words to add to "there is no such" about a name that may be misspelt, and a hint with the known ones when none is near. */
export function suggest(name: string, known: readonly string[]): { words: string; hint?: string } {
  const near = known.map((one) => ({ one, distance: distanceOf(name.toLowerCase(), one.toLowerCase()) }));
  const [best] = near.filter(({ distance }) => distance <= MAX_DISTANCE).sort((a, b) => a.distance - b.distance);
  return best === undefined
    ? { words: '', hint: `known are: ${[...known].sort().join(', ')}` }
    : { words: `, did you mean ${JSON.stringify(best.one)}?` };
}

function unknownMember(schema: z.ZodType, place: readonly PropertyKey[], key: string): Error {
  const { words, hint } = suggest(key, knownMembers(schema, place));
  return recipeError([...place, key], `there is no such member${words}`, hint);
}

const MAX_DISTANCE = 3;

type JsonSchema = {
  properties?: Record<string, JsonSchema>;
  additionalProperties?: JsonSchema | boolean;
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
};

/** The members that an object at this place may have, whichever branch of a union it is in. */
function knownMembers(schema: z.ZodType, place: readonly PropertyKey[]): string[] {
  let at = branches(z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as JsonSchema);
  for (const part of place) at = at.flatMap((one) => stepInto(one, part)).flatMap(branches);
  return [...new Set(at.flatMap(({ properties }) => Object.keys(properties ?? {})))];
}

function branches(schema: JsonSchema): JsonSchema[] {
  const inner = [...(schema.anyOf ?? []), ...(schema.oneOf ?? [])];
  return inner.length === 0 ? [schema] : inner.flatMap(branches);
}

function stepInto({ properties, additionalProperties, items }: JsonSchema, part: PropertyKey): JsonSchema[] {
  if (typeof part === 'number') return items === undefined ? [] : [items];
  const found = properties?.[String(part)];
  if (found !== undefined) return [found];
  return typeof additionalProperties === 'object' ? [additionalProperties] : [];
}

/** Letters to add, drop or change, by Levenshtein. */
function distanceOf(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, n) => n);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

function memberAt(value: unknown, place: readonly PropertyKey[]): unknown {
  let at = value;
  for (const part of place) at = typeof at === 'object' && at !== null ? (at as Record<PropertyKey, unknown>)[part] : undefined;
  return at;
}

function kindOf(value: unknown): string {
  if (value === null) return 'null';
  return withArticle(Array.isArray(value) ? 'array' : typeof value);
}

const WORDS: Record<string, string> = {
  array: 'a list',
  object: 'an object',
  record: 'an object',
  int: 'a whole number',
  boolean: 'true or false',
};

function withArticle(kind: string): string {
  return WORDS[kind] ?? `a ${kind}`;
}
