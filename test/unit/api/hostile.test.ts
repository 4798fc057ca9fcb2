import { readdirSync } from 'node:fs';
import net from 'node:net';
import t from 'tap';
import { routes } from '../../../src/api/routes/service.ts';
import type { Engine } from '../../../src/core/engine.ts';
import { sendWithFds } from '../../../src/host/libc.ts';
import { type FakeDaemon, startFakeDaemon } from '../../helpers/fake-daemon.ts';
import { fetchFrom, problemFields, SCRIPT, sendRaw, until } from './raw.ts';

const JSON_TYPE = { 'content-type': 'application/json' };

/** A small generator with a seed: the same garbage every time. */
function makeRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

async function submit({ socketPath }: FakeDaemon, script: string): Promise<string> {
  const body = JSON.stringify({ from: 'scratch', script: SCRIPT(script) });
  const reply = await fetchFrom(socketPath, '/v1/jobs', { method: 'POST', headers: JSON_TYPE, body });
  return String(Reflect.get(Object(JSON.parse(reply.body)), 'id'));
}

t.test('C01 garbage gets one error and a closed connection', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const samples = [
    '\0\0\0\0',
    'GET / HTTP/9.9\r\n\r\n',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    '{"jsonrpc":"2.0"}\n',
    '\x16\x03\x01\x02\0\x01',
  ];
  for (const sample of samples) {
    const { text, isClosed } = await sendRaw(socketPath, Buffer.from(sample, 'latin1'));
    t.ok(isClosed, JSON.stringify(sample));
    t.match(text, /^HTTP\/1\.1 400 .*"code":"E_PROTOCOL"/s, JSON.stringify(sample));
    t.equal(text.match(/HTTP\/1\.1 \d/g)?.length, 1, 'one answer');
  }
});

t.test('C01 500 random prefixes leave the daemon serving', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const random = makeRandom(1);
  for (let round = 0; round < 500; round += 1) {
    const bytes = Buffer.from(Array.from({ length: 1 + Math.floor(random() * 64) }, () => Math.floor(random() * 256)));
    await new Promise<void>((resolve) => {
      const socket = net.connect(socketPath, () => socket.end(bytes));
      socket.on('error', () => {});
      socket.resume().once('close', () => resolve());
    });
  }
  t.equal((await fetchFrom(socketPath, '/v1/version')).status, 200);
});

t.test('C02 lengths that lie are refused before anything is kept', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const head = (length: string): string => `POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n${length}\r\n\r\n`;
  for (const length of [
    'content-length: -1',
    'content-length: 1e3',
    'content-length: 1\r\ncontent-length: 2',
    'content-length: 99999999999999999999',
  ]) {
    t.match((await sendRaw(socketPath, head(length), 2000)).text, /^HTTP\/1\.1 400 /, length);
  }
  for (const length of ['content-length: 4294967296', 'content-length: 33554433']) {
    t.match((await sendRaw(socketPath, head(length), 1000)).text, /^HTTP\/1\.1 400 .*too large/s, length);
  }
  t.match((await sendRaw(socketPath, `${head('transfer-encoding: chunked')}zz\r\n`, 2000)).text, /^HTTP\/1\.1 400 /);
});

t.test('C04 a client that vanishes ends its stream, and the job goes on', async (t) => {
  const daemon = await startFakeDaemon(t);
  const id = await submit(daemon, 'echo a\nsleep 300\necho b');
  const socket = net.connect(daemon.socketPath);
  socket.on('error', () => {});
  socket.write(`GET /v1/jobs/${id}/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n`);
  await new Promise((resolve) => socket.once('data', resolve));
  socket.destroy();
  await until(() => daemon.log.some(({ fields }) => fields['route'] === '/v1/jobs/:id/events'), 'the stream has ended');
  const events = (await fetchFrom(daemon.socketPath, `/v1/jobs/${id}/events?follow=1`)).body;
  t.match(events, /"state":"done"/);
});

t.test('C05 a reader that never reads stops the source', async (t) => {
  const daemon = await startFakeDaemon(t);
  const id = await submit(daemon, 'flood 20000');
  await until(
    () => daemon.engine.getJob({ uid: process.getuid?.() ?? 0 }, id as never).state === 'done',
    'the job has printed 20 MB',
    20_000,
  );
  const socket = net.connect(daemon.socketPath);
  socket.on('error', () => {});
  socket.pause();
  socket.write(`GET /v1/jobs/${id}/events HTTP/1.1\r\nhost: x\r\n\r\n`);
  let before = -1;
  await until(() => {
    const isStill = daemon.engine.eventsRead === before && before > 0;
    before = daemon.engine.eventsRead;
    return isStill;
  }, 'no more events are taken');
  t.ok(before < 5000, `${before} of 20000 events were taken`);
  socket.destroy();
});

t.test('C05 a download that nobody reads stops the source', async (t) => {
  const daemon = await startFakeDaemon(t);
  const id = await submit(daemon, 'size 64000000');
  await fetchFrom(daemon.socketPath, `/v1/jobs/${id}/events?follow=1`);
  const socket = net.connect(daemon.socketPath);
  socket.on('error', () => {});
  socket.pause();
  socket.write(`GET /v1/jobs/${id}/layer HTTP/1.1\r\nhost: x\r\n\r\n`);
  let before = -1;
  await until(() => {
    const isStill = daemon.engine.layerBytesRead === before && before > 0;
    before = daemon.engine.layerBytesRead;
    return isStill;
  }, 'no more bytes are taken');
  t.ok(before < 4_000_000, `${before} of 64000000 bytes were taken`);
  socket.destroy();
});

t.test('C10 descriptors that a client attaches are dropped', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const socket = net.connect(socketPath);
  socket.on('error', () => {});
  await new Promise((resolve) => socket.once('connect', resolve));
  const fd = Number(Reflect.get(Object(Reflect.get(socket, '_handle')), 'fd'));
  const count = (): number => readdirSync('/proc/self/fd').length;
  const before = count();
  for (let round = 0; round < 50; round += 1) {
    const text = round === 0 ? 'POST /v1/images HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n' : 'xxxx';
    sendWithFds(
      fd,
      Buffer.from(text),
      Array.from({ length: 50 }, () => 0),
    );
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  t.ok(count() <= before + 2, `${count()} descriptors, ${before} before`);
  socket.destroy();
});

t.test('C11 hostile JSON is refused', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const send = (body: string | Buffer): ReturnType<typeof fetchFrom> =>
    fetchFrom(socketPath, '/v1/jobs', { method: 'POST', headers: JSON_TYPE, body });
  const valid = { from: 'scratch', script: SCRIPT('echo hi') };
  const samples: [name: string, body: string | Buffer][] = [
    ['deep', `${'['.repeat(100_000)}${']'.repeat(100_000)}`],
    ['duplicate key', '{"from":"scratch","from":"scratch","script":""}'],
    ['prototype', '{"from":"scratch","script":"","__proto__":{"x":1}}'],
    ['large integer', '{"from":"scratch","script":"","sourceDateEpoch":9007199254740993}'],
    ['byte order mark', `\uFEFF${JSON.stringify(valid)}`],
    ['invalid UTF-8', Buffer.concat([Buffer.from('{"from":"'), Buffer.of(0xff), Buffer.from('","script":""}')])],
    ['lone surrogate', '{"from":"\\ud800","script":""}'],
    ['many keys', `{"env":{${Array.from({ length: 100_001 }, (_none, at) => `"K${at}":""`).join(',')}}}`],
    ['cut', '{"from":"scratch"'],
    ['empty', ''],
  ];
  for (const [name, body] of samples) {
    t.same(problemFields(await send(body)), { status: 400, type: 'application/problem+json', code: 'E_PROTOCOL' }, name);
  }
  const other = { method: 'POST', headers: { 'content-type': 'text/plain' }, body: JSON.stringify(valid) };
  t.equal(problemFields(await fetchFrom(socketPath, '/v1/jobs', other)).code, 'E_PROTOCOL', 'another content type');
  t.equal((await send(JSON.stringify(valid))).status, 201, 'positive control');
});

t.test('C11 a script of 16 MiB passes, and a body of more than 32 MiB does not', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const script = Buffer.alloc(16 * 1024 * 1024, '#').toString('base64');
  const ok = await fetchFrom(socketPath, '/v1/jobs', {
    method: 'POST',
    headers: JSON_TYPE,
    body: JSON.stringify({ from: 'scratch', script }),
  });
  t.equal(ok.status, 201);
  const chunked = { ...JSON_TYPE, 'transfer-encoding': 'chunked' };
  const large = await fetchFrom(socketPath, '/v1/jobs', { method: 'POST', headers: chunked, body: Buffer.alloc(33 * 1024 * 1024, ' ') });
  t.same(problemFields(large), { status: 400, type: 'application/problem+json', code: 'E_PROTOCOL' });
});

t.test('C12 unknown members and wrong types are refused', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const valid: Record<string, unknown> = { from: 'scratch', script: SCRIPT('echo hi') };
  const wrong: unknown[] = [null, true, -1, 1.5, 'x\0', [], {}, [[]], { a: 1 }, '9'.repeat(5001)];
  const members = [
    'from',
    'script',
    'isolation',
    'network',
    'env',
    'limits',
    'sourceDateEpoch',
    'contextId',
    'name',
    'config',
    'constructor',
    'extra',
  ];
  const allowed = new Set([
    'from:x\0',
    'env:{}',
    'limits:{}',
    'sourceDateEpoch:null',
    'contextId:null',
    'name:null',
    'name:x\0',
    'config:null',
    'config:{}',
  ]);
  for (const member of members) {
    for (const value of wrong) {
      const label = `${member}:${typeof value === 'string' ? value : JSON.stringify(value)}`;
      if (allowed.has(label) || label === 'config:{"a":1}' || (member === 'from' && typeof value === 'string')) continue;
      const body = JSON.stringify({ ...valid, [member]: value });
      const reply = await fetchFrom(socketPath, '/v1/jobs', { method: 'POST', headers: JSON_TYPE, body });
      t.equal(reply.status, 400, label.slice(0, 60));
    }
  }
  for (const query of ['?extra=1', '?format=dir', '?format=tar&format=tar', '?__proto__=1']) {
    t.equal((await fetchFrom(socketPath, `/v1/jobs/${'0'.repeat(32)}/image${query}`)).status, 400, query);
  }
});

t.test('C15 a refusal of the queue carries Retry-After', async (t) => {
  const { socketPath, engine } = await startFakeDaemon(t);
  const { RootlayerError } = await import('../../../src/core/errors.ts');
  engine.faults.set('submit', new RootlayerError('E_BUSY', 'Cannot take job: the queue is full'));
  const body = JSON.stringify({ from: 'scratch', script: '' });
  const reply = await fetchFrom(socketPath, '/v1/jobs', { method: 'POST', headers: JSON_TYPE, body });
  t.equal(reply.status, 503);
  t.equal(reply.headers['retry-after'], '1');
});

t.test('C18 neither script nor environment get into logs or errors', async (t) => {
  const daemon = await startFakeDaemon(t);
  const canary = 'canary-7f3a';
  const good = JSON.stringify({ from: 'scratch', script: SCRIPT(`echo ${canary}`), env: { TOKEN: canary } });
  await fetchFrom(daemon.socketPath, '/v1/jobs', { method: 'POST', headers: JSON_TYPE, body: good });
  const bad = JSON.stringify({ from: 'scratch', script: SCRIPT(canary), env: { TOKEN: `${canary}\0` }, isolation: canary });
  const refused = await fetchFrom(daemon.socketPath, '/v1/jobs', { method: 'POST', headers: JSON_TYPE, body: bad });
  t.equal(refused.status, 400);
  t.notMatch(refused.body, canary);
  daemon.engine.faults.set('submit', new Error(`defect with ${canary}`));
  const defect = await fetchFrom(daemon.socketPath, '/v1/jobs', { method: 'POST', headers: JSON_TYPE, body: good });
  t.equal(defect.status, 500);
  t.notMatch(defect.body, canary, 'the text of a defect stays in the log');
  await until(() => daemon.log.length >= 4, 'all is logged');
  const logged = JSON.stringify(daemon.log.filter(({ message }) => message !== 'request failed'));
  t.notMatch(logged, canary);
  t.notMatch(logged, Buffer.from(canary).toString('base64').slice(0, 12));
});

t.test('C25 a defect in any handler is an answer, and the daemon goes on', async (t) => {
  const daemon = await startFakeDaemon(t);
  const methods: (keyof Engine)[] = [
    'importImage',
    'listImages',
    'inspectImage',
    'removeImage',
    'exportImage',
    'addContext',
    'submit',
    'listJobs',
    'getJob',
    'cancelJob',
    'removeJob',
    'events',
    'openLayer',
    'openJobImage',
    'layerJson',
    'sendInput',
    'resizeTerminal',
    'features',
  ];
  for (const method of methods) daemon.engine.faults.set(method, new TypeError('undefined is not a function'));
  let faults = 0;
  for (const { method, path, body } of routes) {
    const target = path.replace(':id', '0'.repeat(32)).replace(':ref', 'a');
    const json = path.endsWith('/size') ? { rows: 24, columns: 80 } : { from: 'scratch', script: '' };
    const content = body.kind === 'json' ? JSON.stringify(json) : 'x';
    const reply = await fetchFrom(
      daemon.socketPath,
      target,
      method === 'POST' || method === 'PUT' ? { method, headers: JSON_TYPE, body: content } : { method },
    );
    const isOwn = ['/v1/version', '/v1/health', '/v1/openapi.json'].includes(path);
    t.equal(reply.status, isOwn ? 200 : 500, `${method} ${path}`);
    if (!isOwn) {
      faults += 1;
      t.match(JSON.parse(reply.body), { code: 'E_INTERNAL', message: /^Cannot finish request [0-9a-f]{12}: a defect of rootlayer$/ });
    }
  }
  t.equal(faults, routes.length - 3);
  t.equal(daemon.log.filter(({ level }) => level === 'error').length, faults, 'each is logged');
  t.equal((await fetchFrom(daemon.socketPath, '/v1/version')).status, 200);
});
