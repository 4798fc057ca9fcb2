import { recipeError } from '../recipe-error.ts';
import { splitBySize } from './auto-layer.ts';
import { diskSizeOf } from './files.ts';
import { orderByPopularity } from './popularity.ts';
import type { ReferenceGraph } from './references.ts';

/** How the paths of a closure are dealt to layers; see {@link groupPaths}. */
export const layeringChoices = ['popularity', 'size'] as const;
export type Layering = (typeof layeringChoices)[number];

/** Throws `E_RECIPE` unless a layered image may have at least one layer of its own and one of contents. */
export function checkMaxLayers(maxLayers: number): void {
  if (maxLayers > 1) return;
  const why = 'the maxLayers argument of dockerTools.buildLayeredImage function must be greather than 1';
  throw recipeError(['maxLayers'], `${why} (current value: ${maxLayers})`);
}

/** Gives how many layers are left for store paths beside those of the base and the one of customisation. Throws `E_RECIPE` when it is none. */
export function availableLayers(maxLayers: number, baseLayers: number): number {
  const used = baseLayers + 1;
  if (used < maxLayers) return maxLayers - used;
  throw recipeError(
    ['maxLayers'],
    `Error: usedLayers ${used} layers to store 'fromImage' and 'extraCommands', but only maxLayers=${maxLayers} were allowed. At least 1 layer is required to store contents.`,
    `set "maxLayers" to ${used + 1} or more, or make a base with fewer layers`,
  );
}

/**
 * Deals the paths of a closure to at most `available` layers. By popularity, the most needed paths get a layer each, and all others share the last one;
 * by size, see {@link splitBySize}. No layer is empty.
 */
export function groupPaths(closure: ReferenceGraph, layering: Layering, available: number, storeRoot: string): string[][] {
  if (layering === 'size') return splitBySize(closure, sizesOf(closure, storeRoot), available);
  const paths = orderByPopularity(closure);
  const single = paths.slice(0, available - 1).map((path) => [path]);
  return [...single, paths.slice(available - 1)].filter((group) => group.length > 0);
}

function sizesOf(closure: ReferenceGraph, storeRoot: string): Map<string, number> {
  return new Map([...closure].map(([path, { sizeBytes }]) => [path, sizeBytes ?? diskSizeOf(path, storeRoot)]));
}
