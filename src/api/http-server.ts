import http from 'node:http';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { RootlayerError } from '../core/errors.ts';
import { type Connections, sayAndClose } from './connections.ts';
import { rawProblem } from './problem.ts';

/** From the first byte of a connection, or of the next request on it, to the end of the headers. */
const HEADERS_TIMEOUT_MS = 5000;
const TIMEOUT_CHECK_MS = 1000;
const KEEP_ALIVE_MS = 30_000;
const MAX_HEADER_BYTES = 16 * 1024;

/** Makes an HTTP server that speaks only on connections that `connections` has admitted; {@link answerGarbage} is for its `clientError`. */
export function createHttpServer(connections: Connections, headersTimeoutMs = HEADERS_TIMEOUT_MS): http.Server {
  const server = http.createServer({
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: headersTimeoutMs,
    connectionsCheckingInterval: Math.min(TIMEOUT_CHECK_MS, headersTimeoutMs),
    keepAliveTimeout: KEEP_ALIVE_MS,
    // Uploads take as long as they take; JSON bodies and idle uploads have limits of their own.
    requestTimeout: 0,
  });
  guard(server, connections);
  return server;
}

/** Puts the check in front of Node's own handler of connections, which would begin to parse. */
function guard(server: http.Server, connections: Connections): void {
  const handlers = server.listeners('connection');
  server.removeAllListeners('connection');
  server.on('connection', (socket: Socket) => {
    if (!connections.admit(socket)) return;
    for (const handler of handlers) Reflect.apply(handler, server, [socket]);
  });
}

/** Answers what is no HTTP, or took too long to become a request, with one error, and closes. */
export function answerGarbage(error: NodeJS.ErrnoException, stream: Duplex): void {
  if (error.code === 'ECONNRESET' || !(stream instanceof Socket)) {
    stream.destroy();
    return;
  }
  // Answered already, and more garbage came.
  if (!stream.writable) return;
  const isLate = error.code === 'ERR_HTTP_REQUEST_TIMEOUT';
  const why = isLate ? 'its headers took too long' : 'it is not in HTTP/1.1';
  const problem = new RootlayerError('E_PROTOCOL', `Cannot read request: ${why}`);
  sayAndClose(stream, rawProblem(problem, isLate ? 408 : 400));
}
