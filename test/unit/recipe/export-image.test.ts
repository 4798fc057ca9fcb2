import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import { type ExportImageArgs, exportImage } from '../../../src/recipe/archive/export-image.ts';
import { readTar } from '../../helpers/tar-builder.ts';
import { BOTTOM, layerTar, TOP } from '../../root/store/tiny-image.ts';
import { configFor, jsonOf, type Members } from '../store/archive-fixture.ts';
import { ociMembers, scratch, writeMembers } from './image-files.ts';

const signal = new AbortController().signal;

function imageOf(layers: readonly Buffer[]): Members {
  const names = layers.map((_layer, n) => `${n}/layer.tar`);
  return [
    ...layers.map((layer, n): Members[number] => [names[n] ?? '', layer]),
    ['c.json', configFor(layers)],
    ['manifest.json', jsonOf([{ Config: 'c.json', RepoTags: ['a:b'], Layers: names }])],
  ];
}

async function exported(t: Test, layers: readonly Buffer[], more: Partial<ExportImageArgs> = {}): Promise<Buffer> {
  const file = writeMembers(path.join(scratch(t), 'image.tar'), imageOf(layers));
  await using image = await exportImage({ fromImage: file, ...more }, { signal, note: () => {} });
  const tar = await buffer(image.open(signal));
  t.same(await buffer(image.open(signal)), tar, 'each time the same bytes');
  return tar;
}

function listed(tar: Buffer): string[] {
  return readTar(tar).map(({ entry: { name, type, mode, uid, gid, linkName }, body }) => {
    const end = linkName.length > 0 ? ` -> ${linkName}` : type === 'file' ? ` ${body}` : '';
    return `${type} ${mode.toString(8)} ${uid}:${gid} ${name}${end}`;
  });
}

function names(tar: Buffer): string[] {
  return readTar(tar).map(({ entry }) => entry.name.toString());
}

t.test('exportImage() applies whiteouts and opaque directories and keeps owners and hard links', async (t) => {
  const tar = await exported(t, [BOTTOM, TOP]);
  t.same(listed(tar), [
    'directory 755 0:0 ./',
    'directory 755 0:0 ./bin/',
    'file 4755 0:0 ./bin/tool #!/bin/sh\n',
    'directory 700 0:0 ./data/',
    'file 644 0:0 ./data/b b',
    'hardlink 644 0:0 ./data/c -> ./data/b',
    'directory 755 0:0 ./etc/',
    'file 644 0:0 ./etc/hello two',
    'symlink 777 0:0 ./etc/link -> /etc/hello',
  ]);
  const [note] = readTar(tar).flatMap(({ entry }) => entry.xattrs);
  t.same(note, { name: Buffer.from('user.note'), value: Buffer.from([0, 1, 255]) }, 'and attributes');
});

t.test('exportImage() lets whiteouts act on lower layers only, whatever their place in the layer', async (t) => {
  const lower = layerTar({ 'd/': {}, 'd/a': { body: 'old' }, 'd/b': { body: 'old' } });
  const first = layerTar({ 'd/.wh.a': {}, 'd/.wh..wh..opq': {}, 'd/a': { body: 'new' } });
  const last = layerTar({ 'd/a': { body: 'new' }, 'd/.wh..wh..opq': {}, 'd/.wh.a': {} });
  for (const upper of [first, last]) t.same(names(await exported(t, [lower, upper])), ['./', './d/', './d/a']);
});

t.test('exportImage() keeps a directory that a higher layer does not list as it is', async (t) => {
  const lower = layerTar({ 'd/': { mode: 0o700, uid: 5 } });
  t.same(listed(await exported(t, [lower, layerTar({ 'd/f': {}, 'e/f': {} })])), [
    'directory 755 0:0 ./',
    'directory 700 5:0 ./d/',
    'file 644 0:0 ./d/f ',
    'directory 755 0:0 ./e/',
    'file 644 0:0 ./e/f ',
  ]);
});

t.test('exportImage() replaces links by directories and files by links', async (t) => {
  const lower = layerTar({ l: { type: 'symlink', linkName: 'd' }, 'd/': {}, 'd/x': {} });
  const upper = layerTar({ 'l/': {}, 'l/y': {}, 'd/.wh.x': {}, 'd/x': { type: 'symlink', linkName: 'y' } });
  t.same(names(await exported(t, [lower, upper])), ['./', './d/', './d/x', './l/', './l/y']);
});

t.test('exportImage() follows symlinks of the same layer to a parent, below the root', async (t) => {
  const layer = layerTar({ 'var/': {}, 'var/run': { type: 'symlink', linkName: '/../run' }, 'var/run/x': { body: 'x' } });
  t.same(names(await exported(t, [layer])), ['./', './run/', './run/x', './var/', './var/run']);
});

t.test('exportImage() links to files of lower layers', async (t) => {
  const tar = await exported(t, [layerTar({ a: { body: 'A' } }), layerTar({ b: { type: 'hardlink', linkName: 'a' } })]);
  t.same(listed(tar), ['directory 755 0:0 ./', 'file 644 0:0 ./a A', 'hardlink 644 0:0 ./b -> ./a']);
});

t.test('exportImage() reads compressed layers', async (t) => {
  const file = writeMembers(path.join(scratch(t), 'image.tar.zst'), ociMembers('a:b'));
  await using image = await exportImage({ fromImage: file }, { signal, note: () => {} });
  t.equal(image.fileName, 'image.tar');
  t.same(names(await buffer(image.open(signal))), ['./', './etc/', './etc/hello', './etc/more']);
});

t.test('exportImage() refuses links that lead nowhere, whiteouts with content and links in circles', async (t) => {
  const refused = async (files: Parameters<typeof layerTar>[0], code: string): Promise<void> => {
    await t.rejects(exported(t, [layerTar(files)]), { code });
  };
  await refused({ a: { type: 'hardlink', linkName: 'b' } }, 'E_ARCHIVE_LINK');
  await refused({ 'd/.wh.a': { body: 'x' } }, 'E_ARCHIVE_WHITEOUT');
  await refused({ 'd/.wh..wh.x': {} }, 'E_ARCHIVE_WHITEOUT');
  await refused({ a: { type: 'symlink', linkName: 'a' }, 'a/b': {} }, 'E_ARCHIVE_PATH');
  await refused({ '../a': {} }, 'E_ARCHIVE_PATH');
  await refused({ a: {}, 'a/b': {} }, 'E_ARCHIVE_PATH');
});

t.test('exportImage() names the place of a wrong argument', async (t) => {
  const wrong = { fromImage: 'x', fromImagename: 'y' } as unknown as ExportImageArgs;
  await t.rejects(exportImage(wrong, { signal, note: () => {} }), {
    code: 'E_RECIPE',
    message: 'Cannot use recipe: /fromImagename: there is no such member, did you mean "fromImageName"?',
  });
});

t.test('exportImage() with compat "seed" gives the bytes of the seed\'s tar', async (t) => {
  const directory = scratch(t);
  const layer = layerTar({
    'bin/': { mode: 0o555 },
    'bin/tool': { body: '#!/bin/sh\n', mode: 0o755 },
    'bin/same': { type: 'hardlink', linkName: 'bin/tool' },
    [`${'long/'.repeat(30)}`]: {},
    [`${'long/'.repeat(30)}file`]: { body: 'x' },
    link: { type: 'symlink', linkName: 'bin/tool' },
  });
  const ours = await exported(t, [layer], { compat: 'seed' });
  const tar = path.join(directory, 'layer.tar');
  writeFileSync(tar, layer);
  const script =
    'umask 022; mkdir mnt; tar -C mnt -xpf layer.tar; tar -C mnt --hard-dereference --sort=name --mtime=@315532800 --owner=root:0 --group=root:0 -c .';
  t.same(ours, execFileSync('bash', ['-ec', script], { cwd: directory, maxBuffer: 1 << 26 }));
});
