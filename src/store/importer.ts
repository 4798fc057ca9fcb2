import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type Digest, digestOf } from '../core/digest.ts';
import type { Progress } from '../core/engine.ts';
import { RootlayerError } from '../core/errors.ts';
import type { ImageRecord } from '../core/image.ts';
import { parseImageName } from '../core/reference.ts';
import { close, O_NOFOLLOW, O_RDONLY, openAt } from '../host/libc.ts';
import { WorkerPool } from '../host/worker-pool.ts';
import type { ImageTable, NewLayer } from '../state/images.ts';
import { type ArchiveFile, compressionOf } from './ingest/archive-files.ts';
import type { ArchiveImage, ArchiveLayer } from './ingest/candidate.ts';
import { type Ingested, type IngestLimits, type IngestSource, ingestArchive, ingestWorkerKind } from './ingest/ingest.ts';
import { interpretArchive } from './ingest/interpret.ts';
import type { LayerStore } from './layers.ts';
import { type SealedFile, type StateLayout, sealFile, type WorkDir } from './layout.ts';
import type { LeaseKey, LeaseTable } from './leases.ts';
import { hostPlatform } from './platform.ts';

/** How an image is imported: `name` is in addition to those of the archive, `select` chooses one image of several. */
export type ImportOptions = { readonly name: string | null; readonly select: string | null; readonly shared: boolean };

/** Asks whether there is room for so many more bytes of a user; throws when there is not. */
export type Admit = (request: { readonly uid: number; readonly bytes: number }) => void;

/** What an importer works with. */
export type ImporterParts = {
  readonly layout: StateLayout;
  readonly table: ImageTable;
  readonly leases: LeaseTable;
  readonly layers: LayerStore;
  readonly uidBase: number;
  readonly limits: Partial<IngestLimits>;
  readonly admit: Admit;
};

const GIB = 1024 ** 3;
const DEFAULT_LIMITS: IngestLimits = { maxSourceBytes: 10 * GIB, maxBytes: 64 * GIB, maxMembers: 50_000 };

/** Who imports, and what is to be listed. */
type Listing = { readonly uid: number; readonly names: string[]; readonly sourceDigest: Digest | null; readonly shared: boolean };

/** Brings archives of strangers into the store, in the order of spec/hardening.md 4.4. */
export class Importer {
  readonly #parts: ImporterParts;
  readonly #limits: IngestLimits;
  readonly #workers: WorkerPool;

  constructor(parts: ImporterParts) {
    this.#parts = parts;
    this.#limits = { ...DEFAULT_LIMITS, ...parts.limits };
    this.#workers = new WorkerPool(ingestWorkerKind(parts.uidBase));
  }

  /** Starts a worker for the next import. */
  prepare(): void {
    this.#workers.prepare();
  }

  async close(): Promise<void> {
    await this.#workers.close();
  }

  /** See `Store.importArchive`. */
  async import(uid: number, source: IngestSource, options: ImportOptions, progress: Progress, signal: AbortSignal): Promise<ImageRecord> {
    const { layout, admit } = this.#parts;
    const given = options.name === null ? [] : [parseImageName(options.name)];
    admit({ uid, bytes: 0 });
    const work = layout.makeWork(this.#parts.uidBase, 0o700);
    try {
      const { listing, sourceDigest } = await this.#ingest(source, work, progress, signal);
      admit({ uid, bytes: listing.sizeBytes });
      const image = interpretArchive(listing, (file) => readMember(work, file), options.select, hostPlatform());
      const names = [...new Set([...image.names, ...given])];
      // An archive of several images is none of them: only one that was taken without a choice may be found by it again.
      const found = options.select === null ? sourceDigest : null;
      return await this.#list(image, work, { uid, names, sourceDigest: found, shared: options.shared }, progress, signal);
    } finally {
      await layout.dropWork(work);
    }
  }

  async #ingest(source: IngestSource, work: WorkDir, progress: Progress, signal: AbortSignal): Promise<Ingested> {
    await using worker = await this.#workers.take();
    const tools = { worker, directoryFd: work.fd, uidBase: this.#parts.uidBase, limits: this.#limits };
    return await ingestArchive(source, tools, progress, signal);
  }

  /** Nothing is listed before everything has been verified and is on disk; from the first rename on there is no waiting. */
  async #list(image: ArchiveImage, work: WorkDir, listing: Listing, progress: Progress, signal: AbortSignal): Promise<ImageRecord> {
    const { layout, table, leases, layers } = this.#parts;
    const release = leases.acquire([
      `blob ${image.config.file.digest}`,
      ...image.layers.flatMap(({ file, diffId }): LeaseKey[] => [`blob ${file.digest}`, `layer ${diffId}`]),
    ]);
    try {
      const verified: NewLayer[] = [];
      for (const layer of image.layers) verified.push(await this.#verify(layer, work, progress, signal));
      const sealed: SealedFile[] = [];
      for (const { n, sizeBytes, digest } of distinct([image.config.file, ...image.layers.map((layer) => layer.file)])) {
        await sealFile(work.fd, String(n), sizeBytes);
        sealed.push({ dirFd: work.fd, name: String(n), digest });
      }
      signal.throwIfAborted();
      layout.placeBlobs(sealed);
      return table.add({ ...listing, config: image.config.file, layers: verified });
    } finally {
      for (const { file } of image.layers) layers.forget(file.digest);
      release();
    }
  }

  async #verify({ file, diffId }: ArchiveLayer, work: WorkDir, progress: Progress, signal: AbortSignal): Promise<NewLayer> {
    const compression = compressionOf(file.head);
    const open = (): number => openMember(work, file);
    const { tarBytes } = await this.#parts.layers.ensure({ diffId, blobDigest: file.digest, compression, open }, progress, signal);
    return { diffId, blobDigest: file.digest, blobSizeBytes: file.sizeBytes, compression, tarBytes };
  }
}

function openMember(work: WorkDir, file: ArchiveFile): number {
  return openAt(work.fd, String(file.n), O_RDONLY | O_NOFOLLOW);
}

/** Documents are hashed once more, here: the image's identity is not left to the worker's word. */
function readMember(work: WorkDir, file: ArchiveFile): Buffer {
  const fd = openMember(work, file);
  try {
    const bytes = readFileSync(fd);
    if (digestOf(createHash('sha256').update(bytes).digest()) === file.digest) return bytes;
  } finally {
    close(fd);
  }
  throw new RootlayerError('E_WORKER', 'Cannot read a document of the archive: it is not what the worker said');
}

/** Files with equal content are one blob. */
function distinct(files: readonly ArchiveFile[]): ArchiveFile[] {
  return [...new Map(files.map((file) => [file.digest, file])).values()];
}
