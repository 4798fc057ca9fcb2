import path from 'node:path';
import t, { type Test } from 'tap';
import { openBaseImage } from '../../../src/recipe/archive/base-archive.ts';
import { type BaseIndex, baseIndex } from '../../../src/recipe/script/base-index.ts';
import { writeBase } from '../../helpers/tools-base.ts';
import { layerTar } from '../../root/store/tiny-image.ts';
import { scratch } from './image-files.ts';

const signal = new AbortController().signal;

async function indexOf(t: Test, ...layers: Buffer[]): Promise<BaseIndex> {
  const file = writeBase(scratch(t), 'base:1', layers);
  t.equal(path.extname(file), '.tar');
  await using image = await openBaseImage(file, {}, signal);
  return await baseIndex(image, signal);
}

t.test('baseIndex() merges layers: later modes win, whiteouts delete what lies below', async (t) => {
  const lower = layerTar({ 'd/': { mode: 0o700 }, 'd/a': {}, 'd/b': {}, 'e/': {}, 'e/x': {}, 'f/': {}, 'f/y': {} });
  const upper = layerTar({ 'd/': { mode: 0o755 }, 'd/.wh.a': {}, 'd/c': {}, '.wh.e': {}, 'f/': {}, 'f/.wh..wh..opq': {}, 'f/z': {} });
  const index = await indexOf(t, lower, upper);
  t.same(
    ['d/a', 'd/b', 'd/c', 'e', 'e/x', 'f/y', 'f/z', 'd/.wh.a', ''].filter((name) => index.has(name)),
    ['d/b', 'd/c', 'f/z', ''],
  );
  t.same(index.get('d'), { isDirectory: true, mode: 0o755, isEmpty: false });
});

t.test('baseIndex() applies the deletions of a layer to what lies below only, in whatever order they stand', async (t) => {
  const index = await indexOf(t, layerTar({ 'd/': {}, 'd/old': {} }), layerTar({ 'd/': {}, 'd/new': {}, 'd/.wh..wh..opq': {} }));
  t.ok(index.has('d/new') && !index.has('d/old'));
});

t.test('baseIndex() knows an empty directory, and a file that took the place of one', async (t) => {
  const index = await indexOf(t, layerTar({ 'e/': {}, 'd/': {}, 'd/x': {} }), layerTar({ d: { body: 'file' } }));
  t.equal(index.get('e')?.isEmpty, true);
  t.equal(index.get('d')?.isDirectory, false);
  t.notOk(index.has('d/x'));
});
