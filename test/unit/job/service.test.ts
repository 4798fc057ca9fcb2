import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { RootlayerError } from '../../../src/core/errors.ts';
import { ServiceFixture } from './service-fixture.ts';

t.setTimeout(20_000);

const noRoom = new RootlayerError('E_LIMIT_DISK', 'no room');

function open(t: Test): ServiceFixture {
  const directory = mkdtempSync(join(tmpdir(), 'service-'));
  const fixture = new ServiceFixture(directory);
  t.teardown(async () => {
    await fixture.close();
    rmSync(directory, { recursive: true, force: true });
  });
  return fixture;
}

t.test('a job ends for its followers and whoever asks, also when the journal cannot be written', async (t) => {
  const fixture = open(t);
  const job = fixture.submit();
  const following = fixture.events(job, true);
  fixture.setWritable(false);
  fixture.fail(noRoom);
  const end = (await following).at(-1);
  t.match(end, { type: 'end', job: { id: job.id, state: 'failed', error: { code: 'E_LIMIT_DISK' } } });
  t.equal(fixture.droppedContexts, 1);
  t.equal(fixture.table.get(job.id)?.state, 'queued', 'this could not be written');
  t.match(fixture.get(job), { state: 'failed', error: { code: 'E_LIMIT_DISK' } });
  t.match(fixture.list(), [{ state: 'failed' }]);
  t.match((await fixture.events(job, true)).at(-1), { type: 'end', job: { state: 'failed' } });
  t.equal(fixture.troubles.length, 1);
});

t.test('what could not be written to the journal is written with the next job that comes or ends', async (t) => {
  for (const next of ['comes', 'ends'] as const) {
    const fixture = open(t);
    const first = fixture.submit();
    const second = fixture.submit();
    fixture.setWritable(false);
    const ended = fixture.events(first, true);
    fixture.fail(noRoom);
    await ended;
    fixture.setWritable(true);
    if (next === 'comes') fixture.submit();
    else t.match(await fixture.cancel(second), { state: /failed|cancelled/ });
    t.match(fixture.table.get(first.id), { state: 'failed', error: { code: 'E_LIMIT_DISK' } }, next);
    t.notOk(fixture.holders().includes(first.id), 'and it holds nothing any more');
  }
});

t.test('cancel() gives the end of a waiting job, also when the journal cannot be written', async (t) => {
  const fixture = open(t);
  const running = fixture.submit();
  const waiting = fixture.submit();
  fixture.setWritable(false);
  t.equal((await fixture.cancel(waiting)).state, 'cancelled');
  t.equal((await fixture.cancel(waiting)).state, 'cancelled', 'and again');
  const ended = fixture.events(running, true);
  fixture.fail(noRoom);
  await ended;
});

t.test('submit() leaves nothing of a job that the journal does not take', (t) => {
  const fixture = open(t);
  fixture.setWritable(false);
  t.throws(() => fixture.submit(), { code: 'E_STATE' });
  t.same(readdirSync(fixture.jobsDirectory), []);
  t.same(fixture.list(), []);
  t.equal(fixture.droppedContexts, 1);
  fixture.setWritable(true);
  t.equal(fixture.submit().state, 'queued');
  t.end();
});
