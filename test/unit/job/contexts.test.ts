import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import t, { type Test } from 'tap';
import { ContextStore } from '../../../src/job/contexts.ts';

const caller = { uid: 1000 };
const { signal } = new AbortController();

function openStore(t: Test): { store: ContextStore; directory: string } {
  const directory = mkdtempSync(join(tmpdir(), 'contexts-'));
  const store = new ContextStore(directory, { maxBytes: 1024, maxPerUid: 2, lifeMs: 60_000 }, () => {});
  t.teardown(() => {
    store.close();
    rmSync(directory, { recursive: true });
  });
  return { store, directory };
}

t.test('extract() gives the upload to a worker for each part that is in it, and for the first in any case', async (t) => {
  const { store } = openStore(t);
  const id = await store.add(caller, Readable.from([Buffer.from('tar')]), signal);
  const lease = store.take(caller, id);
  const seen: string[] = [];
  for (const top of ['copy', 'exact', 'files']) {
    await store.extract(id, top, async (fd) => {
      seen.push(`${top} ${readFileSync(fd, 'utf8')}`);
      return new Set(['files']);
    });
  }
  t.same(seen, ['copy tar', 'files tar']);
  await lease[Symbol.asyncDispose]();
  await t.rejects(
    store.extract(id, 'copy', async () => new Set()),
    { code: 'E_NOT_FOUND' },
  );
});

t.test('extract() closes its descriptor when the worker fails', async (t) => {
  const { store } = openStore(t);
  const id = await store.add(caller, Readable.from([Buffer.from('tar')]), signal);
  const open = (): number => readdirSync('/proc/self/fd').length;
  const before = open();
  const failure = new Error('refused');
  await t.rejects(
    store.extract(id, 'copy', async () => {
      t.equal(open(), before + 1);
      throw failure;
    }),
    failure,
  );
  t.equal(open(), before);
});

t.test('add() refuses what is too large, and one upload too many', async (t) => {
  const { store, directory } = openStore(t);
  await t.rejects(store.add(caller, Readable.from([Buffer.alloc(2000)]), signal), { code: 'E_LIMIT_INGEST' });
  t.same(readdirSync(directory), []);
  for (const body of ['a', 'b']) await store.add(caller, Readable.from([Buffer.from(body)]), signal);
  await t.rejects(store.add(caller, Readable.from([Buffer.from('c')]), signal), { code: 'E_QUOTA' });
});

t.test('take() gives a context once, and to its owner only', async (t) => {
  const { store } = openStore(t);
  const id = await store.add(caller, Readable.from([Buffer.from('tar')]), signal);
  t.throws(() => store.take({ uid: 1001 }, id), { code: 'E_NOT_FOUND' });
  store.take(caller, id);
  t.throws(() => store.take(caller, id), { code: 'E_NOT_FOUND' });
});
