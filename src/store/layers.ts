import type { DiffId, Digest } from '../core/digest.ts';
import type { Progress } from '../core/engine.ts';
import { RootlayerError } from '../core/errors.ts';
import type { Compression } from '../core/image.ts';
import { settledOrAborted } from '../core/settled.ts';
import { close } from '../host/libc.ts';
import type { Worker } from '../host/worker.ts';
import type { ImageTable, ListedLayer } from '../state/images.ts';
import type { StateLayout } from './layout.ts';
import { unpackLayer } from './unpack/unpack-layer.ts';
import type { UnpackLimits } from './unpack/unpack-protocol.ts';

/** A blob that is said to be a layer. */
export type LayerSource = {
  readonly diffId: DiffId;
  readonly blobDigest: Digest;
  readonly compression: Compression;
  /** A descriptor for reading; the layer store closes it. */
  open(): number;
};

/** What unpacking works with. */
export type UnpackTools = {
  readonly uidBase: number;
  readonly limits: Partial<UnpackLimits>;
  /** Gives a worker that has read nothing yet; it is disposed after one layer. */
  readonly takeWorker: (signal: AbortSignal) => Promise<Worker>;
};

/** Unpacks layers, each diffID once, also when several ask for it at the same time. */
export class LayerStore {
  readonly #layout: StateLayout;
  readonly #table: ImageTable;
  readonly #tools: UnpackTools;
  readonly #running = new Map<DiffId, Promise<unknown>>();
  /** Blobs whose diffID was verified and that are not listed yet. */
  readonly #verified = new Map<Digest, DiffId>();

  constructor(layout: StateLayout, table: ImageTable, tools: UnpackTools) {
    this.#layout = layout;
    this.#table = table;
    this.#tools = tools;
  }

  /**
   * Gives the layer, unpacked and listed, when the blob has been verified to be it: now, or before. The caller holds a lease on it. Throws `E_MANIFEST` when the
   * blob is another layer, and what unpacking throws. Source: spec/threats.md A54, A62.
   */
  async ensure(source: LayerSource, progress: Progress, signal: AbortSignal): Promise<ListedLayer> {
    if (source.compression === 'none' && source.blobDigest !== source.diffId) throw otherLayer(source.diffId, source.blobDigest);
    for (;;) {
      signal.throwIfAborted();
      const running = this.#running.get(source.diffId);
      if (running !== undefined) {
        // Whoever waits has its own copy of the layer: a failure of the other is none of its own.
        await settledOrAborted(running, signal);
        continue;
      }
      const listed = this.#table.getLayer(source.diffId);
      if (listed !== null && this.#isVerified(source)) return listed;
      const work = this.#unpack(source, progress, signal).finally(() => this.#running.delete(source.diffId));
      this.#running.set(source.diffId, work);
      return await work;
    }
  }

  /** Forgets what was verified of a blob that is listed now, or was given up. */
  forget(blobDigest: Digest): void {
    this.#verified.delete(blobDigest);
  }

  #isVerified(source: LayerSource): boolean {
    if (source.compression === 'none') return true;
    const known = this.#verified.get(source.blobDigest) ?? this.#table.getLayerBlob(source.blobDigest)?.diffId;
    return known === source.diffId;
  }

  async #unpack(source: LayerSource, progress: Progress, signal: AbortSignal): Promise<ListedLayer> {
    const blobFd = source.open();
    try {
      return await this.#unpackFrom(blobFd, source, progress, signal);
    } finally {
      close(blobFd);
    }
  }

  async #unpackFrom(blobFd: number, source: LayerSource, progress: Progress, signal: AbortSignal): Promise<ListedLayer> {
    const { uidBase, limits, takeWorker } = this.#tools;
    const work = this.#layout.makeWork(uidBase, 0o755);
    try {
      const { diffId, entries, unpackedBytes, isOpaqueRoot, warnings } = await unpackLayer({
        blobFd,
        compression: source.compression,
        stagingDirFd: work.fd,
        uidBase,
        limits,
        takeWorker,
        signal,
        progress,
      });
      if (diffId !== source.diffId) throw otherLayer(source.diffId, diffId);
      this.#verified.set(source.blobDigest, diffId);
      const layer = { diffId, entries, tarBytes: unpackedBytes, isOpaqueRoot, warnings };
      this.#layout.placeLayer(work, diffId);
      this.#table.addLayer(layer);
      return layer;
    } finally {
      await this.#layout.dropWork(work);
    }
  }
}

function otherLayer(want: DiffId, got: Digest): RootlayerError {
  return new RootlayerError('E_MANIFEST', `Cannot use layer "${want}": unpacked, it has the digest ${got}`);
}
