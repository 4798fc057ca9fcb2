import http, { type ClientRequest, type IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { isErrorCode, RootlayerError } from '../core/errors.ts';

/** One request to the daemon. */
export type HttpCall = {
  method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  path: string;
  accept?: string;
  body?: { contentType: string; bytes: Buffer | Readable };
  signal?: AbortSignal | undefined;
};

/** Answers that are read whole, such as lists of jobs. */
const MAX_TEXT_BYTES = 256 * 1024 * 1024;

/**
 * Sends a request over the socket and gives its answer, whose body the caller reads or destroys. An answer that says error is read here and
 * thrown with its code; a daemon that is not there is `E_UNREACHABLE`; an abort `E_CANCELLED`.
 */
export async function exchange(socketPath: string, call: HttpCall): Promise<IncomingMessage> {
  const { bytes, contentType } = call.body ?? {};
  const request = http.request({
    socketPath,
    method: call.method,
    path: call.path,
    // A connection of its own for each request: a kept one may be closed by the daemon just as it is used.
    agent: false,
    headers: {
      host: 'localhost',
      // All the same the daemon must not close it behind an early answer: what is still being sent would fail first.
      connection: 'keep-alive',
      accept: call.accept ?? 'application/json',
      ...(contentType === undefined ? {} : { 'content-type': contentType }),
      ...(Buffer.isBuffer(bytes) ? { 'content-length': bytes.length } : {}),
    },
    ...(call.signal === undefined ? {} : { signal: call.signal }),
  });
  const response = await send(request, bytes).catch((error: unknown) => {
    throw explain(error, socketPath);
  });
  if ((response.statusCode ?? 500) < 400) return response;
  const text = await readText(response).finally(() => request.destroy());
  throw problemFrom(response, text);
}

/** Reads an answer as text. A connection that is cut before the end is `E_UNREACHABLE`. */
export async function readText(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      length += chunk.length;
      if (length > MAX_TEXT_BYTES) throw new RootlayerError('E_PROTOCOL', 'Cannot read the answer of the daemon: it is too large');
      chunks.push(chunk);
    }
  } catch (error) {
    throw explain(error, 'the daemon');
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Gives what a failed connection means to a person. */
export function explain(error: unknown, socketPath: string): RootlayerError {
  if (error instanceof RootlayerError) return error;
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  const unreachable = (why: string, hint: string): RootlayerError =>
    new RootlayerError('E_UNREACHABLE', `Cannot reach the daemon at "${socketPath}": ${why}`, { hint, cause: error });
  switch (code) {
    case 'ABORT_ERR':
      return new RootlayerError('E_CANCELLED', 'Cannot finish the request: it was cancelled', { cause: error });
    case 'ENOENT':
      return unreachable('there is no socket', 'start it with "systemctl start rootlayer.socket" or "rootlayer daemon"');
    case 'ECONNREFUSED':
      return unreachable('nobody listens', 'start it with "systemctl start rootlayer.socket" or "rootlayer daemon"');
    case 'EACCES':
    case 'EPERM':
      return unreachable('permission denied', 'ask an administrator to add you to the group of the socket, and log in again');
    case 'ECONNRESET':
    case 'EPIPE':
    case 'ERR_STREAM_PREMATURE_CLOSE':
      return unreachable('it closed the connection before the end', 'try again; the log of the daemon may say more');
    default:
      return unreachable(error instanceof Error ? error.message : String(error), 'try again; the log of the daemon may say more');
  }
}

/** An answer can come before all of the body is sent, and then it counts, not the broken upload. */
function send(request: ClientRequest, body: Buffer | Readable | undefined): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    let hasAnswer = false;
    let uploadFailure: unknown;
    request.once('response', (response) => {
      hasAnswer = true;
      resolve(response);
    });
    request.on('error', (error) => {
      if (!hasAnswer) reject(uploadFailure ?? error);
    });
    if (body === undefined || Buffer.isBuffer(body)) {
      request.end(body);
      return;
    }
    body.once('error', (error) => {
      uploadFailure = error;
    });
    // A broken source breaks the request too, and that is where its failure is told.
    pipeline(body, request).catch((error: unknown) => {
      if (!hasAnswer && !request.destroyed) request.destroy(error instanceof Error ? error : new Error(String(error)));
    });
  });
}

function problemFrom(response: IncomingMessage, text: string): RootlayerError {
  const problem = parseObject(text);
  const { code, message, hint } = problem;
  if (typeof code !== 'string' || !isErrorCode(code)) {
    return new RootlayerError(
      'E_PROTOCOL',
      `Cannot understand the daemon: it answered with status ${response.statusCode} and no error code`,
    );
  }
  return new RootlayerError(code, String(message), { hint: typeof hint === 'string' ? hint : undefined });
}

function parseObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? { ...value } : {};
  } catch {
    return {};
  }
}
