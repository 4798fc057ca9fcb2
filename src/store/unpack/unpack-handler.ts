import { digestOf } from '../../core/digest.ts';
import { RootlayerError } from '../../core/errors.ts';
import { TarReader } from '../../core/tar/reader.ts';
import { close, setUmask } from '../../host/libc.ts';
import { seccompArch } from '../../host/seccomp/arch.ts';
import { compileFilter } from '../../host/seccomp/bpf.ts';
import { unpackWorkerProfile } from '../../host/seccomp/worker-profiles.ts';
import { type Report, serveWorker } from '../../host/worker-main.ts';
import { ContextFilter } from './context-filter.ts';
import { Extractor } from './extractor.ts';
import { pumpGzip, pumpPlain } from './layer-input.ts';
import { LayerSink } from './layer-sink.ts';
import { extractResult } from './result-handler.ts';
import type { ResultRequest } from './result-protocol.ts';
import type { StreamHash } from './stream-hash.ts';
import type { UnpackRequest, UnpackResult } from './unpack-protocol.ts';
import { checkZstdFrames } from './zstd-frames.ts';

/** User namespaces of stores and jobs are this wide. */
const MAX_ID = 65_535;
/** The most that zstd is allowed to hold, see zstd-process.ts. */
const MAX_WINDOW_BYTES = 128 * 1024 * 1024;

/** Locks this process in as an unpack worker, and unpacks layers, contexts and results until the daemon closes the socket. */
export function serveUnpacking(hash: StreamHash): Promise<void> {
  setUmask(0);
  return serveWorker(compileFilter(unpackWorkerProfile, seccompArch()), async (body, fds, report) => {
    try {
      // The daemon has checked its request against the schema; loading zod here would double the time that a worker takes to start.
      const request = body as UnpackRequest | ResultRequest;
      return request.kind === 'result' ? extractResult(request, fds, report) : await unpack(request, fds, report, hash);
    } finally {
      for (const fd of fds) close(fd);
    }
  });
}

async function unpack(request: UnpackRequest, fds: readonly number[], report: Report, hash: StreamHash): Promise<UnpackResult> {
  const { compression, blobBytes, limits } = request;
  const [inputFd, stagingFd, thirdFd] = fds;
  if (inputFd === undefined || stagingFd === undefined) {
    throw new RootlayerError('E_PROTOCOL', `Cannot unpack layer: ${fds.length} descriptors came with the request, want 2 or 3`);
  }
  const isContext = request.context !== null;
  const extractor = new Extractor(stagingFd, {
    keepAcls: limits.keepAcls,
    rootTimes: isContext ? 'own' : 'epoch',
    lowerFd: isContext ? (thirdFd ?? null) : null,
    followsLowerLinks: request.context === 'copy',
  });
  try {
    const filter = request.context === null ? null : new ContextFilter(request.context, extractor);
    const reader = new TarReader(filter ?? extractor, {
      maxEntries: limits.maxEntries,
      maxId: MAX_ID,
    });
    const sink = new LayerSink(hash, reader, limits, compression === 'none' ? null : blobBytes);
    if (compression === 'zstd') {
      checkZstdFrames(thirdFd ?? -1, blobBytes, { maxFrames: limits.maxMembers, maxWindowBytes: MAX_WINDOW_BYTES });
      pumpPlain(inputFd, sink, (done) => report({ stage: 'unpack', done, total: null, unit: 'bytes' }));
    } else {
      const onRead = (done: number): void => report({ stage: 'unpack', done, total: blobBytes, unit: 'bytes' });
      if (compression === 'gzip') await pumpGzip(inputFd, sink, limits.maxMembers, onRead);
      else pumpPlain(inputFd, sink, onRead);
    }
    reader.end();
    const { opaqueDirectories, ...rest } = extractor.finish();
    return {
      diffId: digestOf(hash.finish()),
      unpackedBytes: sink.bytes,
      entries: reader.entries,
      opaqueDirectories: opaqueDirectories.map((path) => path.toString('base64')),
      tops: [...(filter?.tops ?? [])],
      ...rest,
    };
  } catch (error) {
    hash.reset();
    throw error;
  } finally {
    extractor.abort();
  }
}
