import { createHash, randomBytes } from 'node:crypto';
import { closeSync, createReadStream, openSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { packTree } from './capture/pack-tree.ts';
import { type Digest, digestOf } from './core/digest.ts';
import type { Caller, Download, Engine, Feature, Progress } from './core/engine.ts';
import type { JobId } from './core/ids.ts';
import type { Compression, ImageFormat, ImageRecord } from './core/image.ts';
import { deriveConfig } from './core/image-config.ts';
import type { JobEvent, JobRecord, JobRequest, LayerSummary, TerminalSize } from './core/job.ts';
import { parseImageName } from './core/reference.ts';
import { Scope } from './core/scope.ts';
import { findFeatures } from './features.ts';
import { close } from './host/libc.ts';
import type { WorkerPool } from './host/worker-pool.ts';
import { dockerArchive } from './image/docker-archive.ts';
import type { ImageSource } from './image/image-source.ts';
import { layerStream } from './image/layer-stream.ts';
import { ociArchive } from './image/oci-archive.ts';
import { rootLayerJson } from './image/root-layer.ts';
import type { ContextStore } from './job/contexts.ts';
import type { RangePool } from './job/ranges.ts';
import type { JobService } from './job/service.ts';
import { closeLowers, openLowers, openLowerView } from './overlay/lower.ts';
import type { OverlayMounter } from './overlay/mounter.ts';
import { goArchitecture } from './store/platform.ts';
import type { Store } from './store/store.ts';

/** The parts of an open engine. */
export type LocalEngineParts = {
  store: Store;
  jobs: JobService;
  contexts: ContextStore;
  captureWorkers: WorkerPool;
  ranges: RangePool;
  mounter: OverlayMounter;
  stateDir: string;
  /** Everything to release at the end. */
  scope: Scope;
};

/** The engine of this process: jobs, images and what the one makes of the other. */
export class LocalEngine implements Engine {
  readonly #parts: LocalEngineParts;
  #closed: Promise<void> | null = null;

  constructor(parts: LocalEngineParts) {
    this.#parts = parts;
  }

  async importImage(
    caller: Caller,
    archive: Readable,
    options: { name: string | null; select: string | null; shared: boolean },
    progress: Progress,
    signal: AbortSignal,
  ): Promise<ImageRecord> {
    // Always listened to: a client may go before a worker is ready to read from it.
    archive.on('error', () => {});
    const shared = options.shared && caller.uid === 0;
    return await this.#parts.store.importArchive(caller.uid, archive, { ...options, shared }, progress, signal);
  }

  listImages(caller: Caller): ImageRecord[] {
    return this.#parts.store.listImages(caller.uid);
  }

  getImage(caller: Caller, ref: string): ImageRecord {
    return this.#parts.store.findImage(caller.uid, ref);
  }

  async inspectImage(caller: Caller, ref: string): Promise<{ image: ImageRecord; config: unknown }> {
    const image = this.getImage(caller, ref);
    return { image, config: JSON.parse(this.#parts.store.readConfigText(image)) as unknown };
  }

  async removeImage(caller: Caller, ref: string): Promise<void> {
    this.#parts.store.removeImage(caller.uid, ref);
  }

  async exportImage(caller: Caller, ref: string, format: ImageFormat, signal: AbortSignal): Promise<Download> {
    const image = this.getImage(caller, ref);
    if (format === 'rootfs-tar') return await this.#exportRoot(image, null, signal);
    const { store } = this.#parts;
    const source = this.#source(image, { digest: image.id, text: store.readConfigText(image) }, null, image.names);
    return await this.#archive(source, format, image, signal);
  }

  async addContext(caller: Caller, tar: Readable, signal: AbortSignal): Promise<string> {
    return await this.#parts.contexts.add(caller, tar, signal);
  }

  submit(caller: Caller, request: JobRequest): JobRecord {
    if (request.name !== null) parseImageName(request.name);
    // A config that cannot be merged is told before the script has run for an hour.
    this.#config(this.#baseOf(caller, request), null, request);
    return this.#parts.jobs.submit(caller, request);
  }

  listJobs(caller: Caller): JobRecord[] {
    return this.#parts.jobs.list(caller);
  }

  getJob(caller: Caller, id: JobId): JobRecord {
    return this.#parts.jobs.get(caller, id);
  }

  async cancelJob(caller: Caller, id: JobId): Promise<JobRecord> {
    return await this.#parts.jobs.cancel(caller, id);
  }

  async removeJob(caller: Caller, id: JobId): Promise<void> {
    this.#parts.jobs.remove(caller, id);
  }

  async sendInput(caller: Caller, id: JobId, bytes: Buffer): Promise<void> {
    this.#parts.jobs.terminalOf(caller, id).send(bytes);
  }

  async resizeTerminal(caller: Caller, id: JobId, size: TerminalSize): Promise<void> {
    this.#parts.jobs.terminalOf(caller, id).resize(size);
  }

  events(caller: Caller, id: JobId, from: number, follow: boolean, signal: AbortSignal): AsyncIterable<JobEvent> {
    return this.#parts.jobs.events(caller, id, from, follow, signal);
  }

  async openLayer(caller: Caller, id: JobId, compression: Compression, signal: AbortSignal): Promise<Download> {
    const { layer } = this.#parts.jobs.getDone(caller, id);
    const fd = this.#parts.store.openBlob(layer.diffId);
    const open = { fd, compression: 'none' as const, tarBytes: layer.sizeBytes };
    const plain = compression === 'none';
    return {
      stream: layerStream(open, compression, this.#parts.store.uidBase, signal),
      sizeBytes: plain ? layer.sizeBytes : null,
      digest: plain ? layer.diffId : null,
      fileName: { none: 'layer.tar', gzip: 'layer.tar.gz', zstd: 'layer.tar.zst' }[compression],
    };
  }

  async openJobImage(caller: Caller, id: JobId, format: ImageFormat, signal: AbortSignal): Promise<Download> {
    const job = this.#parts.jobs.getDone(caller, id);
    const base = this.#baseOfJob(job);
    if (format === 'rootfs-tar') return await this.#exportRoot(base, job.layer, signal);
    const config = this.#parts.jobs.imageConfigText(id);
    const digest = digestOf(createHash('sha256').update(config).digest());
    const names = job.imageName === null ? [] : [job.imageName];
    return await this.#archive(this.#source(base, { digest, text: config }, job.layer, names), format, base, signal);
  }

  async layerJson(caller: Caller, id: JobId): Promise<string> {
    const job = this.#parts.jobs.getDone(caller, id);
    const config = JSON.parse(this.#parts.jobs.imageConfigText(id)) as Record<string, unknown>;
    return rootLayerJson(config, job.layer.tarsum);
  }

  async features(): Promise<Feature[]> {
    return await findFeatures(this.#parts.stateDir);
  }

  async close(drain: AbortSignal): Promise<void> {
    this.#closed ??= (async () => {
      await this.#parts.jobs.close(drain);
      await this.#parts.scope[Symbol.asyncDispose]();
    })();
    await this.#closed;
  }

  /** The config text of the image that a job makes of its base: the base's, with the job's override, one layer and one line of history more. */
  jobImageConfig(job: JobRecord, base: ImageRecord | null, request: JobRequest): string {
    return this.#config(base, job.layer, request);
  }

  /** Stores the image that a job made under the name it asked for. */
  async nameJobImage(job: JobRecord, base: ImageRecord | null, request: JobRequest, config: string): Promise<string> {
    const name = parseImageName(request.name ?? '');
    await this.#parts.store.createImage(job.uid, { base, layer: job.layer?.diffId ?? null, config, names: [name] });
    return name;
  }

  #baseOf(caller: Caller, request: JobRequest): ImageRecord | null {
    return request.from === 'scratch' ? null : this.#parts.store.findImage(caller.uid, request.from);
  }

  #baseOfJob(job: JobRecord): ImageRecord | null {
    return this.#parts.jobs.baseOf(job.id);
  }

  #config(base: ImageRecord | null, layer: LayerSummary | null, request: JobRequest): string {
    const { json } = deriveConfig(base === null ? null : this.#parts.store.readConfig(base), layer?.diffId ?? null, {
      created: new Date((request.sourceDateEpoch ?? Math.floor(Date.now() / 1000)) * 1000).toISOString().replace('.000Z', 'Z'),
      createdBy: 'rootlayer run',
      override: request.config,
      ...(base === null ? { architecture: goArchitecture() } : {}),
    });
    return json;
  }

  #source(
    base: ImageRecord | null,
    config: { digest: Digest; text: string },
    layer: LayerSummary | null,
    names: readonly string[],
  ): ImageSource {
    const { store } = this.#parts;
    const layers = (base?.layers ?? []).map((one) => ({ ...one, tarBytes: store.getTarBytes(one.blobDigest) }));
    const { diffId, sizeBytes } = layer ?? {};
    return {
      config,
      layers:
        diffId === undefined || sizeBytes === undefined
          ? layers
          : [...layers, { diffId, blobDigest: diffId, blobSizeBytes: sizeBytes, compression: 'none', tarBytes: sizeBytes }],
      names,
      openBlob: (digest) => store.openBlob(digest),
      uidBase: store.uidBase,
    };
  }

  /** The base is leased until the stream has ended, so that it cannot be collected half way. */
  async #archive(
    source: ImageSource,
    format: 'docker-archive' | 'oci-archive',
    base: ImageRecord | null,
    signal: AbortSignal,
  ): Promise<Download> {
    const lease = base === null ? null : await this.#parts.store.leaseImage(base, () => {}, signal);
    const stream = format === 'docker-archive' ? dockerArchive(source, signal) : ociArchive(source, signal);
    stream.once('close', () => void lease?.[Symbol.asyncDispose]());
    return { stream, sizeBytes: null, digest: null, fileName: format === 'docker-archive' ? 'image.docker.tar' : 'image.oci.tar' };
  }

  /** The merged root of an image, packed by a worker into a file that has no name once it is open. */
  async #exportRoot(base: ImageRecord | null, layer: LayerSummary | null, signal: AbortSignal): Promise<Download> {
    const { store, captureWorkers, mounter, ranges, stateDir } = this.#parts;
    await using lease = await store.leaseImage(withLayer(base, layer), () => {}, signal);
    await using range = await ranges.take(signal);
    const path = join(stateDir, 'results', `root-${randomBytes(8).toString('hex')}`);
    await using scope = new Scope();
    const lowers = openLowers(lease.layers.map((layer) => layer.path).reverse(), range.plainFd);
    scope.defer(() => closeLowers(lowers));
    const output = openSync(path, 'wx+', 0o600);
    scope.defer(() => closeSync(output));
    unlinkSync(path);
    const root = await openLowerView(mounter, lowers);
    scope.defer(() => close(root));
    const worker = await captureWorkers.take();
    scope.defer(() => captureWorkers.release(worker));
    const packed = await packTree(worker, { root, output }, {}, null, signal);
    const stream = createReadStream('', { fd: openSync(`/proc/self/fd/${output}`, 'r'), start: 0, highWaterMark: 1024 * 1024 });
    return { stream, sizeBytes: packed.sizeBytes, digest: packed.diffId, fileName: 'rootfs.tar' };
  }
}

/** An image record as leases need it: the base's layers and one more. Nothing of it is listed. */
function withLayer(base: ImageRecord | null, layer: LayerSummary | null): ImageRecord {
  const more =
    layer === null
      ? []
      : [{ diffId: layer.diffId, blobDigest: layer.diffId, blobSizeBytes: layer.sizeBytes, compression: 'none' as const }];
  const nothing = { sourceDigest: null, names: [], createdAt: '', sizeBytes: 0, uid: 0, shared: false };
  if (base === null) return { ...nothing, id: more[0]?.diffId ?? digestOf('0'.repeat(64)), layers: more };
  return { ...base, layers: [...base.layers, ...more] };
}
