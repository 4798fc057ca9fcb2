import { lstatSync } from 'node:fs';
import type { Scope } from '../../core/scope.ts';
import { type ArchivedImage, openBaseImage } from '../archive/base-archive.ts';
import { mergeLayers } from '../archive/merge-layers.ts';
import { storeEntries } from '../layered/files.ts';
import { mentionsInText } from '../layered/mentions.ts';
import { closureOf, parseReferences, type ReferenceGraph, storePathOf } from '../layered/references.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { recipeError } from '../recipe-error.ts';
import { PLAIN_DIRECTORY, Tree } from '../tree/tree.ts';
import type { ContainerArgs } from './args.ts';

/** A container's root file system, and the image it comes from. */
export type Rootfs = { readonly tree: Tree; readonly image: ArchivedImage | null };

/**
 * Gives the root file system of a bundle: the image's merged root when there is one, the closure of the store paths in `args` and of `closure`, and
 * directories for what is always mounted. What reading the image needs is the scope's. Throws `E_RECIPE`, and what `openBaseImage` throws.
 */
export async function rootfsOf(
  args: ContainerArgs,
  scope: Scope,
  { signal, note }: Pick<RecipeContext, 'signal' | 'note'>,
): Promise<Rootfs> {
  const { fromImage, fromImageName: name, fromImageTag: tag, storeDir, storeRoot } = args;
  const image = fromImage === null ? null : scope.use(await openBaseImage(fromImage, { name, tag }, signal));
  if (image?.isFirstOfSeveral) note("From-image name or tag wasn't set. Reading the first image.");
  const tree = image === null ? new Tree(PLAIN_DIRECTORY) : await mergeLayers(image.layers, scope, signal);
  const closure = containerClosure(args);
  if (closure.size > 0) for (const { path, node } of storeEntries(closure.keys(), { storeDir, storeRoot })) addStored(tree, path, node);
  for (const mountPoint of ['dev', 'proc', 'sys']) {
    if (tree.lookup(Buffer.from(mountPoint)) === undefined) tree.insert(Buffer.from(mountPoint), PLAIN_DIRECTORY);
  }
  return { tree, image };
}

/** Directories that the image has keep what they are. */
function addStored(tree: Tree, path: Buffer, node: Parameters<Tree['insert']>[1]): void {
  if (node === PLAIN_DIRECTORY && tree.lookup(path)?.type === 'directory') return;
  tree.insert(path, node);
}

/** The store paths that arguments mention, where they are known or there, and those of `closure`, with all they refer to. */
function containerClosure(args: ContainerArgs): ReferenceGraph {
  const { storeDir, storeRoot } = args;
  const graph = parseReferences(args.references);
  const isThere = (name: string): boolean => lstatSync(storeRoot + name, { throwIfNoEntry: false }) !== undefined;
  const mentioned = (args.args ?? [])
    .flatMap((text) => [...mentionsInText(text, storeDir)])
    .filter((name) => graph.has(name) || isThere(name));
  const explicit = args.closure.map((name, at) => {
    const found = storePathOf(name, storeDir);
    if (found !== null) return found;
    throw recipeError(['closure', at], `Expecting absolute paths from ${storeDir}, but got: ${JSON.stringify(name)}`);
  });
  const closure = closureOf(graph, [...mentioned, ...explicit], storeDir);
  for (const name of closure.keys()) {
    if (isThere(name)) continue;
    const at = explicit.indexOf(name);
    const place = at >= 0 ? ['closure', at] : graph.has(name) && !Array.isArray(args.references) ? ['references', name] : ['references'];
    throw recipeError(place, `${JSON.stringify(storeRoot + name)}: there is no such file or directory`);
  }
  return closure;
}
