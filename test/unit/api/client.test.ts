import { createHash } from 'node:crypto';
import http from 'node:http';
import path from 'node:path';
import { Readable } from 'node:stream';
import t, { type Test } from 'tap';
import { connect } from '../../../src/api/client.ts';
import { sessionOf } from '../../../src/api/embedded.ts';
import type { Fetched, Session } from '../../../src/api/session.ts';
import { RootlayerError } from '../../../src/core/errors.ts';
import { parseJobId } from '../../../src/core/ids.ts';
import type { JobRecord } from '../../../src/core/job.ts';
import { startFakeDaemon } from '../../helpers/fake-daemon.ts';
import { FakeEngine } from '../../helpers/fake-engine.ts';
import { SCRIPT } from './raw.ts';

const never = (): AbortSignal => new AbortController().signal;

async function read({ stream }: Fetched): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function finish(session: Session, script: string): Promise<JobRecord> {
  const { id } = await session.submit({ from: 'scratch', script: SCRIPT(script) });
  for await (const event of session.events(id, 1, true, never())) if (event.type === 'end') return event.job;
  throw new Error('the job has no end');
}

/** What every session must do, however it reaches its engine. */
function testSession(t: Test, name: string, open: (t: Test) => Promise<{ session: Session; engine: FakeEngine }>): void {
  t.test(`${name}: a terminal takes input and sizes, and errors have their codes`, async (t) => {
    const { session } = await open(t);
    const terminal = { rows: 24, columns: 80 };
    const { id } = await session.submit({ from: 'scratch', script: SCRIPT('echo up\ncat'), terminal });
    let text = '';
    for await (const event of session.events(id, 1, true, never())) {
      if (event.type !== 'log') continue;
      text += Buffer.from(event.data, event.encoding ?? 'utf8').toString('latin1');
      if (text === 'up\n') await session.sendInput(id, Buffer.from([0xff, 0x00]));
      else if (text === 'up\n\xff\x00') await session.resizeTerminal(id, { rows: 30, columns: 100 });
      else await session.sendInput(id, Buffer.alloc(0));
    }
    t.equal(text, 'up\n\xff\x00[30 100]');
    await t.rejects(session.sendInput(id, Buffer.from('late')), { code: 'E_CONFLICT' });
    await t.rejects(session.resizeTerminal(parseJobId('0'.repeat(32)), terminal), { code: 'E_NOT_FOUND' });
  });

  t.test(`${name}: an image can be imported, found by name and digest, exported and removed`, async (t) => {
    const { session } = await open(t);
    const stages: string[] = [];
    const bytes = Buffer.alloc(3_000_000, 'x');
    const options = { name: 'a/b:1', select: null, shared: false };
    const image = await session.importImage(Readable.from([bytes]), options, ({ stage }) => stages.push(stage), never());
    t.ok(stages.length > 0);
    t.same(
      (await session.listImages()).map(({ id }) => id),
      [image.id],
    );
    t.same((await session.inspectImage('a/b:1')).image, image);
    t.same((await session.inspectImage(`sha256:${createHash('sha256').update(bytes).digest('hex')}`)).image, image);
    t.ok((await read(await session.exportImage('a/b:1', 'docker-archive', never()))).includes('manifest.json'));
    await session.removeImage('a/b:1');
    await t.rejects(session.inspectImage('a/b:1'), { code: 'E_NOT_FOUND' });
  });

  t.test(`${name}: a job runs, tells its events, and gives layer and image with true digests`, async (t) => {
    const { session } = await open(t);
    const job = await finish(session, 'echo hi');
    t.match(job, { state: 'done', exitStatus: 0 });
    const layer = await session.openLayer(job.id, 'none', never());
    const bytes = await read(layer);
    t.equal(await layer.digest, job.layer?.diffId);
    t.equal(layer.sizeBytes, bytes.length);
    const gzip = await session.openLayer(job.id, 'gzip', never());
    const packed = await read(gzip);
    t.equal(await gzip.digest, `sha256:${createHash('sha256').update(packed).digest('hex')}`);
    t.ok((await read(await session.openJobImage(job.id, 'oci-archive', never()))).includes('oci-layout'));
    t.match(JSON.parse(await session.layerJson(job.id)), { checksum: job.layer?.tarsum });
    t.same(
      (await session.listJobs()).map(({ id }) => id),
      [job.id],
    );
    t.same(await session.getJob(job.id), job);
    await session.removeJob(job.id);
    await t.rejects(session.getJob(job.id), { code: 'E_NOT_FOUND' });
  });

  t.test(`${name}: a job can be cancelled and be given files`, async (t) => {
    const { session } = await open(t);
    const contextId = await session.addContext(Readable.from([Buffer.from('tar')]), never());
    const { id } = await session.submit({ from: 'scratch', script: SCRIPT('context\nsleep 60000'), contextId });
    t.match(await session.cancelJob(id), { state: 'cancelled', error: { code: 'E_CANCELLED' } });
    let text = '';
    for await (const event of session.events(id, 1, false, never())) if (event.type === 'log') text += event.data;
    t.equal(text, Buffer.from('tar').toString('base64'));
  });

  t.test(`${name}: a request that does not fit, and an error of the engine, have their codes`, async (t) => {
    const { session, engine } = await open(t);
    await t.rejects(session.submit({ from: 'scratch', script: '', limits: { pids: 1 } }), { code: 'E_PROTOCOL', message: /limits\.pids/ });
    engine.faults.set('submit', new RootlayerError('E_QUOTA', 'Cannot take job: enough', { hint: 'wait' }));
    await t.rejects(session.submit({ from: 'scratch', script: '' }), { code: 'E_QUOTA', message: 'Cannot take job: enough', hint: 'wait' });
    t.same(
      (await session.features()).map(({ name }) => name),
      ['overlay', 'kvm'],
    );
  });

  t.test(`${name}: U27 a download that breaks in the middle fails`, async (t) => {
    const { session } = await open(t);
    const { id } = await finish(session, 'size 3000000\nbreak 1000000');
    const fetch = async (compression: 'none' | 'gzip'): Promise<unknown> => read(await session.openLayer(id, compression, never()));
    await t.rejects(fetch('none'), RootlayerError);
    await t.rejects(fetch('gzip'), RootlayerError);
    const layer = await session.openLayer(id, 'none', never());
    layer.stream.resume().on('error', () => {});
    await t.rejects(layer.digest, RootlayerError);
  });
}

testSession(t, 'connect()', async (t) => {
  const { socketPath, engine } = await startFakeDaemon(t);
  return { session: connect(socketPath), engine };
});

testSession(t, 'sessionOf()', async () => {
  const engine = new FakeEngine();
  return { session: sessionOf(engine, { uid: 5 }), engine };
});

t.test('connect() says what is wrong when nobody is there', async (t) => {
  const { socketPath, dir } = await startFakeDaemon(t);
  await t.rejects(connect(path.join(dir, 'none')).listJobs(), {
    code: 'E_UNREACHABLE',
    message: /there is no socket/,
    hint: /rootlayer daemon/,
  });
  t.ok(await connect(socketPath).listJobs(), 'positive control');
});

t.test('connect() takes an early refusal of a large upload for what it is', async (t) => {
  const { socketPath, engine } = await startFakeDaemon(t);
  engine.faults.set('importImage', new RootlayerError('E_QUOTA', 'Cannot take image: enough'));
  const chunks = function* (): Generator<Buffer> {
    for (let at = 0; at < 2000; at += 1) yield Buffer.alloc(65_536);
  };
  const upload = connect(socketPath).importImage(Readable.from(chunks()), { name: null, select: null, shared: false }, () => {}, never());
  await t.rejects(upload, { code: 'E_QUOTA' });
});

t.test('connect() tells the failure of what it reads, not of the connection', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const broken = new Readable({
    read() {
      this.destroy(new RootlayerError('E_USAGE', 'Cannot read "x": it became shorter'));
    },
  });
  await t.rejects(connect(socketPath).addContext(broken, never()), { code: 'E_USAGE', message: /became shorter/ });
});

t.test('connect() gives up an upload when the signal aborts', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const endless = Readable.from(
    (async function* () {
      for (;;) {
        await new Promise((resolve) => setTimeout(resolve, 5));
        yield Buffer.alloc(10);
      }
    })(),
  );
  await t.rejects(connect(socketPath).addContext(endless, AbortSignal.timeout(100)), { code: 'E_CANCELLED' });
});

/** A server that answers every request with the same bytes. */
async function lie(t: Test, answer: (response: http.ServerResponse) => void): Promise<Session> {
  const { dir } = await startFakeDaemon(t);
  const server = http.createServer((_request, response) => answer(response));
  const socketPath = path.join(dir, 'lie.sock');
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return connect(socketPath);
}

const ID = parseJobId('0'.repeat(32));
const REPR = `sha-256=:${createHash('sha256').update('whole').digest('base64')}:`;

t.test('U27 connect() refuses a download with another digest, without one, or cut', async (t) => {
  const good = await lie(t, (response) => response.writeHead(200, { 'repr-digest': REPR, 'content-length': 5 }).end('whole'));
  t.equal((await read(await good.openLayer(ID, 'none', never()))).toString(), 'whole', 'positive control');
  const other = await lie(t, (response) => response.writeHead(200, { 'repr-digest': REPR }).end('whale'));
  await t.rejects(read(await other.openLayer(ID, 'none', never())), { code: 'E_DIGEST' });
  const without = await lie(t, (response) => response.writeHead(200).end('whole'));
  await t.rejects(read(await without.openLayer(ID, 'none', never())), { code: 'E_UNREACHABLE', message: /its digest did not come/ });
  const cut = await lie(t, (response) => {
    response.writeHead(200, { 'repr-digest': REPR, 'content-length': 5 });
    response.write('who');
    setTimeout(() => response.destroy(), 20);
  });
  await t.rejects(read(await cut.openLayer(ID, 'none', never())), { code: 'E_UNREACHABLE' });
});

t.test('connect() refuses events that end within a line, and an answer that is none of ours', async (t) => {
  const cut = await lie(t, (response) => response.writeHead(200).end('{"n":1,"timeMs":0,"type":"state","state":"queued"}\n{"n":2,'));
  const seen: number[] = [];
  await t.rejects(
    (async () => {
      for await (const event of cut.events(ID, 1, true, never())) seen.push(event.n);
    })(),
    { code: 'E_PROTOCOL' },
  );
  t.same(seen, [1]);
  const other = await lie(t, (response) => response.writeHead(404).end('<html>'));
  await t.rejects(other.getJob(ID), { code: 'E_PROTOCOL', message: /status 404/ });
});
