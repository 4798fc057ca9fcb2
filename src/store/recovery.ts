import { type Digest, digestOf, hexOf } from '../core/digest.ts';
import type { ImageTable } from '../state/images.ts';
import type { DiskFiles } from './disk-files.ts';
import type { StateLayout } from './layout.ts';

/** What {@link recoverLayout} found. */
export type Recovery = {
  /** Blobs, layers, disk images and unfinished work that were not listed, and are deleted. */
  readonly deleted: number;
  /** Blobs that are listed and are not there; images that need them fail with `E_STORE_CORRUPT`. */
  readonly missing: Digest[];
};

/** Deletes from a state directory what the database does not list. A listed layer that is not there is unpacked again when it is wanted. */
export async function recoverLayout(layout: StateLayout, disks: DiskFiles, table: ImageTable): Promise<Recovery> {
  let deleted = await layout.clear();
  const blobs = new Set(table.listBlobs().map(hexOf));
  const blobFiles = new Set(layout.list('blobs'));
  for (const name of without(blobFiles, blobs)) {
    layout.removeBlob(name);
    deleted += 1;
  }
  const layers = new Set(table.listLayers().map(hexOf));
  const layerDirs = new Set(layout.list('layers'));
  for (const name of without(layerDirs, layers)) {
    await layout.removeLayer(name);
    deleted += 1;
  }
  for (const name of without(layers, layerDirs)) table.removeLayer(digestOf(name));
  deleted += disks.recover(new Set(table.listLayers().map(hexOf)));
  return { deleted, missing: without(blobs, blobFiles).map((name) => digestOf(name)) };
}

function without(names: ReadonlySet<string>, others: ReadonlySet<string>): string[] {
  return [...names].filter((name) => !others.has(name));
}
