import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { buffer } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import { type BaseChoice, type BaseImage, openBaseImage, openBaseImages } from '../../../src/recipe/archive/base-archive.ts';
import { openOuterArchive } from '../../../src/recipe/archive/outer.ts';
import { blobName, configFor, jsonOf, type Members, sha256 } from '../store/archive-fixture.ts';
import {
  CONFIG,
  classicMembers,
  docker25Members,
  LOWER,
  ociMembers,
  scratch,
  skopeoMembers,
  UPPER,
  writeDirectory,
  writeGzip,
  writeMembers,
  writeZstd,
} from './image-files.ts';

const signal = new AbortController().signal;
const LAYERS = [LOWER, UPPER, LOWER];

async function open(t: Test, file: string, choice: BaseChoice = {}): Promise<BaseImage> {
  const image = await openBaseImage(file, choice, signal);
  t.teardown(() => image[Symbol.asyncDispose]());
  return image;
}

async function hasAll(t: Test, image: BaseImage): Promise<void> {
  t.equal(image.configText, CONFIG.toString());
  t.same(image.config, JSON.parse(CONFIG.toString()));
  t.same(
    image.layers.map(({ diffId, sizeBytes }) => [diffId, sizeBytes]),
    LAYERS.map((layer) => [sha256(layer), layer.length]),
  );
  for (const [index, layer] of image.layers.entries()) t.same(await buffer(layer.open()), LAYERS[index], `layer ${index}`);
}

const layouts: Record<string, Members> = {
  classic: classicMembers(['a/b:tag']),
  skopeo: skopeoMembers('a/b:tag'),
  'docker 25': docker25Members('a/b:tag'),
  oci: ociMembers('a/b:tag'),
};

for (const [name, members] of Object.entries(layouts)) {
  t.test(`openBaseImage() reads the ${name} layout, plain, gzip and zstd`, async (t) => {
    const directory = scratch(t);
    const spools = path.join(directory, 'tmp');
    mkdirSync(spools);
    const { TMPDIR } = process.env;
    process.env['TMPDIR'] = spools;
    t.teardown(() => {
      process.env['TMPDIR'] = TMPDIR;
    });
    const plain = writeMembers(path.join(directory, 'a.tar'), members);
    const packed = writeGzip(path.join(directory, 'a.tar.gz'), readFileSync(plain));
    const small = writeZstd(path.join(directory, 'a.tar.zst'), plain);
    for (const file of [plain, packed, small]) {
      const image = await open(t, file, { name: 'a/b', tag: 'tag' });
      await hasAll(t, image);
      t.same(image.tags, ['a/b:tag']);
      t.notOk(image.isFirstOfSeveral);
    }
    t.same(readdirSync(spools), [], 'an unpacked archive has no name');
  });
}

t.test('openBaseImage() reads an OCI layout directory', async (t) => {
  await hasAll(t, await open(t, writeDirectory(path.join(scratch(t), 'layout'), ociMembers('a/b:tag')), { tag: 'tag' }));
});

t.test('openBaseImage() names layers as the manifest does', async (t) => {
  const file = path.join(scratch(t), 'a.tar');
  const names = async (members: Members): Promise<string[]> => (await open(t, writeMembers(file, members))).layers.map(({ name }) => name);
  const [one, two] = ['1'.repeat(64), '2'.repeat(64)];
  t.same(await names(classicMembers(null)), [`${one}/layer.tar`, `${two}/layer.tar`, `${one}/layer.tar`]);
  t.same(await names(docker25Members('a:b')), LAYERS.map(blobName));
  t.same((await names(skopeoMembers('a:b')))[2], `${one}/layer.tar`, 'also by a link');
});

const OTHER = configFor([UPPER], { config: { Env: ['B=2'] } });

function twoImages(first: string[] | null, second: string[] | null): Members {
  return [
    ['l.tar', LOWER],
    ['u.tar', UPPER],
    ['1.json', CONFIG],
    ['2.json', OTHER],
    [
      'manifest.json',
      jsonOf([
        { Config: '1.json', RepoTags: first, Layers: ['l.tar', 'u.tar', 'l.tar'] },
        { Config: '2.json', RepoTags: second, Layers: ['u.tar'] },
      ]),
    ],
  ];
}

t.test('openBaseImage() chooses by whole names and tags', async (t) => {
  const file = writeMembers(path.join(scratch(t), 'a.tar'), twoImages(['foo:latest'], ['o:lat', 'reg.example:5000/x:1']));
  const config = async (choice: BaseChoice): Promise<string> => (await open(t, file, choice)).configText;
  t.equal(await config({ name: 'o', tag: 'lat' }), OTHER.toString());
  t.equal(await config({ name: 'docker.io/library/foo', tag: 'latest' }), CONFIG.toString(), 'in any spelling');
  t.equal(await config({ name: 'reg.example:5000/x' }), OTHER.toString(), 'by name alone');
  t.equal(await config({ tag: '1' }), OTHER.toString(), 'by tag alone');
  await t.rejects(config({ name: 'foo', tag: 'late' }), {
    code: 'E_NOT_FOUND',
    message: /image with the name "foo" and the tag "late" in ".*": it holds foo:latest; o:lat, reg.example:5000\/x:1$/,
  });
});

t.test('openBaseImage() takes the first of several when none is named, and says so', async (t) => {
  const file = writeMembers(path.join(scratch(t), 'a.tar'), twoImages(null, ['o:lat']));
  const image = await open(t, file);
  t.equal(image.configText, CONFIG.toString());
  t.ok(image.isFirstOfSeveral);
  t.same(image.tags, []);
});

t.test('openBaseImage() refuses to guess between two images of one name', async (t) => {
  const file = writeMembers(path.join(scratch(t), 'a.tar'), twoImages(['a:1'], ['a:2']));
  await t.rejects(openBaseImage(file, { name: 'a' }, signal), { code: 'E_IMAGE_AMBIGUOUS', message: /a:1; a:2/ });
});

t.test('openBaseImage() fails at the end of a layer that is another one', async (t) => {
  const wrong = Buffer.from(LOWER);
  wrong.write('ONE', 1024);
  const [, ...rest] = classicMembers(null);
  const file = writeMembers(path.join(scratch(t), 'a.tar'), [[`${'1'.repeat(64)}/layer.tar`, wrong], ...rest]);
  const [lower] = (await open(t, file)).layers;
  if (lower === undefined) throw new Error('no layer');
  await t.rejects(buffer(lower.open()), { code: 'E_DIGEST', message: /"1+\/layer.tar": its tar has the diffID sha256:/ });
});

t.test('openBaseImage() names the file that it cannot use', async (t) => {
  const directory = scratch(t);
  const text = path.join(directory, 'text');
  writeFileSync(text, 'x'.repeat(3000));
  await t.rejects(openBaseImage(text, {}, signal), {
    code: 'E_IMAGE_FORMAT',
    message: `Cannot use image ${JSON.stringify(text)}: cannot read image archive: it is no tar, plain, gzip or zstd`,
  });
  await t.rejects(openBaseImage(path.join(directory, 'none'), {}, signal), { code: 'E_NOT_FOUND', message: /there is no such file/ });
  await t.rejects(openBaseImage(directory, {}, signal), { code: 'E_IMAGE_FORMAT', message: /no directory "blobs\/sha256"/ });
  const broken = path.join(directory, 'broken.gz');
  writeFileSync(broken, Buffer.from('1f8b0800000000000003ffffffffffffff', 'hex'));
  await t.rejects(openBaseImage(broken, {}, signal), { code: 'E_COMPRESSION' });
  const half = path.join(directory, 'broken.zst');
  writeFileSync(half, readFileSync(writeZstd(path.join(directory, 'text.zst'), text)).subarray(0, -8));
  await t.rejects(openBaseImage(half, {}, signal), {
    code: 'E_COMPRESSION',
    message: /Cannot use image ".*broken.zst": cannot run .*zstd: it ended with status 1/,
  });
  const cut = path.join(directory, 'cut.tar');
  writeFileSync(cut, readFileSync(writeMembers(path.join(directory, 'a.tar'), classicMembers(null))).subarray(0, 2000));
  await t.rejects(openBaseImage(cut, {}, signal), { code: 'E_ARCHIVE_TRUNCATED' });
});

t.test('openOuterArchive() gives the members as they are', async (t) => {
  const directory = scratch(t);
  const plain = writeMembers(path.join(directory, 'a.tar'), [
    ['./', Buffer.alloc(0)],
    ['./b', Buffer.from('body')],
    ['./a', { hardlink: './b' }],
  ]);
  await using outer = await openOuterArchive(writeGzip(path.join(directory, 'a.tgz'), readFileSync(plain)), signal);
  t.equal(outer.compression, 'gzip');
  t.same(
    outer.members.map(({ name, type, sizeBytes, linkName }) => [name.toString(), type, sizeBytes, linkName.toString()]),
    [
      ['./', 'directory', 0, ''],
      ['./b', 'file', 4, ''],
      ['./a', 'hardlink', 0, './b'],
    ],
  );
  const [, second] = outer.members;
  if (second === undefined) throw new Error('no member');
  t.equal((await buffer(second.open(signal))).toString(), 'body');
  t.equal(second.readStart(2).toString(), 'bo');
});

t.test('openBaseImages() gives each image of an archive once, with all its names', async (t) => {
  const members = twoImages(['a:1'], ['b:1']).map((entry): Members[number] => {
    const [name, body] = entry;
    if (name !== 'manifest.json' || !Buffer.isBuffer(body)) return entry;
    const again = { Config: '1.json', RepoTags: ['c:1'], Layers: ['l.tar', 'u.tar', 'l.tar'] };
    return ['manifest.json', jsonOf([...JSON.parse(body.toString()), again])];
  });
  await using archive = await openBaseImages(writeMembers(path.join(scratch(t), 'a.tar'), members), signal);
  t.same(
    archive.images.map(({ id, tags }) => [id, tags]),
    [
      [sha256(CONFIG), ['a:1', 'c:1']],
      [sha256(OTHER), ['b:1']],
    ],
  );
  t.equal(archive.compression, 'none');
});
