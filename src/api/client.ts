import type { IncomingMessage } from 'node:http';
import { pipeline } from 'node:stream/promises';
import type { Digest } from '../core/digest.ts';
import { isErrorCode, RootlayerError } from '../core/errors.ts';
import type { ImageRecord } from '../core/image.ts';
import { DigestStream, parseReprDigest } from './digest-stream.ts';
import { exchange, explain, type HttpCall, readText } from './http-client.ts';
import { NDJSON_TYPE, parseLines } from './ndjson.ts';
import type { Fetched, Session } from './session.ts';

/**
 * Gives the daemon behind a socket as a session. Nothing is sent before the first request. Answers are taken as they are, without a schema: they come
 * from root's daemon, and the schema library would double the time a command takes to start.
 */
export function connect(socketPath: string): Session {
  const request = (call: HttpCall): Promise<IncomingMessage> => exchange(socketPath, call);
  const json = async <T>(call: HttpCall): Promise<T> => JSON.parse(await readText(await request(call)));
  const none = async (call: HttpCall): Promise<void> => {
    await readText(await request(call));
  };
  return {
    kind: 'daemon',
    async importImage(archive, options, progress, signal) {
      const path = `/v1/images${queryOf({ name: options.name, select: options.select, shared: options.shared ? '1' : null })}`;
      const body = { contentType: 'application/octet-stream', bytes: archive };
      const response = await request({ method: 'POST', path, accept: NDJSON_TYPE, body, signal });
      return importResult(lines(response, socketPath) as AsyncIterable<ImportLine>, progress);
    },
    listImages: async () => (await json<{ images: ImageRecord[] }>({ method: 'GET', path: '/v1/images' })).images,
    inspectImage: (ref) => json({ method: 'GET', path: imagePath(ref) }),
    removeImage: (ref) => none({ method: 'DELETE', path: imagePath(ref) }),
    exportImage: async (ref, format, signal) =>
      fetched(await request({ method: 'GET', path: `${imagePath(ref)}/archive${queryOf({ format })}`, accept: '*/*', signal }), socketPath),
    addContext: async (tar, signal) => {
      const body = { contentType: 'application/x-tar', bytes: tar };
      return (await json<{ id: string }>({ method: 'POST', path: '/v1/contexts', body, signal })).id;
    },
    submit: (job) => {
      const bytes = Buffer.from(JSON.stringify(job));
      return json({ method: 'POST', path: '/v1/jobs', body: { contentType: 'application/json', bytes } });
    },
    listJobs: async () => (await json<{ jobs: Awaited<ReturnType<Session['listJobs']>> }>({ method: 'GET', path: '/v1/jobs' })).jobs,
    getJob: (id) => json({ method: 'GET', path: `/v1/jobs/${id}` }),
    cancelJob: (id) => json({ method: 'POST', path: `/v1/jobs/${id}/cancel` }),
    removeJob: (id) => none({ method: 'DELETE', path: `/v1/jobs/${id}` }),
    sendInput: (id, bytes) =>
      none({ method: 'POST', path: `/v1/jobs/${id}/terminal/input`, body: { contentType: 'application/octet-stream', bytes } }),
    resizeTerminal: (id, size) => {
      const bytes = Buffer.from(JSON.stringify(size));
      return none({ method: 'PUT', path: `/v1/jobs/${id}/terminal/size`, body: { contentType: 'application/json', bytes } });
    },
    async *events(id, from, follow, signal) {
      const path = `/v1/jobs/${id}/events${queryOf({ from: String(from), follow: follow ? '1' : null })}`;
      const response = await request({ method: 'GET', path, accept: NDJSON_TYPE, signal });
      yield* lines(response, socketPath) as ReturnType<Session['events']>;
    },
    openLayer: async (id, compression, signal) =>
      fetched(await request({ method: 'GET', path: `/v1/jobs/${id}/layer${queryOf({ compression })}`, accept: '*/*', signal }), socketPath),
    openJobImage: async (id, format, signal) =>
      fetched(await request({ method: 'GET', path: `/v1/jobs/${id}/image${queryOf({ format })}`, accept: '*/*', signal }), socketPath),
    layerJson: async (id) => readText(await request({ method: 'GET', path: `/v1/jobs/${id}/layer-json` })),
    features: async () =>
      (await json<{ features: Awaited<ReturnType<Session['features']>> }>({ method: 'GET', path: '/v1/features' })).features,
    close: async () => {},
  };
}

function imagePath(ref: string): string {
  return `/v1/images/${encodeURIComponent(ref)}`;
}

function queryOf(values: Record<string, string | null>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) if (value !== null) query.set(name, value);
  return query.size === 0 ? '' : `?${query.toString()}`;
}

async function* lines(response: IncomingMessage, socketPath: string): AsyncGenerator<unknown, void, undefined> {
  try {
    yield* parseLines(response);
  } catch (error) {
    throw explain(error, socketPath);
  } finally {
    response.destroy();
  }
}

type ImportLine =
  | ({ type: 'progress' } & Parameters<Parameters<Session['importImage']>[2]>[0])
  | { type: 'result'; image: ImageRecord }
  | { type: 'error'; error: { code: string; message: string; hint?: string } };

async function importResult(answer: AsyncIterable<ImportLine>, progress: Parameters<Session['importImage']>[2]): Promise<ImageRecord> {
  for await (const line of answer) {
    if (line.type === 'result') return line.image;
    if (line.type === 'error') {
      const { code, message, hint } = line.error;
      throw new RootlayerError(isErrorCode(code) ? code : 'E_PROTOCOL', message, { hint });
    }
    const { stage, done, total, unit } = line;
    progress({ stage, done, total, unit });
  }
  throw new RootlayerError('E_PROTOCOL', 'Cannot read the answer of the daemon: it ends without a result');
}

/** A digest must have come, before the bytes or behind them: what has none was cut. */
function fetched(response: IncomingMessage, socketPath: string): Fetched {
  const announced = (): Digest => {
    const value = response.headers['repr-digest'] ?? response.trailers['repr-digest'];
    const digest = parseReprDigest(String(value ?? ''));
    if (digest === null)
      throw new RootlayerError('E_UNREACHABLE', 'Cannot use the download: its digest did not come', { hint: 'fetch it again' });
    return digest;
  };
  const stream = new DigestStream(announced);
  // Before pipeline sees it, so that the stream fails with the error that people can read.
  response.once('error', (error) => stream.destroy(explain(error, socketPath)));
  pipeline(response, stream).catch(() => {});
  const length = response.headers['content-length'];
  return {
    stream,
    sizeBytes: length === undefined ? null : Number(length),
    fileName: /filename="([^"]+)"/.exec(response.headers['content-disposition'] ?? '')?.[1] ?? 'download',
    digest: stream.digest,
  };
}
