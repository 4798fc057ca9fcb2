import { pipeline } from 'node:stream/promises';
import type { Caller, Download, Engine } from '../core/engine.ts';
import { jobRequestSchema } from '../core/job.ts';
import { DigestStream } from './digest-stream.ts';
import { parseInput } from './parse-input.ts';
import type { Fetched, Session } from './session.ts';

/** Gives an engine of this process as the session of one caller. Requests are checked just as the daemon checks them (`E_PROTOCOL`). */
export function sessionOf(engine: Engine, caller: Caller): Session {
  return {
    kind: 'embedded',
    importImage: (archive, options, progress, signal) => engine.importImage(caller, archive, options, progress, signal),
    listImages: async () => engine.listImages(caller),
    inspectImage: (ref) => engine.inspectImage(caller, ref),
    removeImage: (ref) => engine.removeImage(caller, ref),
    exportImage: async (ref, format, signal) => fetched(await engine.exportImage(caller, ref, format, signal)),
    addContext: (tar, signal) => engine.addContext(caller, tar, signal),
    submit: async (request) => engine.submit(caller, parseInput(jobRequestSchema, request, 'job request')),
    listJobs: async () => engine.listJobs(caller),
    getJob: async (id) => engine.getJob(caller, id),
    cancelJob: (id) => engine.cancelJob(caller, id),
    removeJob: (id) => engine.removeJob(caller, id),
    sendInput: (id, bytes) => engine.sendInput(caller, id, bytes),
    resizeTerminal: (id, size) => engine.resizeTerminal(caller, id, size),
    events: (id, from, follow, signal) => engine.events(caller, id, from, follow, signal),
    openLayer: async (id, compression, signal) => fetched(await engine.openLayer(caller, id, compression, signal)),
    openJobImage: async (id, format, signal) => fetched(await engine.openJobImage(caller, id, format, signal)),
    layerJson: (id) => engine.layerJson(caller, id),
    features: () => engine.features(),
    close: (drain) => engine.close(drain),
  };
}

function fetched(download: Download): Fetched {
  const stream = new DigestStream(() => download.digest);
  // A failure shows on the stream: pipeline destroys both ends with it.
  pipeline(download.stream, stream).catch(() => {});
  return { stream, sizeBytes: download.sizeBytes, fileName: download.fileName, digest: stream.digest };
}
