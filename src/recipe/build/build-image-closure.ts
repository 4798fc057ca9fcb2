import { existsSync, lstatSync } from 'node:fs';
import path from 'node:path';
import { mentionsIn, mentionsInText } from '../layered/mentions.ts';
import { closureOf, parseReferences, type ReferenceGraph, storePathOf } from '../layered/references.ts';
import { nixDatabase } from '../nix/database.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { recipeError } from '../recipe-error.ts';
import type { ScriptBase } from '../script/base.ts';
import { baseIndex } from '../script/base-index.ts';
import { scan } from '../tree/contents-scan.ts';
import { joined, PLAIN_DIRECTORY, type Tree, type TreeEntry } from '../tree/tree.ts';
import type { BuildImageParts } from './build-image-args.ts';
import type { LayerDraft } from './build-image-layer.ts';
import { seedBaseFiles } from './seed-base-files.ts';
import { SEED_EPOCH } from './seed-epoch.ts';

/**
 * Gives the files of the store that are to be put behind a layer: those of `closure`, and of what the layer or the config mentions, with all that these refer to,
 * less what the base and the layer have; sorted by their names, the store's own directories first. Throws `E_RECIPE` for paths outside the store or not there.
 */
export async function closureEntries(
  draft: LayerDraft,
  parts: BuildImageParts,
  base: ScriptBase | null,
  signal: AbortSignal,
): Promise<TreeEntry[]> {
  const closure = closureWith(parts, mayMention(parts) ? await mentionsOf(draft, parts, signal) : []);
  if (closure.size === 0) return [];
  const isThere = await presence(draft, parts, base, signal);
  const found: TreeEntry[] = isThere(parts.storeDir) ? [] : storeDirectories(parts).filter(({ path: at }) => !isThere(`/${at.toString()}`));
  for (const name of closure.keys()) {
    for (const { path: inside, node } of await scan(Buffer.from(parts.storeRoot + name), () => {}, signal)) {
      const at = joined(Buffer.from(name.slice(1)), inside);
      if (!isThere(`/${at.toString('latin1')}`)) found.push({ path: at, node });
    }
  }
  return found.sort((a, b) => Buffer.compare(a.path, b.path));
}

/** Puts the Nix database of all store paths that the contents name into a layer. */
export async function registerStore(tree: Tree, parts: BuildImageParts, { note }: Pick<RecipeContext, 'note'>): Promise<void> {
  note('Generating the nix database...');
  note('Warning: only the database of the deepest Nix layer is loaded.');
  const items = (parts.copyToRoot ?? []).flatMap((item) => (typeof item === 'string' ? [path.resolve(item)] : []));
  const roots = items.filter((item) => storePathOf(item, parts.storeDir) !== null);
  const stored = roots.map((root) => storePathOf(root, parts.storeDir) ?? root);
  tree.merge(await nixDatabase(closureWith(parts, stored), { storeRoot: parts.storeRoot, roots, registrationSec: SEED_EPOCH }));
}

type StoreArgs = Pick<BuildImageParts, 'closure' | 'references' | 'storeDir' | 'storeRoot'>;

/** Where there is no store, there is nothing to look for. */
function mayMention({ references, storeDir, storeRoot }: StoreArgs): boolean {
  return Object.keys(references).length > 0 || existsSync(storeRoot + storeDir);
}

/** The config lies beside the layer in what Nix looks through. */
async function mentionsOf({ tar }: LayerDraft, { config, storeDir }: BuildImageParts, signal: AbortSignal): Promise<string[]> {
  return [...(await mentionsIn(tar.open(signal), storeDir)), ...mentionsInText(JSON.stringify(config ?? {}), storeDir)];
}

function closureWith({ closure, references, storeDir, storeRoot }: StoreArgs, mentioned: Iterable<string>): ReferenceGraph {
  const graph = parseReferences(references);
  const isThere = (name: string): boolean => lstatSync(storeRoot + name, { throwIfNoEntry: false }) !== undefined;
  const roots = closure.map((name, at) => {
    const found = storePathOf(name, storeDir);
    if (found === null) throw recipeError(['closure', at], `Expecting absolute paths from ${storeDir}, but got: ${JSON.stringify(name)}`);
    if (!isThere(found)) throw recipeError(['closure', at], `there is no file or directory ${JSON.stringify(storeRoot + found)}`);
    return found;
  });
  const found = closureOf(graph, [...roots, ...[...mentioned].filter((name) => graph.has(name) || isThere(name))], storeDir);
  const missing = [...found.keys()].find((name) => !isThere(name));
  if (missing === undefined) return found;
  throw recipeError(['references'], `there is no file or directory ${JSON.stringify(storeRoot + missing)}`);
}

/** Tells of an absolute path, as latin1, whether the base or the layer has it. */
async function presence(
  { tree }: LayerDraft,
  { compat, fromImage }: BuildImageParts,
  base: ScriptBase | null,
  signal: AbortSignal,
): Promise<(name: string) => boolean> {
  if (compat === 'seed') return await seedBaseFiles(tree, fromImage, signal);
  const index = base === null ? null : await baseIndex(base.image, signal);
  return (name) => index?.has(name.slice(1)) === true || tree.lookup(Buffer.from(name.slice(1), 'latin1')) !== undefined;
}

/** The seed makes them read-only, and sorts them in front of all others by a leading dot. */
function storeDirectories({ storeDir, compat }: BuildImageParts): TreeEntry[] {
  const names = storeDir.slice(1).split('/');
  const isSeed = compat === 'seed';
  return names.map((_, n) => ({
    path: Buffer.from((isSeed ? './' : '') + names.slice(0, n + 1).join('/')),
    node: { ...PLAIN_DIRECTORY, mode: isSeed ? 0o555 : 0o755 },
  }));
}
