import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t, { type Test } from 'tap';
import { openDatabase } from '../../../src/state/database.ts';
import { migrations } from '../../../src/state/migrations.ts';

function fileFor(t: Test): string {
  const dir = mkdtempSync(path.join(tmpdir(), 'rootlayer-db-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  return path.join(dir, 'rootlayer.db');
}

const STEPS = ['CREATE TABLE a (x INTEGER) STRICT', 'CREATE TABLE b (y INTEGER) STRICT; INSERT INTO b SELECT x + 1 FROM a'];

t.test('openDatabase() makes every commit durable and checks references', async (t) => {
  const database = openDatabase(fileFor(t));
  t.equal(database.pragma('journal_mode', { simple: true }), 'wal');
  t.equal(database.pragma('synchronous', { simple: true }), 2);
  t.equal(database.pragma('foreign_keys', { simple: true }), 1);
  t.equal(database.pragma('user_version', { simple: true }), migrations.length);
  database.close();
});

t.test('openDatabase() brings an older database up to date, and keeps a copy of it', async (t) => {
  const file = fileFor(t);
  const old = openDatabase(file, STEPS.slice(0, 1));
  old.exec('INSERT INTO a VALUES (41)');
  old.close();
  const database = openDatabase(file, STEPS);
  t.same(database.prepare('SELECT y FROM b').all(), [{ y: 42 }]);
  database.close();
  const copy = openDatabase(`${file}.v1`, STEPS.slice(0, 1));
  t.same(copy.prepare('SELECT x FROM a').all(), [{ x: 41 }]);
  copy.close();
});

t.test('openDatabase() leaves a database alone that is up to date', async (t) => {
  const file = fileFor(t);
  openDatabase(file, STEPS).close();
  openDatabase(file, STEPS).close();
  t.notOk(existsSync(`${file}.v2`));
});

t.test('openDatabase() does a failing step not at all', async (t) => {
  const file = fileFor(t);
  openDatabase(file, STEPS.slice(0, 1)).close();
  t.throws(() => openDatabase(file, ['', 'CREATE TABLE c (x INTEGER); SELECT nonsense']), { code: 'E_STATE' });
  const database = openDatabase(file, STEPS.slice(0, 1));
  t.same(database.prepare("SELECT name FROM sqlite_schema WHERE name = 'c'").all(), []);
  database.close();
});

t.test('openDatabase() refuses what a newer rootlayer wrote', async (t) => {
  const file = fileFor(t);
  openDatabase(file, STEPS).close();
  t.throws(() => openDatabase(file, STEPS.slice(0, 1)), { code: 'E_STATE', message: /version 2.*up to 1/ });
});

t.test('openDatabase() refuses what is no database, and leaves it as it is', async (t) => {
  const file = fileFor(t);
  writeFileSync(file, 'no database at all, but some text that is long enough to be looked at'.repeat(20));
  const before = readFileSync(file);
  t.throws(() => openDatabase(file), { code: 'E_STATE' });
  t.same(readFileSync(file), before);
});

t.test('openDatabase() refuses a directory that is not there', async (t) => {
  t.throws(() => openDatabase(path.join(fileFor(t), 'x.db')), { code: 'E_STATE' });
});

t.test('migrations tell of jobs of an older database who told their status and what their isolation was worth', async (t) => {
  const file = fileFor(t);
  const old = openDatabase(file, migrations.slice(0, -1));
  const insert = old.prepare("INSERT INTO jobs (id, uid, state, created_at, record) VALUES (?, 0, 'done', '', ?)");
  insert.run('a', JSON.stringify({ exitStatus: 0, isolation: { used: 'userns', why: 'x', refused: [] } }));
  insert.run('b', JSON.stringify({ exitStatus: null, isolation: { used: 'chroot', why: 'x', refused: [] } }));
  insert.run('c', JSON.stringify({ exitStatus: null, isolation: null }));
  old.close();
  const database = openDatabase(file);
  const records = database.prepare('SELECT record FROM jobs ORDER BY id').pluck().all() as string[];
  t.same(
    records.map((record) => JSON.parse(record)),
    [
      { exitStatus: 0, exitStatusBy: 'kernel', isolation: { used: 'userns', why: 'x', refused: [], boundary: 'kernel' } },
      { exitStatus: null, exitStatusBy: null, isolation: { used: 'chroot', why: 'x', refused: [], boundary: 'none' } },
      { exitStatus: null, exitStatusBy: null, isolation: null },
    ],
  );
  database.close();
});
