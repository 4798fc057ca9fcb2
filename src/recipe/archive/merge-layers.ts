import type { Scope } from '../../core/scope.ts';
import { joined, PLAIN_DIRECTORY, Tree } from '../tree/tree.ts';
import type { BaseLayer } from './base-archive.ts';
import { IMPLIED, type LayerChanges, readLayer } from './export-layer.ts';

/**
 * Gives the merged root of layers, bottom to top: whiteouts and opaque directories taken into account, hard links kept. Bytes are read when the tree is
 * packed; what that needs is the scope's. Throws what {@link readLayer} throws.
 */
export async function mergeLayers(layers: readonly BaseLayer[], scope: Scope, signal: AbortSignal): Promise<Tree> {
  const merged = new Tree(PLAIN_DIRECTORY);
  for (const layer of layers) applyChanges(merged, await readLayer(layer, merged, scope, signal));
  return merged;
}

function applyChanges(merged: Tree, { tree, deleted, opaque }: LayerChanges): void {
  for (const path of deleted) merged.remove(path);
  for (const path of opaque) {
    for (const name of merged.names(path)) merged.remove(joined(path, name));
  }
  for (const { path, node } of tree.entries()) {
    if (node === IMPLIED && merged.lookup(path)?.type === 'directory') continue;
    merged.insert(path, node);
  }
}
