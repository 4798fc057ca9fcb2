import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { gunzipSync } from 'node:zlib';
import t, { type Test } from 'tap';
import { openBaseImages } from '../../../src/recipe/archive/base-archive.ts';
import { formatRepositories, parseRepositories } from '../../../src/recipe/archive/merge-documents.ts';
import { type MergeImagesArgs, mergeImages } from '../../../src/recipe/archive/merge-images.ts';
import { requires } from '../../helpers/requires.ts';
import { readTar } from '../../helpers/tar-builder.ts';
import { layerTar } from '../../root/store/tiny-image.ts';
import { configFor, jsonOf, type Members, sha256 } from '../store/archive-fixture.ts';
import { classicMembers, LOWER, ociMembers, scratch, UPPER, writeGzip, writeMembers, writeZstd } from './image-files.ts';

const signal = new AbortController().signal;

async function merged(args: MergeImagesArgs): Promise<{ bytes: Buffer; fileName: string }> {
  await using file = await mergeImages(args, { signal });
  return { bytes: await buffer(file.open(signal)), fileName: file.fileName };
}

/** A small image of its own, with `repositories` as buildImage has it. */
function smallImage(name: string, tag: string, text: string): Members {
  const layer = layerTar({ file: { body: text, uid: 1000, gid: 1001 } });
  const id = sha256(text).slice(7);
  return [
    [`${id}/`, Buffer.alloc(0)],
    [`${id}/layer.tar`, layer],
    [`${id}/VERSION`, Buffer.from('1.0')],
    [`${id.slice(0, 12)}.json`, configFor([layer], { config: { Env: [`A=${text}`] } })],
    ['manifest.json', jsonOf([{ Config: `${id.slice(0, 12)}.json`, RepoTags: [`${name}:${tag}`], Layers: [`${id}/layer.tar`] }])],
    ['repositories', jsonOf({ [name]: { [tag]: id } })],
  ];
}

function documents(tar: Buffer): Record<string, unknown> {
  const found = readTar(tar).filter(({ entry }) => /^(?:manifest\.json|repositories)$/.test(entry.name.toString()));
  return Object.fromEntries(found.map(({ entry, body }) => [entry.name.toString(), JSON.parse(body.toString())]));
}

t.test('mergeImages() keeps all tags of images with one name, and copies each layer once', async (t) => {
  const directory = scratch(t);
  const files = [
    writeMembers(path.join(directory, 'a.tar'), classicMembers(['foo:1'])),
    writeMembers(path.join(directory, 'b.tar'), smallImage('foo', '2', 'two')),
    writeMembers(path.join(directory, 'c.tar'), ociMembers('docker.io/library/foo:3')),
    writeMembers(path.join(directory, 'd.tar'), classicMembers(['docker.io/library/foo:1', 'localhost/foo:4'])),
  ];
  const { bytes, fileName } = await merged({ images: files });
  t.equal(fileName, 'merge-docker-images.tar');
  const out = path.join(directory, fileName);
  writeFileSync(out, bytes);
  await using archive = await openBaseImages(out, signal);
  t.same(
    archive.images.map(({ tags, layers }) => [tags, layers.map(({ diffId }) => diffId)]),
    [
      [['foo:1', 'foo:3', 'localhost/foo:4'], [LOWER, UPPER, LOWER].map((layer) => sha256(layer))],
      [['foo:2'], [sha256(layerTar({ file: { body: 'two', uid: 1000, gid: 1001 } }))]],
    ],
  );
  t.same(Object.keys((documents(bytes)['repositories'] as { foo: object }).foo).sort(), ['1', '2', '3']);
  t.equal(readTar(bytes).filter(({ entry }) => entry.name.toString().endsWith('/layer.tar')).length, 3);
  const { entry, body } = readTar(bytes).find((member) => member.body.equals(LOWER)) ?? {};
  t.same(body, LOWER, 'owners in the layers are untouched');
  t.match(entry, { mode: 0o444, uid: 0, gid: 0, mtimeSec: 315_532_800 });
});

t.test('mergeImages() takes inputs of one base name', async (t) => {
  const directory = scratch(t);
  for (const part of ['1', '2']) mkdirSync(path.join(directory, part));
  const files = ['1', '2'].map((part) => writeMembers(path.join(directory, part, 'a.tar'), smallImage('foo', part, part)));
  t.equal((documents((await merged({ images: files })).bytes)['manifest.json'] as unknown[]).length, 2);
});

t.test('mergeImages() compresses like the last input, and with gzip when there is none', async (t) => {
  const directory = scratch(t);
  const plain = writeMembers(path.join(directory, 'a.tar'), classicMembers(['a:1']));
  const gzip = writeGzip(path.join(directory, 'a.tar.gz'), readFileSync(plain));
  const zstd = writeZstd(path.join(directory, 'a.tar.zst'), plain);
  const magic = async (images: string[]): Promise<string> => (await merged({ images })).bytes.subarray(0, 2).toString('hex');
  t.equal(await magic([plain, gzip]), '1f8b');
  t.equal(await magic([gzip, zstd]), '28b5');
  t.not(await magic([zstd, plain]), '1f8b');
  const none = await merged({ images: [] });
  t.equal(none.fileName, 'merge-docker-images.tar.gz');
  t.same(documents(gunzipSync(none.bytes)), { 'manifest.json': [], repositories: {} });
});

t.test('mergeImages() refuses one name and tag for two images', async (t) => {
  const directory = scratch(t);
  const a = writeMembers(path.join(directory, 'a.tar'), smallImage('foo', '1', 'one'));
  const b = writeMembers(path.join(directory, 'b.tar'), smallImage('foo', '1', 'two'));
  await t.rejects(mergeImages({ images: [a, b] }, { signal }), {
    code: 'E_CONFLICT',
    message: `Cannot merge images: foo:1 is one image in ${JSON.stringify(a)} and another in ${JSON.stringify(b)}`,
  });
  await using again = await mergeImages({ images: [a, a] }, { signal });
  t.ok(again, 'the same image twice is one');
});

t.test('mergeImages() says which input is no image, and what is wrong with its arguments', async (t) => {
  const text = path.join(scratch(t), 'text');
  writeFileSync(text, 'no archive');
  await t.rejects(mergeImages({ images: [text] }, { signal }), { message: /Cannot use image ".*text": cannot read/ });
  const huge = writeMembers(path.join(scratch(t), 'huge.tar'), [['manifest.json', Buffer.alloc(4 * 1024 * 1024 + 1, ' ')]]);
  const tooLarge = { code: 'E_MANIFEST', message: 'Cannot read manifest.json: it has 4194305 bytes, want at most 4194304' };
  await t.rejects(mergeImages({ images: [huge], compat: 'seed' }, { signal }), tooLarge);
  await t.rejects(mergeImages({ images: ['a\0b'] }, { signal }), { message: 'Cannot use recipe: /images/0: want no NUL byte' });
  const wrong = { images: 'a' } as unknown as MergeImagesArgs;
  await t.rejects(mergeImages(wrong, { signal }), { code: 'E_RECIPE', message: 'Cannot use recipe: /images: it is a string, want a list' });
});

/** The shell steps of nixpkgs' mergeImages, with Debian's programs. */
const SEED = `
umask 022
mkdir image inputs
repos=()
manifests=()
last=application/gzip
for item in "$@"; do
  name=$(basename "$item")
  mkdir "inputs/$name"
  last=$(file --mime-type -b "$item")
  case $last in
    application/x-tar) cat;; application/zstd) zstd -d;; application/gzip) pigz -d;; *) exit 1;;
  esac < "$item" | tar -xC "inputs/$name"
  if [ -f "inputs/$name/repositories" ]; then repos+=("inputs/$name/repositories"); fi
  if [ -f "inputs/$name/manifest.json" ]; then manifests+=("inputs/$name/manifest.json"); fi
done
LC_ALL=C
cp -R -n inputs/*/* image/
jq -s add "\${repos[@]}" > repositories < /dev/null
jq -s add "\${manifests[@]}" > manifest.json < /dev/null
mv repositories image/repositories
mv manifest.json image/manifest.json
tar -C image --hard-dereference --sort=name --mtime=@315532800 --owner=0 --group=0 --xform s:'^./':: -c . | (
  case $last in application/x-tar) cat;; application/zstd) zstd -T2;; application/gzip) pigz -p2 -nTR;; esac
) > out
`;

function seedMerge(t: Test, files: readonly string[]): Buffer {
  const directory = scratch(t);
  execFileSync('bash', ['-ec', SEED, 'merge', ...files], { cwd: directory, stdio: ['ignore', 'pipe', 'pipe'] });
  return readFileSync(path.join(directory, 'out'));
}

t.test('mergeImages() with compat "seed" gives the seed\'s bytes', async (t) => {
  if (!requires(t, 'file', 'jq', 'pigz', 'zstd')) return;
  const directory = scratch(t);
  const later = smallImage('foo', '2', 'two').map((entry): Members[number] =>
    entry[0] === 'repositories' ? [entry[0], jsonOf({ 7: { b: 'x', 3: 'y' } })] : entry,
  );
  const a = writeMembers(path.join(directory, 'a.tar'), smallImage('foo', '1', 'one'));
  const again = writeMembers(path.join(directory, 'b.tar'), smallImage('foo', '3', 'three'));
  const streamed = writeMembers(path.join(directory, 'c.tar'), classicMembers(null));
  const numbers = writeMembers(path.join(directory, 'd.tar'), later);
  const packed = writeGzip(path.join(directory, '0.tar.gz'), readFileSync(a));
  const small = writeZstd(path.join(directory, '1.tar.zst'), again);
  for (const images of [[a, again], [again, a], [streamed], [a, streamed, numbers], [again, packed], [a, small]]) {
    const { bytes, fileName } = await merged({ images, compat: 'seed' });
    t.ok(bytes.equals(seedMerge(t, images)), images.map((file) => path.basename(file)).join(' '));
    t.equal(fileName, 'merge-docker-images');
  }
});

t.test('parseRepositories() keeps the order of keys that are numbers', async (t) => {
  const text = '{\n  "7": {\n    "b": "x",\n    "3": "y"\n  },\n  "1": {}\n}\n';
  t.equal(formatRepositories(parseRepositories(Buffer.from(text))), text);
  t.throws(() => parseRepositories(Buffer.from('{"a":1}')), { code: 'E_MANIFEST' });
});
