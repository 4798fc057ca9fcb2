import { createHash } from 'node:crypto';
import { type DiffId, type Digest, digestOf } from '../core/digest.ts';
import type { Progress } from '../core/engine.ts';
import { RootlayerError } from '../core/errors.ts';
import { settledOrAborted } from '../core/settled.ts';
import { close } from '../host/libc.ts';
import { closeAll, type Worker } from '../host/worker.ts';
import { closeLowers, openLowers, openLowerView } from '../overlay/lower.ts';
import type { OverlayMounter } from '../overlay/mounter.ts';
import { type DiskLimits, makeDisk } from './make-disk.ts';

/** A machine gets at most so many layers as disks of their own; more of them are flattened into one. */
export const MAX_LAYER_DISKS = 16;

/** Images that one caller has made at the same time: while one worker starts, the other one writes. */
const MADE_TOGETHER = 2;

/** An unpacked layer, owned by the store's id range. */
export type DiskLayer = { readonly diffId: DiffId; readonly path: string };

/** Where images are kept. */
export interface DiskStore {
  /** A descriptor for reading, which the caller closes; null when there is no such image. */
  tryOpen(id: Digest): number | null;
  /** Makes an image of these layers: `write` fills an empty file and gives its size. */
  add(id: Digest, layers: readonly DiffId[], write: (fd: number) => Promise<number>): Promise<void>;
}

/** What {@link Disks} works with. */
export type DiskParts = {
  readonly store: DiskStore;
  readonly mounter: OverlayMounter;
  /** Gives a worker of `diskWorkerKind` that has read nothing yet; it is disposed after one image. */
  readonly takeWorker: (signal: AbortSignal) => Promise<Worker>;
  /** Called before an image is made: throws when the disk has no room. */
  readonly checkSpace?: () => void;
  readonly limits?: DiskLimits;
};

/** One image to be had: the layers in it, topmost first. */
type Wanted = { readonly id: Digest; readonly layers: readonly DiskLayer[] };

/** Layers as read-only disks, each made when it is first wanted, and once, also when several ask for it at the same time. */
export class Disks {
  readonly #parts: DiskParts;
  readonly #running = new Map<Digest, Promise<void>>();

  constructor(parts: DiskParts) {
    this.#parts = parts;
  }

  /**
   * Gives descriptors (O_RDONLY) of EROFS images of the layers, topmost first as the layers are: one for each, or one of all of them merged when there
   * are more than {@link MAX_LAYER_DISKS}. Owners are plain, through `plainIdmapFd`, a user namespace that maps the store's ids to 0 and up. The caller holds a
   * lease on the layers, and closes the descriptors. Throws what `makeDisk` and `openLowers` throw, and the signal's reason.
   */
  async open(layers: readonly DiskLayer[], plainIdmapFd: number, progress: Progress | null, signal: AbortSignal): Promise<number[]> {
    const fds: number[] = [];
    const failed = new AbortController();
    const either = AbortSignal.any([signal, failed.signal]);
    const images = imagesOf(layers).entries();
    const ensureNext = async (): Promise<void> => {
      for (const [index, wanted] of images) fds[index] = await this.#ensure(wanted, plainIdmapFd, progress, either);
    };
    await Promise.all(Array.from({ length: MADE_TOGETHER }, async () => await ensureNext().catch((error: unknown) => failed.abort(error))));
    if (!failed.signal.aborted) return fds;
    closeAll(Object.values(fds));
    throw failed.signal.reason;
  }

  async #ensure(wanted: Wanted, plainIdmapFd: number, progress: Progress | null, signal: AbortSignal): Promise<number> {
    for (;;) {
      signal.throwIfAborted();
      const running = this.#running.get(wanted.id);
      if (running !== undefined) {
        // A failure of the other, such as a cancelled job, is none of this one.
        await settledOrAborted(running, signal);
        continue;
      }
      const fd = this.#parts.store.tryOpen(wanted.id);
      if (fd !== null) return fd;
      const work = this.#make(wanted, plainIdmapFd, progress, signal).finally(() => this.#running.delete(wanted.id));
      this.#running.set(wanted.id, work);
      await work;
    }
  }

  async #make({ id, layers }: Wanted, plainIdmapFd: number, progress: Progress | null, signal: AbortSignal): Promise<void> {
    const { store, mounter, takeWorker, checkSpace, limits } = this.#parts;
    checkSpace?.();
    const lowers = openLowers(
      layers.map((layer) => layer.path),
      plainIdmapFd,
    );
    try {
      const root = await openLowerView(mounter, lowers);
      try {
        await using worker = await takeWorker(signal);
        const diffIds = layers.map((layer) => layer.diffId);
        await store.add(
          id,
          diffIds,
          async (output) => (await makeDisk(worker, { root, output }, limits ?? {}, progress, signal)).sizeBytes,
        );
      } finally {
        close(root);
      }
    } finally {
      closeLowers(lowers);
    }
  }
}

function imagesOf(layers: readonly DiskLayer[]): Wanted[] {
  if (layers.length <= MAX_LAYER_DISKS) return layers.map((layer) => ({ id: layer.diffId, layers: [layer] }));
  return [{ id: chainIdOf(layers.map((layer) => layer.diffId).toReversed()), layers }];
}

/** The chainID of layers, bottom to top. Source: OCI image-spec config.md, "Layer ChainID". */
export function chainIdOf(diffIds: readonly DiffId[]): Digest {
  const [first, ...rest] = diffIds;
  if (first === undefined) throw new RootlayerError('E_INTERNAL', 'Cannot name the chain of no layers');
  return rest.reduce<Digest>((chain, diffId) => digestOf(createHash('sha256').update(`${chain} ${diffId}`).digest()), first);
}
