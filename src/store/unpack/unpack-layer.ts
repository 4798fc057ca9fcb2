import { type DiffId, parseDiffId } from '../../core/digest.ts';
import type { Progress } from '../../core/engine.ts';
import { RootlayerError } from '../../core/errors.ts';
import type { Compression } from '../../core/image.ts';
import { close, O_DIRECTORY, O_RDONLY, openAt2, setXattrFd, statFd, syncFilesystemAsync } from '../../host/libc.ts';
import { CAP, startWorker, type Worker, type WorkerKind } from '../../host/worker.ts';
import { STRICT } from './staging-dirs.ts';
import { type UnpackLimits, type UnpackResult, unpackLimitsSchema, unpackRequestSchema, unpackResultSchema } from './unpack-protocol.ts';
import { startZstd, type ZstdProcess } from './zstd-process.ts';

/** What {@link unpackLayer} needs. All descriptors stay the caller's. */
export type UnpackLayerRequest = {
  /** The blob as it is stored: a regular file, read from its start. */
  blobFd: number;
  compression: Compression;
  /** An empty directory, mode 0755, owned by `uidBase`; who else can reach it is the caller's to prevent. */
  stagingDirFd: number;
  /** First of the 65,536 host ids that the layer's owners 0 to 65535 become on disk. */
  uidBase: number;
  limits?: Partial<UnpackLimits>;
  /** The worker, and for zstd the decompressor, live in these cgroups. */
  cgroupFds?: number[];
  /** Gives a fresh worker of {@link unpackWorkerKind}, from a pool perhaps; it is used once and disposed here. */
  takeWorker?: (signal: AbortSignal) => Promise<Worker>;
  signal: AbortSignal;
  progress?: Progress | null;
};

/** A layer on disk, complete and synced. */
export type UnpackedLayer = {
  /** Digest of all uncompressed bytes; the caller compares it with the image's config. */
  diffId: DiffId;
  entries: number;
  unpackedBytes: number;
  /**
   * The layer hides everything below it. overlayfs takes no notice of the mark on a layer's root: such a layer must be the lowest one
   * of the stack.
   */
  isOpaqueRoot: boolean;
  skippedDevices: number;
  droppedXattrs: number;
  /** For people, one sentence each. */
  warnings: string[];
};

const HEAP_MIB = 128;

/**
 * The kind of worker that {@link unpackLayer} needs, for a pool of warm ones. SYS_ADMIN and SYS_CHROOT are for its own lock-in, and
 * then out of use by its filter.
 */
export function unpackWorkerKind(uidBase: number): WorkerKind {
  return {
    entry: 'store/unpack/unpack-worker.ts',
    uidBase,
    capabilities: CAP.CHOWN | CAP.DAC_OVERRIDE | CAP.FOWNER | CAP.FSETID | CAP.SETFCAP | CAP.SYS_ADMIN | CAP.SYS_CHROOT,
    heapMib: HEAP_MIB,
  };
}

/**
 * Unpacks one layer into an empty staging directory, in a confined worker process, and syncs the filesystem. Owners are shifted by
 * `uidBase`, whiteouts become nodes 0:0, opaque directories get `trusted.overlay.opaque`: the one step that needs the daemon's own
 * privilege. After an error, or an abort, the staging directory holds whatever it holds: the caller removes it.
 *
 * Throws `E_ARCHIVE_*` for a hostile or damaged tar, `E_COMPRESSION`, `E_LIMIT_ENTRIES`, `E_LIMIT_UNPACKED`, `E_LIMIT_RATIO`,
 * `E_LIMIT_XATTR`, `E_TOOL` when zstd is not installed, `E_SYSCALL` (a full disk), `E_WORKER` when the worker dies, and the signal's
 * reason.
 */
export async function unpackLayer(request: UnpackLayerRequest): Promise<UnpackedLayer> {
  const { stagingDirFd, uidBase, signal, cgroupFds = [] } = request;
  await using worker = await (request.takeWorker?.(signal) ?? startWorker(unpackWorkerKind(uidBase), cgroupFds, signal));
  const answer =
    request.compression === 'zstd' ? await callWithZstd(worker, request) : await call(worker, request, [request.blobFd, stagingDirFd]);
  const result = parseResult(answer);
  for (const path of result.opaqueDirectories) markOpaque(stagingDirFd, Buffer.from(path, 'base64'));
  await syncFilesystemAsync(stagingDirFd);
  return {
    diffId: parseDiffId(result.diffId),
    entries: result.entries,
    unpackedBytes: result.unpackedBytes,
    isOpaqueRoot: result.opaqueDirectories.includes(''),
    skippedDevices: result.skippedDevices,
    droppedXattrs: result.droppedXattrs,
    warnings: result.warnings,
  };
}

function call(worker: Worker, request: UnpackLayerRequest, fds: number[]): Promise<unknown> {
  const body = unpackRequestSchema.parse({
    compression: request.compression,
    blobBytes: statFd(request.blobFd).size,
    limits: unpackLimitsSchema.parse(request.limits ?? {}),
  });
  return worker.call(body, fds, request.progress ?? null, request.signal);
}

/**
 * When zstd fails, the worker only sees its input end early, or end well while zstd found a wrong checksum: then zstd's error is the
 * one to tell. When the worker fails first, zstd dies of its closed pipe, and the worker's error counts.
 */
async function callWithZstd(worker: Worker, request: UnpackLayerRequest): Promise<unknown> {
  await using zstd: ZstdProcess = startZstd(request.blobFd, request.uidBase, request.cgroupFds ?? []);
  let answer: unknown;
  try {
    answer = await call(worker, request, [zstd.outputFd, request.stagingDirFd, request.blobFd]);
  } catch (error) {
    if (!(error instanceof RootlayerError && error.code === 'E_ARCHIVE_TRUNCATED')) throw error;
    zstd.closeOutput();
    throw (await zstd.ended) ?? error;
  }
  const failure = await zstd.ended;
  if (failure !== null) throw failure;
  return answer;
}

/** The worker's answer to a request of either kind. Throws `E_WORKER` when it is none. */
export function parseResult(answer: unknown): UnpackResult {
  const parsed = unpackResultSchema.safeParse(answer);
  if (parsed.success) return parsed.data;
  throw new RootlayerError('E_WORKER', 'Cannot unpack layer: the worker gave no valid answer', { cause: parsed.error });
}

function markOpaque(stagingDirFd: number, path: Buffer): void {
  const fd = openAt2(stagingDirFd, path.length === 0 ? '.' : path, O_RDONLY | O_DIRECTORY, STRICT);
  try {
    setXattrFd(fd, 'trusted.overlay.opaque', Buffer.from('y'));
  } finally {
    close(fd);
  }
}
