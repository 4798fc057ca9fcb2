import { execFileSync } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import t from 'tap';
import { rootlayer, rootlayerOk } from '../helpers/command.ts';
import { JUDGES, judgeArchive, temporary } from '../helpers/image-judges.ts';
import { requires } from '../helpers/requires.ts';
import { BOTTOM, layerTar, TOP, tinyImage, writeDocker25Archive, writeDockerArchive } from '../root/store/tiny-image.ts';

requires(t, 'root', 'pigz', 'zstd', ...JUDGES);

const OWNED = layerTar({ 'home/': {}, 'home/me/': { uid: 1000, gid: 1001 }, 'home/me/file': { uid: 1000, gid: 1001, body: 'mine' } });

t.test(
  'rootlayer image merge gives one archive that skopeo, podman and umoci read: all images, all tags, owners kept (seed check 22)',
  async (t) => {
    const dir = temporary(t);
    const first = await writeDockerArchive(dir, tinyImage([BOTTOM, TOP]), ['tiny:1', 'tiny:one']);
    const second = await writeDocker25Archive(dir, tinyImage([BOTTOM, OWNED]), 'tiny:2');
    const third = path.join(dir, 'oci.tar');
    execFileSync('skopeo', ['copy', '-q', `docker-archive:${second}`, `oci-archive:${third}:other:3`]);
    const out = path.join(dir, 'merged.tar');
    const ended = await rootlayerOk(['image', 'merge', first, second, third, '-o', out, '--json']);
    t.match(JSON.parse(ended.stdout), { format: 'docker-archive', sizeBytes: statSync(out).size });
    const one = judgeArchive(t, out, 'tiny:1');
    t.same([...one.names].sort(), ['other:3', 'tiny:1', 'tiny:2', 'tiny:one'], 'names and tags');
    const two = judgeArchive(t, out, 'tiny:2');
    const { uid, gid } = statSync(path.join(two.rootfs, 'home/me/file'));
    t.same([uid, gid], [1000, 1001]);
    const layers = execFileSync('tar', ['-tf', out], { encoding: 'utf8' })
      .split('\n')
      .filter((name) => name.endsWith('/layer.tar'));
    t.equal(layers.length, 3, 'the layer that both have is there once');
  },
);

t.test('rootlayer image merge writes to standard output, compressed as asked', async (t) => {
  const dir = temporary(t);
  const image = await writeDockerArchive(dir, tinyImage([BOTTOM]), ['tiny:1']);
  const out = path.join(dir, 'out.tar.gz');
  await rootlayerOk(['image', 'merge', image, '--compressor', 'gz', '-o', out]);
  // podman 4.3, which Debian 12 has, loads no archive that is compressed with gzip.
  const plain = path.join(dir, 'plain.tar');
  writeFileSync(plain, gunzipSync(readFileSync(out)));
  t.same(judgeArchive(t, plain, 'tiny:1').names, ['tiny:1']);
  const piped = await rootlayerOk(['image', 'merge', image, '-o', '-']);
  t.match(piped.stdout, 'manifest.json');
});

t.test('rootlayer image merge says which file is no image', async (t) => {
  const ended = await rootlayer(['image', 'merge', '/nonexistent', '-o', path.join(temporary(t), 'out.tar')]);
  t.equal(ended.status, 125);
  t.equal(ended.stderr, 'rootlayer: Cannot read image "/nonexistent": there is no such file\n');
  const wrong = await rootlayer(['image', 'merge', '--compressor', 'xz', '-o', path.join(temporary(t), 'out.tar'), '/dev/null']);
  t.match(wrong.stderr, /\/compressor: /);
});
