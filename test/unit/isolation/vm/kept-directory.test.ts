import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { type KeptPlace, keepDirectory } from '../../../../src/isolation/vm/kept-directory.ts';

const dir = mkdtempSync(join(tmpdir(), 'vm-kept-'));
t.teardown(() => rmSync(dir, { recursive: true }));

const place = (key: string, removeOthers = true): KeptPlace => ({ parent: dir, kind: 'kind', key, removeOthers });

let fills = 0;
async function fill(path: string): Promise<void> {
  fills += 1;
  writeFileSync(join(path, 'file'), 'whole');
}

t.test('keepDirectory() makes it once, also for several at once', async (t) => {
  const made = await Promise.all([1, 2, 3].map(async () => await keepDirectory(place('a'), fill)));
  const [path = ''] = made;
  t.same(new Set(made), new Set([join(dir, 'kind-a')]));
  t.equal(readFileSync(join(path, 'file'), 'utf8'), 'whole');
  t.equal(statSync(path).mode & 0o777, 0o755);
  fills = 0;
  await keepDirectory(place('a'), fill);
  t.equal(fills, 0);
  t.same(readdirSync(dir), ['kind-a']);
});

t.test('keepDirectory() leaves nothing of what could not be made', async (t) => {
  await t.rejects(
    keepDirectory(place('b'), async () => Promise.reject(new Error('no room'))),
    /no room/,
  );
  t.same(readdirSync(dir), ['kind-a']);
});

t.test('keepDirectory() tells that the disk is full, and leaves nothing', async (t) => {
  const overfill = async (path: string): Promise<void> => {
    writeFileSync(join(path, 'part'), 'begun');
    writeFileSync('/dev/full', 'more');
  };
  await t.rejects(keepDirectory(place('b'), overfill), { code: 'E_STATE', message: /kind-b": the disk .* is full$/, hint: /room/ });
  t.same(readdirSync(dir), ['kind-a']);
});

t.test('keepDirectory() removes nothing of others unless it is told to', async (t) => {
  mkdirSync(join(dir, 'new-kind-old'));
  utimesSync(join(dir, 'new-kind-old'), 0, 0);
  await keepDirectory(place('b', false), fill);
  t.same(readdirSync(dir).sort(), ['kind-a', 'kind-b', 'new-kind-old']);
  await keepDirectory(place('a'), fill);
  t.same(readdirSync(dir), ['kind-a'], 'also when there is nothing to make');
});

t.test('keepDirectory() removes those of other keys and old leftovers, and nothing else', async (t) => {
  for (const name of ['other-x', 'new-kind-old', 'new-kind-young']) mkdirSync(join(dir, name));
  utimesSync(join(dir, 'new-kind-old'), 0, 0);
  await keepDirectory(place('c'), fill);
  t.same(readdirSync(dir).sort(), ['kind-c', 'new-kind-young', 'other-x']);
  t.notOk(existsSync(join(dir, 'kind-a')));
});
