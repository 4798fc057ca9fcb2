import { createHash } from 'node:crypto';
import { read } from 'node:fs';
import { Socket } from 'node:net';
import { Readable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { promisify } from 'node:util';
import { type Digest, digestOf } from '../../core/digest.ts';
import type { Progress } from '../../core/engine.ts';
import { RootlayerError } from '../../core/errors.ts';
import type { Compression } from '../../core/image.ts';
import { close, makePipe, setPipeSize, statFd } from '../../host/libc.ts';
import { CAP, type Worker, type WorkerKind } from '../../host/worker.ts';
import { startZstd, type ZstdProcess } from '../unpack/zstd-process.ts';
import { compressionOf, type Listing, listingSchema } from './archive-files.ts';
import { findBomb } from './inflate.ts';
import type { IngestRequest } from './protocol.ts';
import { SourceFeed } from './source-feed.ts';

/** Where an archive comes from: a stream, which is left undestroyed whatever happens, or a regular file, which stays open. */
export type IngestSource = Readable | { readonly fd: number };

/** Bounds of one ingest, in bytes and members. */
export type IngestLimits = {
  /** Of the archive as it comes; `E_LIMIT_INGEST` beyond. */
  readonly maxSourceBytes: number;
  /** Of what is in it; `E_LIMIT_UNPACKED` beyond. */
  readonly maxBytes: number;
  /** `E_LIMIT_ENTRIES` beyond. */
  readonly maxMembers: number;
};

/** What came in: the members, which are now files of the directory, and the digest of the bytes as they came. */
export type Ingested = { readonly listing: Listing; readonly sourceDigest: Digest; readonly sourceBytes: number };

/** A process that may look at an archive: without capabilities once it is set up, root of the store's own ids and of nothing else. */
export function ingestWorkerKind(uidBase: number): WorkerKind {
  return { entry: 'store/ingest/ingest-worker.ts', uidBase, capabilities: CAP.SYS_ADMIN | CAP.SYS_CHROOT, heapMib: 256 };
}

/** As much as a process may have without privilege: fewer turns between daemon and worker. Source: pipe(7), pipe-max-size. */
const PIPE_BYTES = 1024 * 1024;

/** What {@link ingestArchive} works with. The directory must be writable for the ids from `uidBase` on; the worker is ended by its owner. */
export type IngestTools = {
  readonly worker: Worker;
  readonly directoryFd: number;
  readonly uidBase: number;
  readonly limits: IngestLimits;
};

/**
 * Copies the files of an archive (plain, gzip or zstd tar) into a directory, hashed on the way, all parsing done by a confined worker. Throws the
 * `E_ARCHIVE_` codes, `E_COMPRESSION`, `E_LIMIT_INGEST`, `E_LIMIT_UNPACKED`, `E_LIMIT_RATIO`, `E_LIMIT_ENTRIES`, and what the source fails with.
 */
export async function ingestArchive(source: IngestSource, tools: IngestTools, progress: Progress, signal: AbortSignal): Promise<Ingested> {
  // Not by its members: a stream of a file has an `fd` too.
  if (source instanceof Readable) return await ingestStream(source, tools, progress, signal);
  return await ingestFile(source.fd, tools, progress, signal);
}

async function ingestStream(source: Readable, tools: IngestTools, progress: Progress, signal: AbortSignal): Promise<Ingested> {
  // The client may have left while a worker was being started: then no event will tell any more.
  signal.throwIfAborted();
  if (source.destroyed) throw new RootlayerError('E_ARCHIVE_TRUNCATED', 'Cannot take upload: it broke off');
  const feed = new SourceFeed(tools.limits.maxSourceBytes);
  // Always listened to: when the client is gone, the feed fails after whoever waited for it has left.
  feed.on('error', () => {});
  const fed = finished(feed, { signal });
  fed.catch(() => {});
  const onFailure = (error: Error): void => void feed.destroy(error);
  const onClose = (): void => {
    if (!source.readableEnded) feed.destroy(new RootlayerError('E_ARCHIVE_TRUNCATED', 'Cannot take upload: it broke off'));
  };
  source.once('error', onFailure);
  source.once('close', onClose);
  // Not a pipeline: that would destroy the source, and with it the connection that the error has to go back on.
  source.pipe(feed);
  try {
    const compression = compressionOf(await feed.head);
    const [inputFd, writeFd] = makePipe();
    setPipeSize(writeFd, PIPE_BYTES);
    feed.attach(new Socket({ fd: writeFd, readable: false, writable: true }).on('error', () => {}));
    const listing = await runChain(
      { fd: inputFd, isFile: false, isOurs: true, compression, fed, bytesIn: () => feed.bytes },
      tools,
      progress,
      signal,
    );
    return { listing, sourceDigest: feed.digest(), sourceBytes: feed.bytes };
  } finally {
    source.unpipe(feed);
    source.removeListener('error', onFailure);
    source.removeListener('close', onClose);
    feed.destroy();
  }
}

async function ingestFile(fd: number, tools: IngestTools, progress: Progress, signal: AbortSignal): Promise<Ingested> {
  const before = statFd(fd);
  if (before.size > tools.limits.maxSourceBytes) {
    throw new RootlayerError(
      'E_LIMIT_INGEST',
      `Cannot take archive: it has ${before.size} bytes, want at most ${tools.limits.maxSourceBytes}`,
    );
  }
  const head = Buffer.alloc(8);
  const { bytesRead } = await readAsync(fd, head, 0, head.length, 0);
  const stop = new AbortController();
  const hashed = hashFile(fd, AbortSignal.any([signal, stop.signal]));
  hashed.catch(() => {});
  try {
    const compression = compressionOf(head.subarray(0, bytesRead));
    const listing = await runChain(
      { fd, isFile: true, isOurs: false, compression, fed: hashed, bytesIn: () => before.size },
      tools,
      progress,
      signal,
    );
    const after = statFd(fd);
    if (after.size !== before.size || after.mtimeSec !== before.mtimeSec || after.mtimeNsec !== before.mtimeNsec) {
      throw new RootlayerError('E_CONFLICT', 'Cannot take archive: the file changed while it was read');
    }
    return { listing, sourceDigest: await hashed, sourceBytes: after.size };
  } finally {
    stop.abort();
  }
}

const readAsync = promisify(read);

/** The worker reads the same file meanwhile: two processes on two cores. */
async function hashFile(fd: number, signal: AbortSignal): Promise<Digest> {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafe(1024 * 1024);
  for (let at = 0; ; ) {
    signal.throwIfAborted();
    const { bytesRead } = await readAsync(fd, buffer, 0, buffer.length, at);
    if (bytesRead === 0) return digestOf(hash.digest());
    hash.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
}

/** An archive's bytes as they came; `fed` settles when all of them have been handed over, `isOurs` says that the descriptor is to be closed. */
type Input = {
  readonly fd: number;
  readonly isFile: boolean;
  readonly isOurs: boolean;
  readonly compression: Compression;
  readonly fed: Promise<unknown>;
  /** How many there were so far. */
  bytesIn(): number;
};

/** Runs the worker, with zstd in front of it when the archive is compressed so. */
async function runChain(input: Input, tools: IngestTools, progress: Progress, signal: AbortSignal): Promise<Listing> {
  const bounds = { maxBytes: tools.limits.maxBytes, maxMembers: tools.limits.maxMembers };
  if (input.compression !== 'zstd') {
    const request = { ...bounds, isFile: input.isFile, compression: input.compression };
    return await runWorker({ request, fd: input.fd, close: () => closeInput(input), fed: input.fed, zstd: null }, tools, progress, signal);
  }
  await using zstd = startFrom(input, tools.uidBase);
  const request = { ...bounds, isFile: false, compression: 'none' } as const;
  const run = { request, fd: zstd.outputFd, close: () => zstd.closeOutput(), fed: input.fed, zstd: zstd.ended };
  const bomb = new AbortController();
  const watch: Progress = (step) => {
    const error = findBomb(input.bytesIn(), step.done);
    if (error !== null) bomb.abort(error);
    progress(step);
  };
  return await runWorker(run, tools, watch, AbortSignal.any([signal, bomb.signal]));
}

/** zstd has its own descriptor of the input when this returns. */
function startFrom(input: Input, uidBase: number): ZstdProcess {
  try {
    return startZstd(input.fd, uidBase, []);
  } finally {
    closeInput(input);
  }
}

function closeInput(input: Input): void {
  if (input.isOurs) close(input.fd);
}

/** The worker's part, and those that feed it. `close` gives up our copy of the descriptor, once the worker has its own. */
type Run = {
  readonly request: IngestRequest;
  readonly fd: number;
  close(): void;
  readonly fed: Promise<unknown>;
  readonly zstd: Promise<RootlayerError | null> | null;
};

/** When a feeding part fails, the worker sees the archive end too early; when the worker fails, they see a broken pipe: the cause is the one to tell. */
async function runWorker(run: Run, tools: IngestTools, progress: Progress, signal: AbortSignal): Promise<Listing> {
  let failure: unknown;
  run.fed.catch((error: unknown) => {
    if (!isBrokenPipe(error)) failure = error;
  });
  const call = tools.worker.call(run.request, [run.fd, tools.directoryFd], progress, signal);
  run.close();
  try {
    const listing = listingSchema.parse(await call);
    await run.fed;
    const zstdFailure = await run.zstd;
    if (zstdFailure !== null) throw zstdFailure;
    return listing;
  } catch (error) {
    signal.throwIfAborted();
    if (failure === undefined && error instanceof RootlayerError && error.code === 'E_ARCHIVE_TRUNCATED')
      failure = (await run.zstd) ?? undefined;
    throw failure ?? error;
  }
}

function isBrokenPipe(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'EPIPE' || error.code === 'ECONNRESET');
}
