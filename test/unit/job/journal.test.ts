import Sqlite from 'better-sqlite3';
import t from 'tap';
import type { JobId } from '../../../src/core/ids.ts';
import type { JobRecord } from '../../../src/core/job.ts';
import { Journal } from '../../../src/job/journal.ts';
import { JobTable } from '../../../src/state/jobs.ts';
import { migrations } from '../../../src/state/migrations.ts';

const job = { id: 'a' as JobId, uid: 0, state: 'queued', createdAt: '2026-01-01T00:00:00.000Z', layer: null } as JobRecord;
const layer = { sizeBytes: 1024 } as JobRecord['layer'];

function open() {
  const db = new Sqlite(':memory:');
  for (const step of migrations) db.exec(step);
  db.exec("CREATE TABLE held (owner TEXT); INSERT INTO held VALUES ('a')");
  const table = new JobTable(db);
  table.insert(job);
  const journal = new Journal({
    table,
    atomically: (action) => db.transaction(action)(),
    releaseLayer: ({ id }) => db.prepare('DELETE FROM held WHERE owner = ?').run(id),
    onTrouble: () => {},
  });
  const isHeld = (): boolean => db.prepare('SELECT count(*) FROM held').pluck().get() === 1;
  return { journal, table, isHeld, setWritable: (yes: boolean) => db.pragma(`query_only = ${yes ? 'OFF' : 'ON'}`) };
}

t.test('Journal.end() keeps what a job holds that is done, and releases it for all others', (t) => {
  for (const state of ['done', 'failed', 'cancelled', 'lost'] as const) {
    const { journal, table, isHeld } = open();
    t.equal(journal.end({ ...job, state }).state, state);
    t.equal(table.get(job.id)?.state, state);
    t.equal(isHeld(), state === 'done', state);
  }
  t.end();
});

t.test('Journal.end() makes a job failed that is done and cannot be written, now and later', (t) => {
  const { journal, table, isHeld, setWritable } = open();
  setWritable(false);
  t.match(journal.end({ ...job, state: 'done', layer }), { state: 'failed', layer: null, error: { code: 'E_STATE' } });
  t.equal(journal.get(job.id)?.state, 'failed');
  t.match(journal.list(0), [{ state: 'failed' }]);
  journal.catchUp();
  t.equal(table.get(job.id)?.state, 'queued', 'there is still no room');
  setWritable(true);
  journal.catchUp();
  t.match(table.get(job.id), { state: 'failed', layer: null });
  t.notOk(isHeld());
  t.end();
});

t.test('Journal.remove() removes all of a job or nothing', (t) => {
  const { journal, isHeld, setWritable } = open();
  setWritable(false);
  const failed = journal.end({ ...job, state: 'failed' });
  t.throws(() => journal.remove(failed), { code: 'E_STATE' });
  t.equal(journal.get(job.id)?.state, 'failed');
  setWritable(true);
  journal.remove(failed);
  t.equal(journal.get(job.id), null);
  t.notOk(isHeld());
  t.end();
});
