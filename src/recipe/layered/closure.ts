import { lstatSync } from 'node:fs';
import path from 'node:path';
import { recipeError } from '../recipe-error.ts';
import type { LayeredArgs } from './args.ts';
import { closureOf, parseReferences, type ReferenceGraph, storePathOf } from './references.ts';

/**
 * Gives all store paths that an image needs, with what they refer to: those of `contents` and `closure`, and those of `mentioned` (by the config, or by
 * what scripts left behind) that are there. Throws `E_RECIPE` for a path outside `storeDir`, and one that is to be packed and is missing
 * on this machine.
 */
export function closureOfImage(args: LayeredArgs, mentioned: ReadonlySet<string>): ReferenceGraph {
  const { storeDir, storeRoot } = args;
  const graph = parseReferences(args.references);
  const isThere = (name: string): boolean => lstatSync(storeRoot + name, { throwIfNoEntry: false }) !== undefined;
  const known = [...mentioned].map((text) => knownPath(text, (name) => graph.has(name) || isThere(name))).filter((name) => name !== null);
  const closure = closureOf(graph, [...storedContents(args), ...explicitRoots(args), ...known], storeDir);
  for (const name of args.includeStorePaths ? closure.keys() : []) {
    if (isThere(name)) continue;
    throw recipeError(placeOf(args, name), `${JSON.stringify(storeRoot + name)}: there is no such file or directory`);
  }
  return closure;
}

/** In a sentence, what stands behind a path may be read as part of it. */
function knownPath(text: string, isKnown: (name: string) => boolean): string | null {
  for (let name = text; name !== ''; name = name.slice(0, -1)) {
    if (isKnown(name)) return name;
    if (/[0-9A-Za-z/]$/.test(name)) return null;
  }
  return null;
}

function storedContents({ contents, storeDir }: LayeredArgs): string[] {
  return contents
    .flatMap((item) => (typeof item === 'string' ? [storePathOf(path.resolve(item), storeDir)] : []))
    .filter((name) => name !== null);
}

function explicitRoots({ closure, storeDir }: LayeredArgs): string[] {
  return closure.map((name, at) => {
    const found = storePathOf(name, storeDir);
    if (found !== null) return found;
    throw recipeError(['closure', at], `Expecting absolute paths from ${storeDir}, but got: ${JSON.stringify(name)}`);
  });
}

/** Where the recipe names a path, itself or by what refers to it. */
function placeOf({ closure, contents, references }: LayeredArgs, name: string): PropertyKey[] {
  const inClosure = closure.indexOf(name);
  if (inClosure >= 0) return ['closure', inClosure];
  const inContents = contents.indexOf(name);
  if (inContents >= 0) return ['contents', inContents];
  return Array.isArray(references) ? ['references'] : ['references', name];
}
