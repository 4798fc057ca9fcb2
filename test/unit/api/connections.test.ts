import { spawn } from 'node:child_process';
import net from 'node:net';
import t from 'tap';
import { startFakeDaemon } from '../../helpers/fake-daemon.ts';
import { requires } from '../../helpers/requires.ts';
import { curlAs, fetchFrom, problemFields, SCRIPT, sendRaw } from './raw.ts';

/** Opens connections that say nothing. */
async function openIdle(socketPath: string, count: number): Promise<net.Socket[]> {
  const sockets: net.Socket[] = [];
  for (let at = 0; at < count; at += 1) {
    const socket = net.connect(socketPath);
    socket.on('error', () => {});
    await new Promise((resolve) => socket.once('connect', resolve));
    sockets.push(socket);
  }
  return sockets;
}

t.test('C03 a user with all connections taken gets E_BUSY, and is served when one is free', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const idle = await openIdle(socketPath, 8);
  const refused = await fetchFrom(socketPath, '/v1/version');
  t.same(problemFields(refused), { status: 503, type: 'application/problem+json', code: 'E_BUSY' });
  t.match(refused.body, /user 0 has 8 connections, want at most 8|user \d+ has 8/);
  idle[0]?.destroy();
  let status = 503;
  for (let tries = 0; tries < 100 && status !== 200; tries += 1) status = (await fetchFrom(socketPath, '/v1/version')).status;
  t.equal(status, 200);
  for (const socket of idle) socket.destroy();
});

t.test('C03 other users are served while one has taken all it may', async (t) => {
  if (!requires(t, 'root', 'setpriv', 'curl')) return;
  const { socketPath } = await startFakeDaemon(t);
  const idle = await openIdle(socketPath, 8);
  t.equal((await fetchFrom(socketPath, '/v1/version')).status, 503);
  for (const uid of [1000, 1001]) t.match(await curlAs(uid, socketPath, ['http://x/v1/version']), /"api":"v1"/);
  for (const socket of idle) socket.destroy();
});

t.test('C03 the total holds over all users', async (t) => {
  const { socketPath } = await startFakeDaemon(t, { connectionLimits: { perUid: 100, total: 3 } });
  const idle = await openIdle(socketPath, 3);
  const refused = await fetchFrom(socketPath, '/v1/version');
  t.equal(problemFields(refused).code, 'E_BUSY');
  t.match(refused.body, /all 3 connections are taken/);
  for (const socket of idle) socket.destroy();
});

t.test('C03 headers that come too slowly end the connection', async (t) => {
  const { socketPath } = await startFakeDaemon(t, { headersTimeoutMs: 200 });
  const socket = net.connect(socketPath);
  let text = '';
  socket.on('data', (chunk) => {
    text += chunk.toString('latin1');
  });
  socket.on('error', () => {});
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.write('GET /v1/version HTTP/1.1\r\n');
  const drip = setInterval(() => socket.write('a: b\r\n'), 50);
  await closed;
  clearInterval(drip);
  t.match(text, /^HTTP\/1\.1 408 .*"code":"E_PROTOCOL"/s);
});

t.test('C03 a connection that says nothing ends after the same time', async (t) => {
  const { socketPath } = await startFakeDaemon(t, { headersTimeoutMs: 200 });
  const [socket] = await openIdle(socketPath, 1);
  await new Promise((resolve) => socket?.once('close', resolve).resume());
  t.pass('closed by the server');
});

t.test('C06 jobs and images of another user answer as if they did not exist', async (t) => {
  if (!requires(t, 'root', 'setpriv', 'curl')) return;
  const { socketPath } = await startFakeDaemon(t);
  await fetchFrom(socketPath, '/v1/images?name=mine:1', { method: 'POST', body: 'bytes' });
  const body = JSON.stringify({ from: 'scratch', script: SCRIPT('echo secret') });
  const headers = { 'content-type': 'application/json' };
  const job: unknown = JSON.parse((await fetchFrom(socketPath, '/v1/jobs', { method: 'POST', headers, body })).body);
  const id = String(Reflect.get(Object(job), 'id'));
  await fetchFrom(socketPath, `/v1/jobs/${id}/events?follow=1`);
  const none = '0'.repeat(32);
  const verbs: [method: string, path: string][] = [
    ['GET', '/v1/jobs/ID'],
    ['DELETE', '/v1/jobs/ID'],
    ['POST', '/v1/jobs/ID/cancel'],
    ['GET', '/v1/jobs/ID/events'],
    ['GET', '/v1/jobs/ID/log'],
    ['GET', '/v1/jobs/ID/layer'],
    ['GET', '/v1/jobs/ID/image'],
    ['GET', '/v1/jobs/ID/layer-json'],
  ];
  for (const [method, path] of verbs) {
    const ask = (which: string): Promise<string> =>
      curlAs(1000, socketPath, ['-X', method, '-w', ' %{http_code}', `http://x${path.replace('ID', which)}`]);
    const [foreign, missing] = [await ask(id), await ask(none)];
    t.match(foreign, /"code":"E_NOT_FOUND".* 404$/s, `${method} ${path}`);
    t.equal(foreign.replaceAll(id, none), missing, `${method} ${path} says the same of a missing one`);
  }
  t.match(await curlAs(1000, socketPath, ['-w', ' %{http_code}', 'http://x/v1/images/mine:1']), / 404$/);
  t.match(await curlAs(1000, socketPath, ['-w', ' %{http_code}', '-X', 'DELETE', 'http://x/v1/images/mine:1']), / 404$/);
  t.equal(await curlAs(1000, socketPath, ['http://x/v1/jobs']), '{"jobs":[]}\n');
  t.equal(await curlAs(1000, socketPath, ['http://x/v1/images']), '{"images":[]}\n');
  t.equal((await fetchFrom(socketPath, `/v1/jobs/${id}`)).status, 200, 'the owner still sees it');
});

t.test('C07 a connection handed to another user stays that of who opened it', async (t) => {
  if (!requires(t, 'root', 'setpriv')) return;
  const { socketPath, engine } = await startFakeDaemon(t);
  await fetchFrom(socketPath, '/v1/images?name=root:1', { method: 'POST', body: 'bytes' });
  t.equal(engine.listImages({ uid: 0 }).length, 1);
  const socket = net.connect(socketPath);
  await new Promise((resolve) => socket.once('connect', resolve));
  const request = 'GET /v1/images HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n';
  const child = spawn(
    'setpriv',
    ['--reuid', '1000', '--regid', '1000', '--clear-groups', 'sh', '-c', 'printf "$1" && cat <&1 >&2', 'sh', request],
    {
      stdio: ['ignore', socket, 'pipe'],
      env: { PATH: '/usr/bin:/bin' },
    },
  );
  let text = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    text += chunk.toString('utf8');
  });
  await new Promise((resolve) => child.once('close', resolve));
  socket.destroy();
  t.match(text, /"names":\["root:1"\]/);
});

t.test('a connection whose uid cannot be known is closed', async (t) => {
  const { socketPath, log } = await startFakeDaemon(t, {
    readUid: () => {
      throw new Error('no credentials');
    },
  });
  t.same(await sendRaw(socketPath, 'GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n'), { text: '', isClosed: true });
  t.match(log, [{ level: 'error', message: 'connection refused: no peer credentials' }]);
});

t.test('C20 a storm of connections that are reset leaves the daemon serving', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  for (let round = 0; round < 200; round += 1)
    net
      .connect(socketPath)
      .on('error', () => {})
      .destroy();
  const half = Array.from({ length: 50 }, () => net.connect(socketPath).on('error', () => {}));
  for (const socket of half) socket.write('POST /v1/jobs HTTP/1.1\r\ncontent-length: 1000\r\n\r\n{');
  for (const socket of half) socket.destroy();
  let status = 0;
  for (let tries = 0; tries < 100 && status !== 200; tries += 1) {
    status = await fetchFrom(socketPath, '/v1/version').then(
      (reply) => reply.status,
      () => 0,
    );
  }
  t.equal(status, 200);
  let connections = 0;
  for (let tries = 0; tries < 200 && connections !== 1; tries += 1) {
    const { body } = await fetchFrom(socketPath, '/v1/health');
    connections = Number(Reflect.get(Object(JSON.parse(body)), 'connections'));
  }
  t.equal(connections, 1, 'only our own is left');
});
