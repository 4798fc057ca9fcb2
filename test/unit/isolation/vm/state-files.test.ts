import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { collectStates, openScratch, writeState } from '../../../../src/isolation/vm/state-files.ts';

const dir = mkdtempSync(join(tmpdir(), 'vm-states-'));
t.teardown(() => rmSync(dir, { recursive: true }));

t.test('writeState() makes a whole file that nobody can write', async (t) => {
  const path = join(dir, 'whole');
  await writeState(path, async (fd) => {
    writeSync(fd, 'state');
    t.throws(() => statSync(path), { code: 'ENOENT' }, 'not there before it is whole');
  });
  t.equal(readFileSync(path, 'utf8'), 'state');
  t.equal(statSync(path).mode & 0o777, 0o400);
});

t.test('writeState() leaves nothing of what could not be saved', async (t) => {
  await t.rejects(
    writeState(join(dir, 'broken'), async () => Promise.reject(new Error('no'))),
    /no/,
  );
  t.same(readdirSync(dir), ['whole']);
});

t.test('openScratch() has no name', async (t) => {
  await using scratch = await openScratch(dir);
  t.same(readdirSync(dir), ['whole']);
  t.equal(statSync(`/proc/self/fd/${scratch.fd}`).size, 1024 * 1024);
});

t.test('collectStates() keeps what was used last, and what is being written', async (t) => {
  rmSync(join(dir, 'whole'));
  const now = Date.now() / 1000;
  for (const [name, ageSec] of [
    ['a', 400],
    ['b', 300],
    ['c', 200],
    ['d', 100],
    ['e.1.new', 60],
    ['f.2.new', 7200],
  ] as const) {
    writeFileSync(join(dir, name), '');
    utimesSync(join(dir, name), now - ageSec, now - ageSec);
  }
  await collectStates(dir, 2);
  t.same(readdirSync(dir).sort(), ['c', 'd', 'e.1.new']);
});
