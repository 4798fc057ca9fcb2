import type { IncomingMessage } from 'node:http';
import { RootlayerError } from '../core/errors.ts';
import { parseStrictJson } from '../core/strict-json.ts';

/** Room for a script of 16 MiB as base64, and as much again. */
export const MAX_JSON_BYTES = 32 * 1024 * 1024;
/** A JSON body comes in one go; only a client that wants to hold a connection takes longer. */
const MAX_JSON_TIME_MS = 30_000;
const MAX_DEPTH = 32;

/** Reads a request's body as JSON; throws `E_PROTOCOL` for another content type, too many bytes, too long a wait, or what strict JSON refuses. */
export async function readJsonBody(request: IncomingMessage, signal: AbortSignal): Promise<unknown> {
  const contentType = request.headers['content-type'] ?? 'application/json';
  if (!/^application\/json\s*(?:;|$)/i.test(contentType)) {
    throw new RootlayerError('E_PROTOCOL', 'Cannot read request body: want Content-Type application/json');
  }
  const bytes = await readBytes(request, signal);
  return parseStrictJson(bytes, { maxBytes: MAX_JSON_BYTES, maxDepth: MAX_DEPTH, code: 'E_PROTOCOL', what: 'request body' });
}

function readBytes(request: IncomingMessage, signal: AbortSignal): Promise<Buffer> {
  if (Number(request.headers['content-length'] ?? 0) > MAX_JSON_BYTES) return Promise.reject(tooLarge());
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
      if (length > MAX_JSON_BYTES) settle(() => reject(tooLarge()));
    };
    const onEnd = (): void => settle(() => resolve(Buffer.concat(chunks)));
    const onError = (cause: Error): void => settle(() => reject(incomplete(cause)));
    const onAbort = (): void => settle(() => reject(incomplete(signal.reason)));
    request.on('data', onData).once('end', onEnd).once('error', onError);
    signal.addEventListener('abort', onAbort, { once: true });
  });
}

function tooLarge(): RootlayerError {
  return new RootlayerError('E_PROTOCOL', `Cannot read request body: it is too large, want at most ${MAX_JSON_BYTES} bytes`);
}

function incomplete(cause: unknown): RootlayerError {
  return new RootlayerError('E_PROTOCOL', 'Cannot read request body: it did not come to its end', { cause });
}
