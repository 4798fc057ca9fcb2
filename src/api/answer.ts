import type { ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { assertNever } from '../core/assert-never.ts';
import type { Download } from '../core/engine.ts';
import { ERROR_CODES, type RootlayerError } from '../core/errors.ts';
import { DigestStream, formatLegacyDigest, formatReprDigest } from './digest-stream.ts';
import { NDJSON_TYPE } from './ndjson.ts';
import { PROBLEM_TYPE, problemOf, RETRY_AFTER_SEC } from './problem.ts';
import type { Answer } from './route.ts';

/**
 * Writes an answer, and waits for the client to take it: nothing piles up in memory. Throws what the answer's source throws. When that happens
 * after the head was sent, the connection is cut, so that a client cannot take a part for the whole.
 */
export async function writeAnswer(response: ServerResponse, answer: Answer): Promise<void> {
  switch (answer.kind) {
    case 'json':
      return writeText(response, answer.status, 'application/json; charset=utf-8', `${JSON.stringify(answer.body)}\n`, {
        ...(answer.location === undefined ? {} : { location: answer.location }),
      });
    case 'empty':
      response.writeHead(204).end();
      return;
    case 'text':
      return writeText(response, 200, answer.contentType, answer.text);
    case 'download':
      return writeDownload(response, answer.contentType, answer.download);
    case 'lines':
      return writeChunks(response, NDJSON_TYPE, encodeLines(answer.lines));
    case 'bytes':
      return writeChunks(response, answer.contentType, answer.chunks);
    default:
      return assertNever(answer);
  }
}

/** Writes an error as problem details, or cuts the connection when an answer has begun. */
export function writeError(response: ServerResponse, error: RootlayerError): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  // Headers that an answer had set are not those of an error.
  for (const name of response.getHeaderNames()) response.removeHeader(name);
  writeText(response, ERROR_CODES[error.code].status, PROBLEM_TYPE, `${JSON.stringify(problemOf(error))}\n`, {
    ...(error.code === 'E_BUSY' ? { 'retry-after': RETRY_AFTER_SEC } : {}),
  });
}

function writeText(
  response: ServerResponse,
  status: number,
  contentType: string,
  text: string,
  headers: Record<string, string | number> = {},
): void {
  response.writeHead(status, { 'content-type': contentType, 'content-length': Buffer.byteLength(text), ...headers });
  response.end(text);
}

async function* encodeLines(lines: AsyncIterable<unknown>): AsyncGenerator<Buffer, void, undefined> {
  for await (const line of lines) yield Buffer.from(`${JSON.stringify(line)}\n`);
}

/** The first chunk is taken before the head is sent: a source that fails at once still gets its own status. */
async function writeChunks(response: ServerResponse, contentType: string, chunks: AsyncIterable<Buffer>): Promise<void> {
  const source = chunks[Symbol.asyncIterator]();
  const stream = Readable.from(continued(await source.next(), source), { objectMode: false });
  response.writeHead(200, { 'content-type': contentType });
  response.flushHeaders();
  await pipeline(stream, response);
}

async function* continued(first: IteratorResult<Buffer>, source: AsyncIterator<Buffer>): AsyncGenerator<Buffer, void, undefined> {
  try {
    for (let next = first; next.done !== true; next = await source.next()) yield next.value;
  } finally {
    await source.return?.();
  }
}

/** What is not known before goes into a trailer: a client has the whole only when it has seen a digest. */
async function writeDownload(response: ServerResponse, contentType: string, download: Download): Promise<void> {
  const { digest, sizeBytes, stream } = download;
  response.setHeader('content-type', contentType);
  response.setHeader('content-disposition', `attachment; filename="${download.fileName.replace(/[^A-Za-z0-9._-]/g, '_')}"`);
  if (digest !== null) {
    response.setHeader('repr-digest', formatReprDigest(digest));
    response.setHeader('digest', formatLegacyDigest(digest));
    if (sizeBytes !== null) response.setHeader('content-length', sizeBytes);
    await pipeline(stream, response);
    return;
  }
  response.setHeader('trailer', 'Repr-Digest');
  const hashed = new DigestStream();
  const addTrailer = async function* (chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void, undefined> {
    yield* chunks;
    response.addTrailers({ 'Repr-Digest': formatReprDigest(await hashed.digest) });
  };
  await pipeline(stream, hashed, addTrailer, response);
}
