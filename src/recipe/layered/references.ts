import path from 'node:path';
import { z } from 'zod';
import { recipeError } from '../recipe-error.ts';

/** What Nix knows of a path, as far as it was told. */
export type ReferenceNode = {
  /** Without the path itself. */
  readonly references: readonly string[];
  readonly refersToItself: boolean;
  /** Of the path as a NAR, about the size of its files. */
  readonly sizeBytes: number | null;
  /** Of the NAR, in any of Nix's spellings. */
  readonly narHash: string | null;
};

/** Paths and what they refer to. */
export type ReferenceGraph = ReadonlyMap<string, ReferenceNode>;

const absolute = z.string().regex(/^\/[^\0]*$/, 'want an absolute path');

const plainSchema = z.record(absolute, z.array(absolute));

const infoSchema = z.looseObject({
  references: z.array(absolute),
  narSize: z.int().min(0).nullish(),
  narHash: z.string().nullish(),
  /** `nix path-info` of a path that the store does not hold. */
  valid: z.boolean().optional(),
});

const infoListSchema = z.array(infoSchema.extend({ path: absolute }));

/** null: a path that the store does not hold. */
const infoMapSchema = z.record(absolute, infoSchema.nullable());

/**
 * What refers to what: `{path: [paths]}`, or the output of `nix path-info --json --recursive` as it is, which is a list of objects (Nix up to 2.18) or
 * an object by path (since 2.19).
 */
export const referencesSchema = z.union([plainSchema, infoListSchema, infoMapSchema], {
  error: 'want an object of lists by path, or what "nix path-info --json --recursive" prints',
});

/** Checked {@link referencesSchema}. */
export type References = z.infer<typeof referencesSchema>;

/** Gives references in either form as a graph. Throws `E_RECIPE` for a path that the Nix store they come from does not hold, or one that has no entry. */
export function parseReferences(references: References): ReferenceGraph {
  if (Array.isArray(references)) return checkedGraph(references.map(({ path: name, ...info }): Named => [name, info]));
  const entries = Object.entries(references);
  const lists = entries.filter((entry): entry is [string, string[]] => Array.isArray(entry[1]));
  if (lists.length < entries.length) return checkedGraph(entries as Named[]);
  return new Map(lists.map(([name, list]) => [name, nodeOf(name, { references: list })]));
}

/**
 * Gives the roots and all they refer to, as a graph of its own in the order of the paths. A path without an entry refers to nothing. Throws `E_RECIPE`,
 * naming the place, for a path outside `storeDir` and for references that go in a circle.
 */
export function closureOf(graph: ReferenceGraph, roots: readonly string[], storeDir: string): ReferenceGraph {
  const found = new Map<string, ReferenceNode>();
  // Those that are being looked at, outermost first. No recursion: a chain can be longer than the stack of calls.
  const trail = new Set<string>();
  const enter = (name: string): Visit | null => {
    if (trail.has(name)) throw recipeError(['references'], `${quote(name)} refers to itself by way of ${quote([...trail].at(-1) ?? '')}`);
    if (found.has(name)) return null;
    if (storePathOf(name, storeDir) !== name) throw outside(name, [...trail], storeDir);
    trail.add(name);
    return { name, node: graph.get(name) ?? nodeOf(name, { references: [] }), next: 0 };
  };
  for (const root of roots) {
    const open = [enter(root)];
    for (let visit = open.at(-1); visit !== undefined && visit !== null; visit = open.at(-1)) {
      const reference = visit.node.references[visit.next];
      visit.next += 1;
      const below = reference === undefined ? null : enter(reference);
      if (below !== null) open.push(below);
      if (reference !== undefined) continue;
      open.pop();
      trail.delete(visit.name);
      found.set(visit.name, visit.node);
    }
  }
  return new Map([...found].sort(([a], [b]) => compareText(a, b)));
}

/** How far a path's references have been looked at. */
type Visit = { readonly name: string; readonly node: ReferenceNode; next: number };

/** Gives the path right below the store directory that a path lies in or is; null for what lies elsewhere. */
export function storePathOf(name: string, storeDir: string): string | null {
  const dir = storeDir.replace(/\/+$/, '');
  const normal = path.posix.normalize(name).replace(/\/+$/, '');
  if (!normal.startsWith(`${dir}/`)) return null;
  return `${dir}/${normal.slice(dir.length + 1).split('/')[0] ?? ''}`;
}

/** Orders texts as Python and the C locale do: by code point. */
export function compareText(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

type Named = [name: string, info: z.infer<typeof infoSchema> | null];

/** A list of Nix is whole: what it refers to has an entry. */
function checkedGraph(entries: readonly Named[]): ReferenceGraph {
  const graph = new Map<string, ReferenceNode>();
  for (const [name, info] of entries) {
    if (info === null || info.valid === false)
      throw recipeError(['references', name], 'the store it was listed from does not hold this path');
    graph.set(name, nodeOf(name, info));
  }
  for (const [name, { references }] of graph) {
    const missing = references.find((reference) => !graph.has(reference));
    if (missing !== undefined) {
      throw recipeError(
        ['references', name],
        `it refers to ${quote(missing)}, which has no entry`,
        'list it with "nix path-info --recursive"',
      );
    }
  }
  return graph;
}

function nodeOf(name: string, { references, narSize, narHash }: z.infer<typeof infoSchema>): ReferenceNode {
  return {
    references: [...new Set(references)].filter((reference) => reference !== name),
    refersToItself: references.includes(name),
    sizeBytes: narSize ?? null,
    narHash: narHash ?? null,
  };
}

function outside(name: string, trail: readonly string[], storeDir: string): Error {
  const by = trail.at(-1);
  const place = by === undefined ? ['closure'] : ['references', by];
  return recipeError(
    place,
    `Expecting absolute paths from ${storeDir}, but got: ${quote(name)}`,
    'change "storeDir", or what refers to it',
  );
}

function quote(text: string): string {
  return JSON.stringify(text);
}
