import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import t from 'tap';
import { subtree } from '../../../src/recipe/script/in-tools.ts';
import { cleanPath, spoolLayer } from '../../../src/recipe/script/layer.ts';
import { packTree } from '../../../src/recipe/tree/pack.ts';
import { archive, member } from '../../helpers/tar-builder.ts';

const signal = new AbortController().signal;

function spooled(...members: Buffer[]): ReturnType<typeof spoolLayer> {
  return spoolLayer(Readable.from([archive(...members)]), signal);
}

t.test('spoolLayer() gives a layer as a tree that packs to the same members, hard links as one node', async (t) => {
  await using layer = await spooled(
    member({ name: 'd/', type: '5', mode: 0o700 }),
    member({ name: 'd/file', uid: 7 }, Buffer.from('some text')),
    member({ name: 'd/same', type: '1', linkName: 'd/file' }),
    member({ name: 'link', type: '2', linkName: 'd/file' }),
    member({ name: '.wh.gone' }, Buffer.alloc(0)),
  );
  const { tree, tar } = layer;
  t.equal(tree.lookup(Buffer.from('d/file')), tree.lookup(Buffer.from('d/same')));
  t.equal(tree.lookup(Buffer.from('d'))?.mode, 0o700);
  t.equal(tar.entries, 5);
  const first = await buffer(packTree(tree, { format: 'plain' }, signal));
  await using again = await spoolLayer(Readable.from([first]), signal);
  t.ok((await buffer(packTree(again.tree, { format: 'plain' }, signal))).equals(first));
  t.same(
    [...again.tree.entries()].map(({ path }) => path.toString()),
    ['', '.wh.gone', 'd', 'd/file', 'd/same', 'link'],
  );
});

t.test('spoolLayer() gives the tar as it came, as often as wanted', async (t) => {
  const bytes = archive(member({ name: 'f' }, Buffer.alloc(5000, 1)));
  await using layer = await spoolLayer(Readable.from([bytes.subarray(0, 700), bytes.subarray(700)]), signal);
  t.equal(layer.tar.sizeBytes, bytes.length);
  for (let n = 0; n < 2; n += 1) t.ok((await buffer(layer.tar.open(signal))).equals(bytes));
});

t.test('spoolLayer() refuses a hard link to nothing and a name that leaves the root', async (t) => {
  await t.rejects(spooled(member({ name: 'l', type: '1', linkName: 'missing' })), { code: 'E_ARCHIVE_LINK' });
  await t.rejects(spooled(member({ name: 'a/../../b' })), { code: 'E_ARCHIVE_PATH' });
});

t.test('cleanPath() takes off slashes and single dots', async (t) => {
  t.same(
    ['./', './a//b/', '/a', 'a/./b', '.'].map((name) => cleanPath(Buffer.from(name)).toString()),
    ['', 'a/b', 'a', 'a/b', ''],
  );
});

t.test('subtree() gives what is below a path, with the attributes of its directory', async (t) => {
  await using layer = await spooled(
    member({ name: 'a/b/', type: '5', mode: 0o711 }),
    member({ name: 'a/b/c' }, Buffer.from('x')),
    member({ name: 'a/bc' }, Buffer.from('y')),
  );
  const below = subtree(layer.tree, Buffer.from('a/b'));
  t.same(
    [...below.entries()].map(({ path }) => path.toString()),
    ['', 'c'],
  );
  t.equal(below.root.mode, 0o711);
  t.same([...subtree(layer.tree, Buffer.from('nowhere')).entries()].length, 1);
});
