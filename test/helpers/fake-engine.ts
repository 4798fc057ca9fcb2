import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { type Deferred, deferred } from '../../src/core/deferred.ts';
import { type Digest, digestOf, hexOf, isDigest, parseDiffId } from '../../src/core/digest.ts';
import type { Caller, Download, Engine, Feature, Progress } from '../../src/core/engine.ts';
import { type ErrorCode, RootlayerError } from '../../src/core/errors.ts';
import { type JobId, newJobId } from '../../src/core/ids.ts';
import type { Compression, ImageFormat, ImageRecord } from '../../src/core/image.ts';
import { isFinal, type JobEvent, type JobRecord, type JobRequest, type TerminalSize } from '../../src/core/job.ts';
import { encodeEntry, endOfArchive, padding } from '../../src/core/tar/writer.ts';
import { tarsumOf } from '../../src/core/tarsum.ts';

type Draft<T> = T extends unknown ? Omit<T, 'n' | 'timeMs'> : never;

type FakeJob = {
  record: JobRecord;
  request: JobRequest;
  events: JobEvent[];
  startedMs: number;
  abort: AbortController;
  layer: Buffer | null;
  /** A download of the layer breaks after this many bytes. */
  breaksAt: number | null;
  ended: Promise<void>;
  inputEnd: Deferred<void>;
  wake: Set<() => void>;
};

/**
 * An engine in memory that keeps the contract of core/engine.ts without running anything: callers see only their own, events are numbered and
 * replay, states follow each other, results have true digests. A script is a few words that it understands, one command a line: `echo TEXT`,
 * `echo TEXT >&2`, `bytes BASE64`, `sleep MS`, `flood`, `exit N`, `limit NAME`, `warn TEXT`, `size BYTES`, `break BYTES`, `env NAME`, `context`, `cat`
 * (until the end of input; a terminal echoes what is typed, and shows its new sizes).
 */
export class FakeEngine implements Engine {
  readonly #images: ImageRecord[] = [];
  readonly #archives = new Map<Digest, Buffer>();
  readonly #jobs = new Map<JobId, FakeJob>();
  readonly #contexts = new Map<string, { uid: number; tar: Buffer }>();
  #isClosing = false;
  /** Methods that throw what is given here. */
  readonly faults = new Map<keyof Engine, unknown>();
  /** Events that were handed out, over all readers. */
  eventsRead = 0;
  /** Bytes of layers that were read by the transport. */
  layerBytesRead = 0;
  imports = 0;

  async importImage(
    caller: Caller,
    archive: Readable,
    options: { name: string | null; select: string | null; shared: boolean },
    progress: Progress,
    signal: AbortSignal,
  ): Promise<ImageRecord> {
    this.#fault('importImage');
    this.imports += 1;
    if (options.shared && caller.uid !== 0) throw new RootlayerError('E_FORBIDDEN', 'Cannot share image: want an administrator');
    const bytes = await collect(archive, signal, (done) => progress({ stage: 'receive', done, total: null, unit: 'bytes' }));
    if (bytes.length === 0)
      throw new RootlayerError('E_IMAGE_FORMAT', 'Cannot read archive: it is empty, want a docker-archive or an OCI layout');
    if (options.select !== null && !bytes.includes(options.select)) {
      throw new RootlayerError('E_NOT_FOUND', `Cannot choose image "${options.select}": the archive has none of that name`);
    }
    progress({ stage: 'unpack', done: 1, total: 1, unit: 'entries' });
    const digest = sha256(bytes);
    const id = sha256(Buffer.from(`config of ${digest} ${options.select ?? ''}`));
    const others = this.#images.filter((image) => image.uid === caller.uid);
    const names = options.name === null ? [] : [options.name];
    for (const image of others) image.names = image.names.filter((name) => !names.includes(name));
    const known = others.find((image) => image.id === id);
    if (known !== undefined) {
      known.names.push(...names);
      return structuredClone(known);
    }
    const record: ImageRecord = {
      id,
      sourceDigest: digest,
      names,
      layers: [{ diffId: parseDiffId(digest), blobDigest: digest, blobSizeBytes: bytes.length, compression: 'none' }],
      createdAt: new Date().toISOString(),
      sizeBytes: bytes.length,
      uid: caller.uid,
      shared: options.shared,
    };
    this.#images.push(record);
    this.#archives.set(digest, bytes);
    return structuredClone(record);
  }

  listImages(caller: Caller): ImageRecord[] {
    this.#fault('listImages');
    return structuredClone(this.#images.filter((image) => image.uid === caller.uid || image.shared));
  }

  getImage(caller: Caller, ref: string): ImageRecord {
    this.#fault('getImage');
    return structuredClone(this.#image(caller, ref));
  }

  async inspectImage(caller: Caller, ref: string): Promise<{ image: ImageRecord; config: unknown }> {
    this.#fault('inspectImage');
    return { image: structuredClone(this.#image(caller, ref)), config: { architecture: 'amd64', os: 'linux' } };
  }

  async removeImage(caller: Caller, ref: string): Promise<void> {
    this.#fault('removeImage');
    const image = this.#image(caller, ref);
    if (image.uid !== caller.uid) throw new RootlayerError('E_FORBIDDEN', `Cannot remove image "${ref}": it is shared by someone else`);
    image.names = image.names.filter((name) => name !== ref);
    if (isDigest(ref) || image.names.length === 0) this.#images.splice(this.#images.indexOf(image), 1);
  }

  async exportImage(caller: Caller, ref: string, format: ImageFormat): Promise<Download> {
    this.#fault('exportImage');
    const image = this.#image(caller, ref);
    const bytes = imageArchive(format, this.#archives.get(image.layers[0]?.blobDigest ?? image.id) ?? Buffer.alloc(0));
    return download(bytes, `${format}.tar`, true);
  }

  async addContext(caller: Caller, tar: Readable, signal: AbortSignal): Promise<string> {
    this.#fault('addContext');
    const bytes = await collect(tar, signal, () => {});
    const id = randomBytes(16).toString('hex');
    this.#contexts.set(id, { uid: caller.uid, tar: bytes });
    return id;
  }

  submit(caller: Caller, request: JobRequest): JobRecord {
    this.#fault('submit');
    if (this.#isClosing) throw new RootlayerError('E_BUSY', 'Cannot take job: the daemon is about to end');
    const baseImage = request.from === 'scratch' ? null : this.#image(caller, request.from).id;
    const context = request.contextId === null ? undefined : this.#contexts.get(request.contextId);
    if (request.contextId !== null && context?.uid !== caller.uid) {
      throw new RootlayerError('E_NOT_FOUND', `Cannot find context "${request.contextId}": no such context`);
    }
    const record: JobRecord = {
      id: newJobId(),
      state: 'queued',
      uid: caller.uid,
      from: request.from,
      baseImage,
      createdAt: new Date().toISOString(),
      startedAt: null,
      finishedAt: null,
      isolation: null,
      limits: request.limits,
      exitStatus: null,
      exitStatusBy: null,
      endedByLimit: null,
      usage: null,
      error: null,
      layer: null,
      imageName: request.name,
      timingsMs: {},
    };
    const job: FakeJob = {
      record,
      request,
      events: [],
      startedMs: performance.now(),
      abort: new AbortController(),
      layer: null,
      breaksAt: null,
      ended: Promise.resolve(),
      inputEnd: deferred(),
      wake: new Set(),
    };
    this.#jobs.set(record.id, job);
    emit(job, { type: 'state', state: 'queued' });
    job.ended = run(job, context?.tar ?? Buffer.alloc(0));
    return structuredClone(record);
  }

  listJobs(caller: Caller): JobRecord[] {
    this.#fault('listJobs');
    return [...this.#jobs.values()].filter((job) => job.record.uid === caller.uid).map((job) => structuredClone(job.record));
  }

  getJob(caller: Caller, id: JobId): JobRecord {
    this.#fault('getJob');
    return structuredClone(this.#job(caller, id).record);
  }

  async cancelJob(caller: Caller, id: JobId): Promise<JobRecord> {
    this.#fault('cancelJob');
    const job = this.#job(caller, id);
    job.abort.abort();
    await job.ended;
    return structuredClone(job.record);
  }

  async removeJob(caller: Caller, id: JobId): Promise<void> {
    this.#fault('removeJob');
    if (!isFinal(this.#job(caller, id).record.state)) {
      throw new RootlayerError('E_CONFLICT', `Cannot remove job "${id}": it has not ended`, { hint: 'cancel it first' });
    }
    this.#jobs.delete(id);
  }

  async sendInput(caller: Caller, id: JobId, bytes: Buffer): Promise<void> {
    this.#fault('sendInput');
    const job = this.#terminal(caller, id);
    if (bytes.length === 0) job.inputEnd.resolve();
    else emit(job, { type: 'log', stream: 'stdout', data: bytes.toString('base64'), encoding: 'base64' });
  }

  async resizeTerminal(caller: Caller, id: JobId, { rows, columns }: TerminalSize): Promise<void> {
    this.#fault('resizeTerminal');
    emit(this.#terminal(caller, id), { type: 'log', stream: 'stdout', data: `[${rows} ${columns}]` });
  }

  #terminal(caller: Caller, id: JobId): FakeJob {
    const job = this.#job(caller, id);
    if (job.request.terminal === null) throw new RootlayerError('E_CONFLICT', `Cannot use the terminal of job "${id}": the job has none`);
    if (job.record.state !== 'running') throw new RootlayerError('E_CONFLICT', `Cannot use the terminal of job "${id}": it is not running`);
    return job;
  }

  async *events(caller: Caller, id: JobId, from: number, follow: boolean, signal: AbortSignal): AsyncIterable<JobEvent> {
    this.#fault('events');
    const job = this.#job(caller, id);
    for (let at = from - 1; !signal.aborted; at += 1) {
      while (at >= job.events.length) {
        if (!follow || job.events.at(-1)?.type === 'end' || signal.aborted) return;
        await news(job, signal);
      }
      const event = job.events[at];
      if (event === undefined) return;
      this.eventsRead += 1;
      yield event;
      if (event.type === 'end') return;
    }
  }

  async openLayer(caller: Caller, id: JobId, compression: Compression): Promise<Download> {
    this.#fault('openLayer');
    const job = this.#job(caller, id);
    const { layer, breaksAt } = job;
    if (layer === null) throw new RootlayerError('E_CONFLICT', `Cannot open layer of job "${id}": the job made none`);
    const bytes = compress(layer, compression);
    const name = { none: 'layer.tar', gzip: 'layer.tar.gz', zstd: 'layer.tar.zst' }[compression];
    const whole = download(bytes, name, compression === 'none');
    const onRead = (length: number): void => {
      this.layerBytesRead += length;
    };
    return { ...whole, stream: Readable.from(pieces(bytes, breaksAt, onRead), { objectMode: false, highWaterMark: 65_536 }) };
  }

  async openJobImage(caller: Caller, id: JobId, format: ImageFormat): Promise<Download> {
    this.#fault('openJobImage');
    const { layer } = this.#job(caller, id);
    if (layer === null) throw new RootlayerError('E_CONFLICT', `Cannot open image of job "${id}": the job made none`);
    return download(imageArchive(format, layer), `${format}.tar`, true);
  }

  async layerJson(caller: Caller, id: JobId): Promise<string> {
    this.#fault('layerJson');
    const { record } = this.#job(caller, id);
    return `{"checksum":"${record.layer?.tarsum ?? ''}"}\n`;
  }

  async features(): Promise<Feature[]> {
    this.#fault('features');
    return [
      { name: 'overlay', ok: true, required: true, detail: 'in memory', remedy: null },
      { name: 'kvm', ok: false, required: false, detail: 'no /dev/kvm', remedy: 'load the module kvm_intel or kvm_amd' },
    ];
  }

  async close(drain: AbortSignal): Promise<void> {
    this.#isClosing = true;
    const cancelAll = (): void => {
      for (const job of this.#jobs.values()) job.abort.abort();
    };
    if (drain.aborted) cancelAll();
    else drain.addEventListener('abort', cancelAll, { once: true });
    await Promise.all([...this.#jobs.values()].map((job) => job.ended));
    drain.removeEventListener('abort', cancelAll);
  }

  #fault(method: keyof Engine): void {
    if (this.faults.has(method)) throw this.faults.get(method);
  }

  #image(caller: Caller, ref: string): ImageRecord {
    const image = this.#images.find(
      ({ uid, shared, id, sourceDigest, names }) =>
        (uid === caller.uid || shared) && (id === ref || sourceDigest === ref || names.includes(ref)),
    );
    if (image === undefined) throw new RootlayerError('E_NOT_FOUND', `Cannot find image "${ref}": no such image`);
    return image;
  }

  #job(caller: Caller, id: JobId): FakeJob {
    const job = this.#jobs.get(id);
    if (job === undefined || job.record.uid !== caller.uid) {
      throw new RootlayerError('E_NOT_FOUND', `Cannot find job "${id}": no such job`);
    }
    return job;
  }
}

/** Resolves at the next event of a job, or when the signal aborts. */
function news(job: FakeJob, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const finish = (): void => {
      job.wake.delete(finish);
      signal.removeEventListener('abort', finish);
      resolve();
    };
    job.wake.add(finish);
    signal.addEventListener('abort', finish, { once: true });
  });
}

function emit(job: FakeJob, event: Draft<JobEvent>): void {
  job.events.push({ ...event, n: job.events.length + 1, timeMs: Math.round(performance.now() - job.startedMs) });
  for (const wake of [...job.wake]) wake();
}

function setState(job: FakeJob, state: JobRecord['state']): void {
  job.record.state = state;
  emit(job, { type: 'state', state });
}

async function untilAborted(done: Promise<void>, signal: AbortSignal): Promise<void> {
  const aborted = new Promise<never>((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
  await Promise.race([done, aborted]);
}

async function run(job: FakeJob, context: Buffer): Promise<void> {
  const { record } = job;
  let output = '';
  let size = 0;
  await Promise.resolve();
  try {
    setState(job, 'preparing');
    record.startedAt = new Date().toISOString();
    record.isolation = { used: 'userns', why: 'it is the default', boundary: 'kernel', refused: [] };
    setState(job, 'running');
    for (const line of Buffer.from(job.request.script, 'base64').toString('utf8').split('\n')) {
      const [word = '', ...rest] = line.split(' ');
      const text = rest.join(' ');
      job.abort.signal.throwIfAborted();
      if (word === 'echo') {
        const isError = text.endsWith(' >&2');
        output += `${text}\n`;
        emit(job, { type: 'log', stream: isError ? 'stderr' : 'stdout', data: `${isError ? text.slice(0, -4) : text}\n` });
      } else if (word === 'bytes') emit(job, { type: 'log', stream: 'stdout', data: text, encoding: 'base64' });
      else if (word === 'env') emit(job, { type: 'log', stream: 'stdout', data: `${job.request.env[text] ?? ''}\n` });
      else if (word === 'context') emit(job, { type: 'log', stream: 'stdout', data: context.toString('base64') });
      else if (word === 'cat') await untilAborted(job.inputEnd.promise, job.abort.signal);
      else if (word === 'sleep') await sleep(Number(text), undefined, { signal: job.abort.signal });
      else if (word === 'flood') await flood(job, Number(text));
      else if (word === 'warn') emit(job, { type: 'warning', message: text });
      else if (word === 'size') size = Number(text);
      else if (word === 'break') job.breaksAt = Number(text);
      else if (word === 'limit') failByLimit(record, text);
      else if (word === 'exit') record.exitStatus = Number(text);
      if (record.exitStatus !== null || record.endedByLimit !== null) break;
    }
    await finish(job, output, size);
  } catch {
    record.state = 'cancelled';
    record.error = new RootlayerError('E_CANCELLED', 'Cannot finish job: it was cancelled').toBody();
  }
  record.finishedAt = new Date().toISOString();
  emit(job, { type: 'state', state: record.state });
  emit(job, { type: 'end', job: structuredClone(record) });
}

async function flood(job: FakeJob, lines: number): Promise<void> {
  const data = `${'x'.repeat(1023)}\n`;
  for (let count = 0; count < lines; count += 1) {
    job.abort.signal.throwIfAborted();
    emit(job, { type: 'log', stream: 'stdout', data });
    if (count % 100 === 0) await sleep(0);
  }
}

const LIMIT_CODES: Record<string, ErrorCode> = {
  memory: 'E_LIMIT_MEMORY',
  time: 'E_LIMIT_TIME',
  silence: 'E_LIMIT_SILENCE',
  disk: 'E_LIMIT_DISK',
  pids: 'E_LIMIT_PIDS',
  output: 'E_LIMIT_OUTPUT',
};

function failByLimit(record: JobRecord, limit: string): void {
  const code = LIMIT_CODES[limit];
  if (code === undefined) throw new Error(`the fake knows no limit ${limit}`);
  record.endedByLimit = { limit: limit as 'memory', value: 1, peak: null };
  record.error = new RootlayerError(code, `Cannot finish job: the ${limit} limit was reached`).toBody();
}

async function finish(job: FakeJob, output: string, size: number): Promise<void> {
  const { record } = job;
  record.usage = { memoryPeakBytes: null, pidsPeak: null, cpuMs: 1, diskBytes: 0, outputBytes: output.length };
  if (record.endedByLimit !== null) {
    record.state = 'failed';
    return;
  }
  record.exitStatus ??= 0;
  record.exitStatusBy = 'kernel';
  if (record.exitStatus !== 0) {
    record.state = 'failed';
    record.error = new RootlayerError('E_SCRIPT', `Cannot make a layer: the script ended with status ${record.exitStatus}`).toBody();
    return;
  }
  setState(job, 'capturing');
  emit(job, { type: 'progress', stage: 'pack', done: 1, total: 1, unit: 'entries' });
  job.layer = tarOf({ 'out.txt': Buffer.concat([Buffer.from(output), Buffer.alloc(size)]) });
  record.layer = {
    diffId: parseDiffId(sha256(job.layer)),
    tarsum: await tarsumOf([job.layer]),
    sizeBytes: job.layer.length,
    entries: 1,
    warnings: [],
  };
  record.state = 'done';
}

async function collect(stream: Readable, signal: AbortSignal, onBytes: (done: number) => void): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let done = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    signal.throwIfAborted();
    chunks.push(chunk);
    done += chunk.length;
    onBytes(done);
  }
  return Buffer.concat(chunks);
}

function sha256(bytes: Buffer): Digest {
  return digestOf(createHash('sha256').update(bytes).digest());
}

/** A tar of plain files. */
export function tarOf(files: Record<string, Buffer>): Buffer {
  const parts = Object.entries(files).flatMap(([name, body]) => [
    encodeEntry({
      name: Buffer.from(name),
      type: 'file',
      mode: 0o644,
      uid: 0,
      gid: 0,
      size: body.length,
      mtimeSec: 0,
      linkName: Buffer.alloc(0),
      devMajor: 0,
      devMinor: 0,
      xattrs: [],
    }),
    body,
    padding(body.length),
  ]);
  return Buffer.concat([...parts, endOfArchive]);
}

function imageArchive(format: ImageFormat, layer: Buffer): Buffer {
  if (format === 'rootfs-tar') return tarOf({ 'etc/os-release': Buffer.from('ID=fake\n') });
  if (format === 'docker-archive') return tarOf({ 'manifest.json': Buffer.from('[]'), 'layer.tar': layer });
  return tarOf({
    'oci-layout': Buffer.from('{"imageLayoutVersion":"1.0.0"}'),
    'index.json': Buffer.from('{"schemaVersion":2,"manifests":[]}'),
    [`blobs/sha256/${hexOf(sha256(layer))}`]: layer,
  });
}

function compress(bytes: Buffer, compression: Compression): Buffer {
  if (compression === 'gzip') return gzipSync(bytes);
  return compression === 'zstd' ? execFileSync('zstd', ['-q', '-c'], { input: bytes, maxBuffer: 1 << 30 }) : bytes;
}

/** Without `isKnown` it is as if the bytes were made while they are sent. */
function download(bytes: Buffer, fileName: string, isKnown: boolean): Download {
  return {
    stream: Readable.from([bytes], { objectMode: false }),
    sizeBytes: isKnown ? bytes.length : null,
    digest: isKnown ? sha256(bytes) : null,
    fileName,
  };
}

async function* pieces(bytes: Buffer, breaksAt: number | null, onRead: (length: number) => void): AsyncGenerator<Buffer, void, undefined> {
  const step = 65_536;
  for (let at = 0; at < bytes.length; at += step) {
    if (breaksAt !== null && at >= breaksAt) throw new RootlayerError('E_STORE_CORRUPT', 'Cannot read layer: its bytes have changed');
    const piece = bytes.subarray(at, at + step);
    onRead(piece.length);
    yield piece;
  }
  if (breaksAt !== null) throw new RootlayerError('E_STORE_CORRUPT', 'Cannot read layer: its bytes have changed');
}
