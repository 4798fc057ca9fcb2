import t from 'tap';
import { problemSchema } from '../../../src/api/schema.ts';
import { startFakeDaemon } from '../../helpers/fake-daemon.ts';
import { fetchFrom, problemFields, SCRIPT } from './raw.ts';

const JSON_TYPE = { 'content-type': 'application/json' };

t.test('GET /v1/version names the API', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const { status, body } = await fetchFrom(socketPath, '/v1/version');
  t.equal(status, 200);
  t.match(JSON.parse(body), { api: 'v1', node: process.version, version: /^\d+\.\d+\.\d+/ });
});

t.test('GET /v1/health tells that the daemon drains', async (t) => {
  const { socketPath, drain } = await startFakeDaemon(t);
  t.match(JSON.parse((await fetchFrom(socketPath, '/v1/health')).body), { status: 'ok', connections: 1 });
  drain();
  t.match(JSON.parse((await fetchFrom(socketPath, '/v1/health')).body), { status: 'draining' });
});

t.test('a draining daemon takes no new job and still shows the old ones', async (t) => {
  const { socketPath, drain } = await startFakeDaemon(t);
  const body = JSON.stringify({ from: 'scratch', script: SCRIPT('echo hi') });
  const job: unknown = JSON.parse((await fetchFrom(socketPath, '/v1/jobs', { method: 'POST', headers: JSON_TYPE, body })).body);
  drain();
  const refused = await fetchFrom(socketPath, '/v1/jobs', { method: 'POST', headers: JSON_TYPE, body });
  t.same(problemFields(refused), { status: 503, type: 'application/problem+json', code: 'E_BUSY' });
  t.equal(refused.headers['retry-after'], '1');
  t.equal((await fetchFrom(socketPath, `/v1/jobs/${String(Reflect.get(Object(job), 'id'))}`)).status, 200);
});

t.test('POST /v1/jobs answers 201 with the place of the job', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const body = JSON.stringify({ from: 'scratch', script: SCRIPT('echo hi') });
  const reply = await fetchFrom(socketPath, '/v1/jobs', { method: 'POST', headers: JSON_TYPE, body });
  t.equal(reply.status, 201);
  t.equal(reply.headers.location, `/v1/jobs/${String(Reflect.get(Object(JSON.parse(reply.body)), 'id'))}`);
});

t.test('an error is problem details with all members', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const { status, headers, body } = await fetchFrom(socketPath, `/v1/jobs/${'0'.repeat(32)}`);
  t.equal(status, 404);
  t.equal(headers['content-type'], 'application/problem+json');
  const problem = problemSchema.parse(JSON.parse(body));
  t.equal(problem.type, 'urn:rootlayer:error:E_NOT_FOUND');
  t.equal(problem.detail, problem.message);
  t.equal(problem.status, 404);
});

t.test('a path without a route and a malformed path are problem details too', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  t.same(problemFields(await fetchFrom(socketPath, '/v2/jobs')), { status: 404, type: 'application/problem+json', code: 'E_NOT_FOUND' });
  t.same(problemFields(await fetchFrom(socketPath, '/v1/jobs', { method: 'DELETE' })), {
    status: 404,
    type: 'application/problem+json',
    code: 'E_NOT_FOUND',
  });
  t.same(problemFields(await fetchFrom(socketPath, '/v1/images/%zz')), {
    status: 400,
    type: 'application/problem+json',
    code: 'E_PROTOCOL',
  });
});

t.test('an image is found by a name with slashes, percent-encoded', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const put = await fetchFrom(socketPath, '/v1/images?name=a/b%2Fc:1', { method: 'POST', body: 'bytes' });
  t.equal(put.status, 201);
  t.equal((await fetchFrom(socketPath, `/v1/images/${encodeURIComponent('a/b/c:1')}`)).status, 200);
  t.equal((await fetchFrom(socketPath, `/v1/images/${encodeURIComponent('a/b/c:2')}`)).status, 404);
  t.equal((await fetchFrom(socketPath, `/v1/images/${encodeURIComponent('a/b/c:1')}`, { method: 'DELETE' })).status, 204);
  t.equal((await fetchFrom(socketPath, `/v1/images/${encodeURIComponent('a/b/c:1')}`)).status, 404);
});

t.test('POST /v1/images answers lines of progress when they are wanted, and the error among them', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const headers = { accept: 'application/x-ndjson' };
  const good = await fetchFrom(socketPath, '/v1/images?name=a:1', { method: 'POST', headers, body: 'bytes' });
  t.equal(good.headers['content-type'], 'application/x-ndjson');
  const lines = good.body
    .trimEnd()
    .split('\n')
    .map((line): unknown => JSON.parse(line));
  t.match(lines.at(-1), { type: 'result', image: { names: ['a:1'] } });
  t.ok(lines.length >= 2);
  const bad = await fetchFrom(socketPath, '/v1/images?select=b:1', { method: 'POST', headers, body: 'bytes' });
  t.match(
    bad.body
      .trimEnd()
      .split('\n')
      .map((line): unknown => JSON.parse(line))
      .at(-1),
    { type: 'error', error: { code: 'E_NOT_FOUND' } },
  );
});

t.test('POST /v1/images gives an error before the first progress its own status', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const headers = { accept: 'application/x-ndjson' };
  const reply = await fetchFrom(socketPath, '/v1/images', { method: 'POST', headers, body: '' });
  t.same(problemFields(reply), { status: 422, type: 'application/problem+json', code: 'E_IMAGE_FORMAT' });
});

t.test('POST /v1/images delivers its refusal although the upload goes on', async (t) => {
  const { socketPath, engine } = await startFakeDaemon(t);
  const { RootlayerError } = await import('../../../src/core/errors.ts');
  engine.faults.set('importImage', new RootlayerError('E_QUOTA', 'Cannot take the image: the quota is used up'));
  const reply = await fetchFrom(socketPath, '/v1/images', { method: 'POST', body: Buffer.alloc(8 * 1024 * 1024) });
  t.same(problemFields(reply), { status: 429, type: 'application/problem+json', code: 'E_QUOTA' });
});

t.test('GET events replays from a number on, and ends with "end"', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const body = JSON.stringify({ from: 'scratch', script: SCRIPT('echo one\necho two >&2\nsleep 20\necho three') });
  const job: unknown = JSON.parse((await fetchFrom(socketPath, '/v1/jobs', { method: 'POST', headers: JSON_TYPE, body })).body);
  const base = `/v1/jobs/${String(Reflect.get(Object(job), 'id'))}`;
  const all = (await fetchFrom(socketPath, `${base}/events?follow=1`)).body.trimEnd().split('\n');
  const events = all.map((line): Record<string, unknown> => JSON.parse(line));
  t.same(
    events.map((event) => event['n']),
    events.map((_event, at) => at + 1),
  );
  t.equal(events.at(-1)?.['type'], 'end');
  const tail = (await fetchFrom(socketPath, `${base}/events?from=4&follow=true`)).body.trimEnd().split('\n');
  t.same(tail, all.slice(3));
  t.same((await fetchFrom(socketPath, `${base}/events?from=0`)).status, 400);
});

t.test("POST terminal/input types at a job's terminal, PUT terminal/size sets its size, and no bytes are the end", async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const submit = async (terminal: unknown): Promise<string> => {
    const body = JSON.stringify({ from: 'scratch', script: SCRIPT('echo up\ncat'), terminal });
    const reply = await fetchFrom(socketPath, '/v1/jobs', { method: 'POST', headers: JSON_TYPE, body });
    t.equal(reply.status, 201, reply.body);
    return `/v1/jobs/${String(Reflect.get(Object(JSON.parse(reply.body)), 'id'))}`;
  };
  const job = await submit({ rows: 24, columns: 80 });
  const type = (body: string | Buffer, to = job) => fetchFrom(socketPath, `${to}/terminal/input`, { method: 'POST', body });
  const resize = (size: unknown) =>
    fetchFrom(socketPath, `${job}/terminal/size`, { method: 'PUT', headers: JSON_TYPE, body: JSON.stringify(size) });
  t.match(await type(Buffer.from([0xff, 0x03])), { status: 204, body: '' });
  t.match(await resize({ rows: 50, columns: 132 }), { status: 204, body: '' });
  for (const size of [{ rows: 0, columns: 80 }, { rows: 24, columns: 1001 }, { rows: 24 }, { rows: 24, columns: 80, pixels: 1 }]) {
    t.match(problemFields(await resize(size)), { status: 400, code: 'E_PROTOCOL' }, JSON.stringify(size));
  }
  t.match(problemFields(await type(Buffer.alloc(64 * 1024 + 1))), { status: 400, code: 'E_PROTOCOL' });
  t.match(await type(Buffer.alloc(64 * 1024, 'y')), { status: 204 });
  t.match(await type(''), { status: 204 });
  const log = (await fetchFrom(socketPath, `${job}/log?follow=1`)).body;
  t.equal(log, `up\n\ufffd\x03[50 132]${'y'.repeat(64 * 1024)}`);
  t.match(problemFields(await type('late')), { status: 409, code: 'E_CONFLICT' });
  const plain = await submit(null);
  t.match(problemFields(await type('x', plain)), { status: 409, code: 'E_CONFLICT' });
  t.match(problemFields(await type('x', `/v1/jobs/${'0'.repeat(32)}`)), { status: 404, code: 'E_NOT_FOUND' });
});

t.test('GET log gives the streams together or one of them', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const body = JSON.stringify({ from: 'scratch', script: SCRIPT('echo one\necho two >&2\nbytes /wD+\necho three') });
  const job: unknown = JSON.parse((await fetchFrom(socketPath, '/v1/jobs', { method: 'POST', headers: JSON_TYPE, body })).body);
  const base = `/v1/jobs/${String(Reflect.get(Object(job), 'id'))}`;
  const latin = async (query: string): Promise<string> => (await fetchFrom(socketPath, `${base}/log?follow=1${query}`)).body;
  t.equal(await latin('&stream=stderr'), 'two\n');
  t.match(await latin('&stream=stdout'), /^one\n.*three\n$/s);
  t.match(await latin(''), /^one\ntwo\n.*three\n$/s);
});

t.test('GET layer has length and digest in its head when they are known before', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const body = JSON.stringify({ from: 'scratch', script: SCRIPT('echo hi') });
  const job: unknown = JSON.parse((await fetchFrom(socketPath, '/v1/jobs', { method: 'POST', headers: JSON_TYPE, body })).body);
  const base = `/v1/jobs/${String(Reflect.get(Object(job), 'id'))}`;
  await fetchFrom(socketPath, `${base}/events?follow=1`);
  const plain = await fetchFrom(socketPath, `${base}/layer`);
  t.match(plain.headers, {
    'content-type': 'application/x-tar',
    'content-length': String(plain.body.length),
    'repr-digest': /^sha-256=:[A-Za-z0-9+/]{43}=:$/,
    digest: /^sha-256=[A-Za-z0-9+/]{43}=$/,
    'content-disposition': 'attachment; filename="layer.tar"',
  });
  const gzip = await fetchFrom(socketPath, `${base}/layer?compression=gzip`);
  t.match(gzip.headers, { 'content-type': 'application/gzip', trailer: 'Repr-Digest' });
  t.equal(gzip.headers['content-length'], undefined);
  t.equal((await fetchFrom(socketPath, `${base}/layer?compression=lzma`)).status, 400);
  t.equal((await fetchFrom(socketPath, `${base}/layer-json`)).headers['content-type'], 'application/json; charset=utf-8');
});

t.test('a keep-alive connection serves one request after another', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const { sendRaw } = await import('./raw.ts');
  const one = 'GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n';
  const last = 'GET /v1/version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n';
  const { text } = await sendRaw(socketPath, one + one + last);
  t.equal(text.match(/HTTP\/1\.1 200 OK/g)?.length, 3);
});
