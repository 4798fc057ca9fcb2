/** Hostile layers, one row each, through the real worker and through the bare extractor. The ids are those of spec/threats.md, A. */
import { linkSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { requires } from '../helpers/requires.ts';
import { archive, readTar } from '../helpers/tar-builder.ts';
import { census, codeOf, extractBare, removeScratch, sketch, unpackTo, WorkerShare } from '../root/unpack/staging.ts';
import { canary, file, hardLink, makeSurroundings, outside, rows, scratch, store, symlink } from './hostile-archives.ts';

requires(t, 'root', 'userns', 'launcher');
t.setTimeout(300_000);

t.before(makeSurroundings);
t.teardown(() => removeScratch(scratch));

async function outcome(stage: string, run: () => unknown): Promise<string | string[]> {
  const code = await codeOf(run);
  const found = code === 'none' ? sketch(stage) : code;
  removeScratch(stage);
  return found;
}

t.test('the table has at least a hundred rows', async (t) => {
  t.ok(rows.length >= 100, `${rows.length} rows`);
});

t.test('the bare extractor, as root of the host, keeps to its directory', async (t) => {
  const stage = path.join(store, 'stage');
  for (const { id, what, tar, want, isWorkerOnly } of rows) {
    if (isWorkerOnly === true) continue;
    const before = outside();
    t.same(await outcome(stage, () => extractBare(stage, tar)), sorted(want), `${id}: ${what}`);
    t.same(outside(), before, `${id}: ${what}: nothing outside has changed`);
  }
});

t.test('unpackLayer() keeps to its directory', async (t) => {
  const stage = path.join(store, 'stage');
  // The first child process of a Node process opens descriptors that stay.
  await unpackTo(stage, archive());
  removeScratch(stage);
  const before = await census();
  {
    await using workers = new WorkerShare(25);
    for (const { id, what, tar, want, options } of rows) {
      const canaries = outside();
      t.same(await outcome(stage, () => unpackTo(stage, tar, { takeWorker: workers.take, ...options })), sorted(want), `${id}: ${what}`);
      t.same(outside(), canaries, `${id}: ${what}: nothing outside has changed`);
    }
  }
  t.same(await census(), before, 'no process and no descriptor is left');
});

t.test('A51: messages escape names', async (t) => {
  const stage = path.join(store, 'stage');
  await using workers = new WorkerShare(1);
  const work = unpackTo(stage, archive(file('a\nb\x1b[31m\xff/../x')), { takeWorker: workers.take });
  await t.rejects(work, { message: 'Cannot unpack member "a\\x0ab\\x1b[31m\\xff/../x": a component of its path is ".."' });
  removeScratch(stage);
});

t.test('control: the canary notices what an extractor by paths does', async (t) => {
  const attacks = {
    'a link to the canary': archive(symlink('l', canary), file('l/new', 'evil')),
    'a link to a file': archive(symlink('l', `${canary}/secret`), file('l', 'evil')),
    'a hard link': archive(hardLink('h', `${canary}/twice`)),
    'the parent': archive(file('../victim/x', 'evil')),
  };
  for (const [what, tar] of Object.entries(attacks)) {
    const before = outside();
    const stage = path.join(store, 'stage');
    naiveExtract(stage, tar);
    t.notSame(outside(), before, what);
    removeScratch(stage);
  }
});

/** As one would write it without having read threats.md. */
function naiveExtract(directory: string, tar: Buffer): void {
  for (const { entry, body } of readTar(tar)) {
    const name = path.join(directory, entry.name.toString('latin1'));
    mkdirSync(path.dirname(name), { recursive: true });
    if (entry.type === 'symlink') symlinkSync(entry.linkName, name);
    else if (entry.type === 'hardlink') linkSync(entry.linkName, name);
    else writeFileSync(name, body);
  }
}

function sorted(want: string | string[]): string | string[] {
  return typeof want === 'string' ? want : [...want].sort();
}
