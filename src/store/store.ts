import { createHash } from 'node:crypto';
import { createReadStream, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { type DiffId, type Digest, digestOf, hexOf } from '../core/digest.ts';
import type { Progress } from '../core/engine.ts';
import { RootlayerError } from '../core/errors.ts';
import type { ImageRecord } from '../core/image.ts';
import { diffIdsOf, type ImageConfig, parseImageConfig } from '../core/image-config.ts';
import { parseImageName, parseImageRef } from '../core/reference.ts';
import { parseStrictJson } from '../core/strict-json.ts';
import { AT_FDCWD, close, O_DIRECTORY, O_RDONLY, openAt } from '../host/libc.ts';
import { WorkerPool } from '../host/worker-pool.ts';
import { type Database, openDatabase } from '../state/database.ts';
import { ImageTable, type ListedLayer, type NewLayer } from '../state/images.ts';
import { DiskFiles } from './disk-files.ts';
import { type Admit, Importer, type ImportOptions } from './importer.ts';
import type { IngestLimits, IngestSource } from './ingest/ingest.ts';
import { LayerStore } from './layers.ts';
import { StateLayout, sealFile } from './layout.ts';
import { type LeaseKey, LeaseTable } from './leases.ts';
import { type Recovery, recoverLayout } from './recovery.ts';
import { unpackWorkerKind } from './unpack/unpack-layer.ts';
import type { UnpackLimits } from './unpack/unpack-protocol.ts';

/** How a store is set up; every member has a default. */
export type StoreOptions = {
  /** An open database with the tables of `state/migrations.ts`; without it the store opens, and closes, `rootlayer.db` of the state directory. */
  readonly database?: Database;
  readonly ingestLimits?: Partial<IngestLimits>;
  readonly unpackLimits?: Partial<UnpackLimits>;
  /** Keeps a worker of each kind started and unused, for a daemon: an import then does not wait for a process to start. */
  readonly keepWarm?: boolean;
  /** Called before disk is used, with the bytes that are known to be coming (0 at first): throws when the user, or the disk, has no room. */
  readonly admit?: Admit;
  /** Told of what went wrong behind the scenes: deletions that failed. The next start tries again. */
  readonly onProblem?: (error: unknown) => void;
};

/** A layer of a leased image: its tree, shifted by the store's uid base. */
export type LeasedLayer = {
  readonly diffId: DiffId;
  /** O_PATH, open as long as the lease. */
  readonly dirFd: number;
  readonly path: string;
};

/** Keeps an image's blobs and layers on disk until it is disposed, also when the image is removed meanwhile. */
export interface ImageLease extends AsyncDisposable {
  readonly image: ImageRecord;
  /** Bottom to top, each once, as overlayfs wants them: a repeated layer where it stood last, nothing below a layer that hides all. */
  readonly layers: readonly LeasedLayer[];
}

/** A finished file that is to become a blob: on the store's filesystem, and hashed by whoever wrote it. */
export type FinishedFile = { readonly path: string; readonly digest: Digest; readonly sizeBytes: number };

const MAX_CONFIG_BYTES = 4 * 1024 * 1024;

/**
 * Images, the blobs they are made of, and their layers unpacked. Callers are told apart by uid: an image belongs to who brought it, is seen by all when it
 * is shared, and does not exist for others; knowing the digest of a blob gives no access to it. One process at a time has a state directory.
 */
export class Store implements AsyncDisposable {
  readonly database: Database;
  readonly uidBase: number;
  /** Layers as disk images. */
  readonly disks: DiskFiles;
  readonly #options: StoreOptions;
  readonly #layout: StateLayout;
  readonly #table: ImageTable;
  readonly #leases = new LeaseTable();
  readonly #layers: LayerStore;
  readonly #importer: Importer;
  readonly #unpackWorkers: WorkerPool;
  /** Something is unused but leased: it is to be deleted when the lease ends. */
  #hasDeferred = false;
  /** Deletions that are under way. */
  readonly #background = new Set<Promise<void>>();

  private constructor(layout: StateLayout, database: Database, uidBase: number, options: StoreOptions) {
    this.#layout = layout;
    this.disks = new DiskFiles(layout);
    this.database = database;
    this.uidBase = uidBase;
    this.#options = options;
    this.#table = new ImageTable(database);
    this.#unpackWorkers = new WorkerPool(unpackWorkerKind(uidBase));
    this.#layers = new LayerStore(layout, this.#table, {
      uidBase,
      limits: options.unpackLimits ?? {},
      takeWorker: () => this.#unpackWorkers.take(),
    });
    this.#importer = new Importer({
      layout,
      table: this.#table,
      leases: this.#leases,
      layers: this.#layers,
      uidBase,
      limits: options.ingestLimits ?? {},
      admit: options.admit ?? (() => {}),
    });
    this.#keepWarm();
  }

  /** Opens the store of a state directory, which is made when it is missing. Call {@link recover} next. Throws `E_STATE`. */
  static open(stateDir: string, uidBase: number, options: StoreOptions = {}): Store {
    const layout = new StateLayout(stateDir);
    try {
      const database = options.database ?? openDatabase(path.join(layout.path, 'rootlayer.db'));
      return new Store(layout, database, uidBase, options);
    } catch (error) {
      layout.close();
      throw error;
    }
  }

  /** Waits for deletions, and gives up the state directory. Leases must have been released. */
  async [Symbol.asyncDispose](): Promise<void> {
    while (this.#background.size > 0) await Promise.all(this.#background);
    await Promise.all([this.#importer.close(), this.#unpackWorkers.close()]);
    if (this.#options.database === undefined) this.database.close();
    this.#layout.close();
  }

  /** Puts the directory in order after whatever ended the process before: deletes what the database does not list, and what nothing uses. */
  async recover(): Promise<Recovery> {
    const recovery = await recoverLayout(this.#layout, this.disks, this.#table);
    await this.collect();
    return recovery;
  }

  /**
   * Imports one image of an archive (docker-archive or OCI layout, plain, gzip or zstd): verified, unpacked and on disk when the promise resolves, and
   * invisible before. The stream is not destroyed, so that its connection can carry the answer. Throws the `E_ARCHIVE_`, `E_IMAGE_` and `E_LIMIT_` codes,
   * `E_MANIFEST`, `E_CONFIG`, `E_DIGEST`, `E_SIZE`, `E_COMPRESSION`, `E_NOT_FOUND` (nothing matches `select`), `E_REF`, and what `admit` throws.
   */
  async importArchive(
    uid: number,
    source: IngestSource,
    options: ImportOptions,
    progress: Progress,
    signal: AbortSignal,
  ): Promise<ImageRecord> {
    // Started now, it is ready when the archive has been read.
    this.#unpackWorkers.prepare();
    try {
      return await this.#importer.import(uid, source, options, progress, signal);
    } finally {
      this.#keepWarm();
      this.#collectSoon();
    }
  }

  #keepWarm(): void {
    if (this.#options.keepWarm !== true) return;
    this.#importer.prepare();
    this.#unpackWorkers.prepare();
  }

  /** Gives the images that a caller sees, the oldest first. */
  listImages(uid: number): ImageRecord[] {
    return this.#table.list(uid);
  }

  /**
   * Gives the image that a caller means by a name:tag, an image id, or the digest of the archive it came in. Throws `E_NOT_FOUND`, just as for an image
   * that belongs to somebody else, and `E_REF`.
   */
  findImage(uid: number, text: string): ImageRecord {
    const ref = parseImageRef(text);
    if (ref.kind === 'scratch')
      throw new RootlayerError('E_REF', 'Cannot find image "scratch": it is the empty base, and no image of the store');
    const found = ref.kind === 'digest' ? this.#table.findByDigest(uid, ref.digest) : this.#table.findByName(uid, ref.name);
    if (found === null)
      throw new RootlayerError('E_NOT_FOUND', `Cannot find image ${JSON.stringify(text.slice(0, 300))}: there is no such image`);
    return found;
  }

  /**
   * Takes a name from an image, and removes the image with its last name, or when it is meant by a digest. What is leased stays on disk until it is
   * released. Throws `E_NOT_FOUND`, `E_REF`, and `E_FORBIDDEN` for a shared image of somebody else.
   */
  removeImage(uid: number, text: string): void {
    const image = this.findImage(uid, text);
    if (image.uid !== uid && uid !== 0) {
      throw new RootlayerError('E_FORBIDDEN', `Cannot remove image ${JSON.stringify(text.slice(0, 300))}: it is shared by another user`);
    }
    const ref = parseImageRef(text);
    this.#table.transaction(() => {
      if (ref.kind !== 'name' || this.#table.removeName(image, ref.name) === 0) this.#table.remove(image);
    });
    this.#collectSoon();
  }

  /** Gives the text of an image's config. Throws `E_STORE_CORRUPT`. */
  readConfigText(image: ImageRecord): string {
    const fd = this.#layout.openBlob(image.id);
    try {
      const bytes = readFileSync(fd);
      if (digestOf(createHash('sha256').update(bytes).digest()) === image.id) return bytes.toString('utf8');
    } finally {
      close(fd);
    }
    throw new RootlayerError('E_STORE_CORRUPT', `Cannot read config of image "${image.id}": its content has changed`);
  }

  /** Gives an image's config. Throws `E_STORE_CORRUPT`. */
  readConfig(image: ImageRecord): ImageConfig {
    return parseImageConfig(parseStrictJson(Buffer.from(this.readConfigText(image)), { what: 'image config', maxBytes: MAX_CONFIG_BYTES }));
  }

  /**
   * Leases an image, with all its layers unpacked when the promise resolves. The caller disposes the lease. Throws `E_STORE_CORRUPT`, and what
   * unpacking throws.
   */
  async leaseImage(image: ImageRecord, progress: Progress, signal: AbortSignal): Promise<ImageLease> {
    const release = this.#leases.acquire([
      `blob ${image.id}`,
      ...image.layers.flatMap(({ diffId, blobDigest }): LeaseKey[] => [`blob ${blobDigest}`, `layer ${diffId}`]),
    ]);
    const layers: LeasedLayer[] = [];
    const free = async (): Promise<void> => {
      for (const { dirFd } of layers.splice(0)) close(dirFd);
      release();
      if (this.#hasDeferred) this.#collectSoon();
    };
    try {
      const listed: ListedLayer[] = [];
      for (const { diffId, blobDigest, compression } of image.layers) {
        const open = (): number => this.#layout.openBlob(blobDigest);
        listed.push(await this.#layers.ensure({ diffId, blobDigest, compression, open }, progress, signal));
      }
      for (const diffId of overlayOrder(listed)) {
        layers.push({ diffId, dirFd: this.#layout.openLayer(diffId), path: this.#layout.layerPath(diffId) });
      }
      return { image, layers, [Symbol.asyncDispose]: free };
    } catch (error) {
      await free();
      throw error;
    }
  }

  /** Makes a finished file a blob that `owner` (such as `job <id>`) keeps until {@link release}; the file is gone from where it was. Throws `E_SIZE`. */
  async addBlob(owner: string, file: FinishedFile): Promise<void> {
    await this.#addFile(file, () => {
      this.#table.addBlob(file.digest, file.sizeBytes);
      this.#table.hold(owner, file.digest);
    });
  }

  /** Like {@link addBlob}, for a layer: an uncompressed tar, whose digest is its diffID. */
  async addLayerBlob(owner: string, file: FinishedFile): Promise<void> {
    const diffId = file.digest as DiffId;
    await this.#addFile(file, () => {
      this.#table.addLayerBlob({
        diffId,
        blobDigest: diffId,
        blobSizeBytes: file.sizeBytes,
        compression: 'none',
        tarBytes: file.sizeBytes,
      });
      this.#table.hold(owner, diffId);
    });
  }

  async #addFile(file: FinishedFile, list: () => void): Promise<void> {
    const release = this.#leases.acquire([`blob ${file.digest}`]);
    const dirFd = openAt(AT_FDCWD, path.dirname(file.path), O_RDONLY | O_DIRECTORY);
    const name = path.basename(file.path);
    try {
      await sealFile(dirFd, name, file.sizeBytes);
      this.#layout.placeBlobs([{ dirFd, name, digest: file.digest }]);
      this.#table.transaction(list);
    } finally {
      close(dirFd);
      release();
    }
  }

  /** Keeps an image's blobs for an owner until {@link release}, also when the image is removed. */
  holdImage(owner: string, image: ImageRecord): void {
    this.#table.transaction(() => {
      for (const digest of [image.id, ...image.layers.map((layer) => layer.blobDigest)]) this.#table.hold(owner, digest);
    });
  }

  /** Gives up all that an owner holds. */
  release(owner: string): void {
    this.#table.release(owner);
    this.#collectSoon();
  }

  /**
   * Lists an image made of blobs that are here: the layers of `base`, bottom to top, then `layer`, and `config` as its text. Throws `E_MANIFEST` when the
   * config lists other layers, `E_CONFIG`, `E_REF`, and `E_NOT_FOUND` when a blob is gone.
   */
  async createImage(
    uid: number,
    image: { base: ImageRecord | null; layer: DiffId | null; config: string; names: readonly string[]; shared?: boolean },
  ): Promise<ImageRecord> {
    const names = image.names.map(parseImageName);
    const blobs = [...(image.base?.layers.map((layer) => layer.blobDigest) ?? []), ...(image.layer === null ? [] : [image.layer])];
    const layers = blobs.map((digest) => this.#layerBlob(digest));
    const bytes = Buffer.from(image.config);
    const diffIds = diffIdsOf(parseImageConfig(parseStrictJson(bytes, { what: 'image config' })));
    if (diffIds.length !== layers.length || layers.some((layer, index) => layer.diffId !== diffIds[index])) {
      throw new RootlayerError('E_MANIFEST', 'Cannot make image: its config lists other layers than it has');
    }
    const digest = digestOf(createHash('sha256').update(bytes).digest());
    const work = this.#layout.makeWork(0, 0o700);
    const release = this.#leases.acquire([digest, ...blobs].map((blob): LeaseKey => `blob ${blob}`));
    try {
      writeFileSync(path.join(work.path, 'config'), bytes, { flag: 'wx', mode: 0o600 });
      await sealFile(work.fd, 'config', bytes.length);
      this.#layout.placeBlobs([{ dirFd: work.fd, name: 'config', digest }]);
      const config = { digest, sizeBytes: bytes.length };
      return this.#table.add({ uid, config, layers, names, sourceDigest: null, shared: image.shared ?? false });
    } finally {
      release();
      await this.#layout.dropWork(work);
    }
  }

  #layerBlob(digest: Digest): NewLayer {
    const layer = this.#table.getLayerBlob(digest);
    if (layer === null) throw new RootlayerError('E_NOT_FOUND', `Cannot use layer "${digest}": it is not in the store`);
    return layer;
  }

  /** Gives the bytes of the uncompressed tar of a layer blob. Throws `E_NOT_FOUND`. */
  getTarBytes(blobDigest: Digest): number {
    return this.#layerBlob(blobDigest).tarBytes;
  }

  /** Gives a descriptor of a blob, for reading; the caller closes it, and sees to it that the blob is leased or held. Throws `E_STORE_CORRUPT`. */
  openBlob(digest: Digest): number {
    return this.#layout.openBlob(digest);
  }

  /** Gives a blob's bytes; like {@link openBlob}. */
  readBlob(digest: Digest): Readable {
    return createReadStream('', { fd: this.#layout.openBlob(digest), highWaterMark: 1024 * 1024 });
  }

  /** Gives the listed blobs whose content is not what it was. Reads all of them. */
  async verifyBlobs(signal: AbortSignal): Promise<Digest[]> {
    const damaged: Digest[] = [];
    for (const digest of this.#table.listBlobs()) {
      signal.throwIfAborted();
      const hash = createHash('sha256');
      for await (const chunk of this.readBlob(digest)) hash.update(chunk as Buffer);
      if (digestOf(hash.digest()) !== digest) damaged.push(digest);
    }
    return damaged;
  }

  /** Deletes the blobs and layers that no image, owner or lease has. Rows go first: a crash leaves files that the next start deletes. */
  async collect(): Promise<void> {
    this.#hasDeferred = false;
    for (const digest of this.#table.unusedBlobs()) {
      if (this.#isInUse(`blob ${digest}`)) continue;
      this.#table.removeBlob(digest);
      this.#layout.removeBlob(hexOf(digest));
    }
    // Asked for again after each: while one is deleted, another may find a use.
    for (;;) {
      const diffId = this.#table.unusedLayers().find((unused) => !this.#isInUse(`layer ${unused}`));
      if (diffId === undefined) return;
      this.#table.removeLayer(diffId);
      this.disks.removeWith(diffId);
      await this.#layout.removeLayer(hexOf(diffId));
    }
  }

  #isInUse(key: LeaseKey): boolean {
    const isHeld = this.#leases.isHeld(key);
    this.#hasDeferred ||= isHeld;
    return isHeld;
  }

  #collectSoon(): void {
    const work = this.collect().catch((error: unknown) => this.#options.onProblem?.(error));
    this.#background.add(work);
    void work.finally(() => this.#background.delete(work));
  }
}

/** overlayfs refuses one directory twice, and takes no notice of an opaque mark on a layer's root. */
function overlayOrder(layers: readonly ListedLayer[]): DiffId[] {
  const lowest = layers.findLastIndex((layer) => layer.isOpaqueRoot);
  const visible = layers.slice(Math.max(lowest, 0)).map((layer) => layer.diffId);
  return visible.filter((diffId, index) => visible.lastIndexOf(diffId) === index);
}
