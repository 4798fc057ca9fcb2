import { chmod, mkdtemp, rm } from 'node:fs/promises';
import path from 'node:path';
import type { Test } from 'tap';
import { listenOnPath } from '../../src/api/listen.ts';
import { createServer, type ServerOptions } from '../../src/api/server.ts';
import { FakeEngine } from './fake-engine.ts';

/** Log lines as the daemon gave them. */
export type LogLine = { level: 'info' | 'warn' | 'error'; fields: Record<string, unknown>; message: string };

export type FakeDaemon = {
  engine: FakeEngine;
  socketPath: string;
  dir: string;
  log: LogLine[];
  drain(): void;
};

/** A server with a {@link FakeEngine} on a socket that everyone may open, in a directory of its own; both go when the test ends. */
export async function startFakeDaemon(t: Test, options: Partial<ServerOptions> = {}): Promise<FakeDaemon> {
  const dir = await mkdtemp('/dev/shm/rootlayer-api-');
  const log: LogLine[] = [];
  const add = (level: LogLine['level']) => (fields: Record<string, unknown>, message: string) => {
    log.push({ level, fields, message });
  };
  const engine = new FakeEngine();
  const server = await createServer({ engine, log: { info: add('info'), warn: add('warn'), error: add('error') }, ...options });
  const socketPath = path.join(dir, 'api.sock');
  await chmod(dir, 0o755);
  const listening = await listenOnPath(server.http, socketPath, null);
  await chmod(socketPath, 0o666);
  t.teardown(async () => {
    listening.stop();
    await engine.close(AbortSignal.abort());
    await server.close(0);
    await rm(dir, { recursive: true, force: true });
  });
  return { engine, socketPath, dir, log, drain: () => server.drain() };
}
