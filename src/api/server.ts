import { randomBytes } from 'node:crypto';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import fastify, { type FastifyInstance, type FastifyRequest } from 'fastify';
import type { Engine } from '../core/engine.ts';
import { RootlayerError } from '../core/errors.ts';
import { writeAnswer, writeError } from './answer.ts';
import { type ConnectionLimits, Connections, DEFAULT_CONNECTION_LIMITS } from './connections.ts';
import { answerGarbage, createHttpServer } from './http-server.ts';
import type { Log } from './log.ts';
import { readPeerUid } from './peer-uid.ts';
import { visibleError } from './problem.ts';
import type { Route } from './route.ts';
import { routes } from './routes/service.ts';
import { Upload } from './upload.ts';
import { readVersion } from './version.ts';

/** An upload that stands still for so long is given up. */
const UPLOAD_IDLE_MS = 120_000;
/** How long a client whose request was refused may go on sending. */
const DUMP_TIME_MS = 30_000;
const MAX_PATH_PARAMETER = 8 * 1024;

/** What the server needs; the rest has defaults. */
export type ServerOptions = {
  engine: Engine;
  log: Log;
  connectionLimits?: ConnectionLimits;
  readUid?: (socket: Socket) => number;
  headersTimeoutMs?: number;
};

/** The API as an HTTP server that does not listen yet: listen.ts opens its socket. */
export type ApiServer = {
  http: Server;
  /** Takes no new jobs, images and contexts from now on; all else goes on. */
  drain(): void;
  /** Ends all connections, those that work after `graceMs`, and waits for their end. */
  close(graceMs: number): Promise<void>;
};

/** Makes the server. Every request is served for the uid that the kernel recorded for its connection, whatever the request says. */
export async function createServer(options: ServerOptions): Promise<ApiServer> {
  const { log, engine } = options;
  const connections = new Connections(options.connectionLimits ?? DEFAULT_CONNECTION_LIMITS, options.readUid ?? readPeerUid, log);
  const server = createHttpServer(connections, options.headersTimeoutMs);
  const app = createApp(server);
  const version = readVersion();
  const startedMs = Date.now();
  let isDraining = false;
  const serve = async (route: Route, request: FastifyRequest, response: ServerResponse): Promise<void> => {
    if (isDraining && route.isSubmission) throw draining();
    if (route.body.kind === 'stream') limitIdle(request.raw);
    const answer = await route.handle({
      engine,
      caller: connections.callerOf(request.raw.socket),
      params: request.params,
      query: request.query,
      request: request.raw,
      upload: new Upload(request.raw),
      service: { version, isDraining, connections: connections.count, uptimeSec: (Date.now() - startedMs) / 1000 },
      signal: goneSignal(response),
    });
    await writeAnswer(response, answer);
  };
  for (const route of routes) register(app, route, serve, connections, log);
  await app.ready();
  return {
    http: server,
    drain: () => {
      isDraining = true;
    },
    close: (graceMs) => closeServer(app, server, graceMs),
  };
}

/** The router. Bodies are read by the routes, never by the framework; what it has to say itself is said as problem details too. */
function createApp(server: Server): FastifyInstance {
  const app = fastify({
    serverFactory: (handler) => server.on('request', handler),
    exposeHeadRoutes: false,
    clientErrorHandler: answerGarbage,
    routerOptions: { maxParamLength: MAX_PATH_PARAMETER },
    frameworkErrors: (error, _request, reply) => {
      reply.hijack();
      writeError(reply.raw, malformed(error));
    },
  });
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, _payload, done) => done(null));
  app.setNotFoundHandler((request, reply) => {
    reply.hijack();
    const error = new RootlayerError('E_NOT_FOUND', `Cannot find ${request.method} on this path: there is no such route`);
    return refuse(request.raw, reply.raw, error);
  });
  app.setErrorHandler((error, request, reply) => {
    reply.hijack();
    return refuse(request.raw, reply.raw, malformed(error));
  });
  return app;
}

type Serve = (route: Route, request: FastifyRequest, response: ServerResponse) => Promise<void>;

/** One place for what can go wrong in any route: an error is answered, logged when it is ours, and touches no other request. */
function register(app: FastifyInstance, route: Route, serve: Serve, connections: Connections, log: Log): void {
  app.route({
    method: route.method,
    url: route.path,
    handler: async (request, reply) => {
      reply.hijack();
      const startedMs = performance.now();
      const requestId = randomBytes(6).toString('hex');
      const { uid } = connections.callerOf(request.raw.socket);
      const fields = { request: requestId, uid, method: route.method, route: route.path };
      try {
        await serve(route, request, reply.raw);
      } catch (thrown) {
        const error = visibleError(thrown, requestId);
        if (!isClientGone(reply.raw)) logFailure(log, fields, error, thrown, reply.raw.headersSent);
        await refuse(request.raw, reply.raw, error);
      }
      log.info({ ...fields, status: reply.raw.statusCode, ms: Math.round(performance.now() - startedMs) }, 'request');
    },
  });
}

function logFailure(log: Log, fields: Record<string, unknown>, error: RootlayerError, thrown: unknown, isCut: boolean): void {
  if (error.code === 'E_INTERNAL') log.error({ ...fields, error: describe(thrown) }, 'request failed');
  else if (isCut) log.warn({ ...fields, code: error.code }, 'answer cut');
}

function malformed(cause: unknown): RootlayerError {
  return new RootlayerError('E_PROTOCOL', 'Cannot read request: its path or headers are malformed', { cause });
}

function draining(): RootlayerError {
  return new RootlayerError('E_BUSY', 'Cannot take new work: the daemon is about to end', { hint: 'try again when it has been restarted' });
}

/** Aborts when the connection ends before the answer does. */
function goneSignal(response: ServerResponse): AbortSignal {
  const controller = new AbortController();
  response.once('close', () => {
    if (!response.writableFinished) controller.abort(new RootlayerError('E_CANCELLED', 'Cannot go on: the client is gone'));
  });
  return controller.signal;
}

function isClientGone(response: ServerResponse): boolean {
  return response.destroyed || response.socket?.destroyed !== false;
}

function limitIdle(request: IncomingMessage): void {
  const { socket } = request;
  const onIdle = (): void => {
    if (!request.complete) socket.destroy();
  };
  socket.setTimeout(UPLOAD_IDLE_MS, onIdle);
  request.once('close', () => {
    socket.setTimeout(0);
    socket.off('timeout', onIdle);
  });
}

/**
 * Answers a request that may still be sending its body. The rest is read and thrown away: closing at once would make the client fail on its next
 * write, before it has read why. A client that asked to close after the answer therefore gets it behind its upload; others stop by themselves.
 */
async function refuse(request: IncomingMessage, response: ServerResponse, error: RootlayerError): Promise<void> {
  if (!request.complete && !request.destroyed) {
    const dumped = dump(request);
    if (!response.shouldKeepAlive) await dumped;
  }
  writeError(response, error);
}

/** Resolves when the body has come to its end, or its connection has, or the time is over, which ends the connection. */
function dump(request: IncomingMessage): Promise<void> {
  const { socket } = request;
  return new Promise((resolve) => {
    const timer = setTimeout(() => socket.destroy(), DUMP_TIME_MS);
    const finish = (): void => {
      clearTimeout(timer);
      socket.off('close', finish);
      resolve();
    };
    request.once('end', finish);
    socket.once('close', finish);
    request.resume();
  });
}

function describe(thrown: unknown): string {
  return thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
}

async function closeServer(app: FastifyInstance, server: Server, graceMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
  server.closeIdleConnections();
  const timer = setTimeout(() => server.closeAllConnections(), graceMs);
  await closed;
  clearTimeout(timer);
  await app.close();
}
