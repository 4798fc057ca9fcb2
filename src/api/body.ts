import type { IncomingMessage } from 'node:http';
import { RootlayerError } from '../core/errors.ts';
import { parseStrictJson } from '../core/strict-json.ts';

/** Room for a script of 16 MiB as base64, and as much again. */
export const MAX_JSON_BYTES = 32 * 1024 * 1024;
/** A JSON body comes in one go; only a client that wants to hold a connection takes longer. */
const MAX_JSON_TIME_MS = 30_000;
const MAX_DEPTH = 32;

/** Bytes that a terminal takes in one request. */
export const MAX_INPUT_BYTES = 64 * 1024;

/** Reads a request's body as it is; throws `E_PROTOCOL` for too many bytes or too long a wait. */
export async function readInputBody(request: IncomingMessage, signal: AbortSignal): Promise<Buffer> {
  return await readBytes(request, MAX_INPUT_BYTES, signal);
}

/** Reads a request's body as JSON; throws `E_PROTOCOL` for another content type, too many bytes, too long a wait, or what strict JSON refuses. */
export async function readJsonBody(request: IncomingMessage, signal: AbortSignal): Promise<unknown> {
  const contentType = request.headers['content-type'] ?? 'application/json';
  if (!/^application\/json\s*(?:;|$)/i.test(contentType)) {
    throw new RootlayerError('E_PROTOCOL', 'Cannot read request body: want Content-Type application/json');
  }
  const bytes = await readBytes(request, MAX_JSON_BYTES, signal);
  return parseStrictJson(bytes, { maxBytes: MAX_JSON_BYTES, maxDepth: MAX_DEPTH, code: 'E_PROTOCOL', what: 'request body' });
}

function readBytes(request: IncomingMessage, maxBytes: number, signal: AbortSignal): Promise<Buffer> {
  if (Number(request.headers['content-length'] ?? 0) > maxBytes) return Promise.reject(tooLarge(maxBytes));
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const timer = setTimeout(() => onAbort(), MAX_JSON_TIME_MS);
    const settle = (finish: () => void): void => {
      clearTimeout(timer);
      request.off('data', onData).off('end', onEnd).off('error', onError);
      signal.removeEventListener('abort', onAbort);
      finish();
    };
    const onData = (chunk: Buffer): void => {
      length += chunk.length;
      chunks.push(chunk);
      if (length > maxBytes) settle(() => reject(tooLarge(maxBytes)));
    };
    const onEnd = (): void => settle(() => resolve(Buffer.concat(chunks)));
    const onError = (cause: Error): void => settle(() => reject(incomplete(cause)));
    const onAbort = (): void => settle(() => reject(incomplete(signal.reason)));
    request.on('data', onData).once('end', onEnd).once('error', onError);
    signal.addEventListener('abort', onAbort, { once: true });
  });
}

function tooLarge(maxBytes: number): RootlayerError {
  return new RootlayerError('E_PROTOCOL', `Cannot read request body: it is too large, want at most ${maxBytes} bytes`);
}

function incomplete(cause: unknown): RootlayerError {
  return new RootlayerError('E_PROTOCOL', 'Cannot read request body: it did not come to its end', { cause });
}
