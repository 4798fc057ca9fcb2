import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { buffer } from 'node:stream/consumers';
import t from 'tap';
import { openBaseImage } from '../../src/recipe/archive/base-archive.ts';
import { type PullImageArgs, prefetchImage, pullImage } from '../../src/recipe/archive/pull-image.ts';
import { rootlayer, rootlayerOk } from '../helpers/command.ts';
import { startFakeDaemon } from '../helpers/fake-daemon.ts';
import { startRegistry } from '../helpers/registry.ts';
import { requires } from '../helpers/requires.ts';
import { CONFIG, docker25Members, LOWER, scratch, UPPER, writeMembers } from '../unit/recipe/image-files.ts';
import { sha256 } from '../unit/store/archive-fixture.ts';
import { run } from './cli-process.ts';

requires(t, 'skopeo', 'docker-registry');

const signal = new AbortController().signal;
const directory = scratch(t);
const image = writeMembers(path.join(directory, 'image.tar'), docker25Members('test/image:1'));
mkdirSync(path.join(directory, 'tmp'));
process.env['TMPDIR'] = path.join(directory, 'tmp');
const registry = await startRegistry(t, path.join(directory, 'registry'));
await registry.push(`docker-archive:${image}`, 'test/image:1');
const imageName = `${registry.address}/test/image`;
const found = await prefetchImage({ imageName, imageTag: '1', tlsVerify: false }, { signal });
const args: PullImageArgs = { imageName, imageDigest: found.imageDigest, hash: found.hash, finalImageTag: '1', tlsVerify: false };

t.test('prefetchImage() gives what pullImage() wants', async (t) => {
  t.match(found.imageDigest, /^sha256:[0-9a-f]{64}$/);
  t.same([found.finalImageName, found.finalImageTag], [imageName, '1']);
  await using file = await pullImage(found, { signal });
  const bytes = await buffer(file.open(signal));
  t.equal(createHash('sha256').update(bytes).digest('hex'), found.sha256);
  t.equal(Buffer.from(found.hash.slice('sha256-'.length), 'base64').toString('hex'), found.sha256);
});

t.test('pullImage() gives an archive that serves as a base, under its final name and tag (seed check 7)', async (t) => {
  const out = path.join(scratch(t), 'out.tar');
  const { hash } = await prefetchImage(
    { imageName, imageTag: '1', finalImageName: 'my/name', finalImageTag: 'tag', tlsVerify: false },
    { signal },
  );
  const pulled = await rootlayerOk([
    'image',
    'pull',
    `${imageName}@${found.imageDigest}`,
    '--hash',
    hash,
    '--final-name',
    'my/name',
    '--final-tag',
    'tag',
    '--no-tls-verify',
    '-o',
    out,
  ]);
  t.match(pulled.stderr, /^written {2}.*out\.tar \(docker-archive, /);
  await using base = await openBaseImage(out, { name: 'my/name', tag: 'tag' }, signal);
  t.equal(base.configText, CONFIG.toString());
  t.same(
    base.layers.map(({ diffId }) => diffId),
    [LOWER, UPPER, LOWER].map((layer) => sha256(layer)),
  );
});

t.test('pullImage() refuses an archive with another hash, and leaves nothing', async (t) => {
  const wrong = Buffer.alloc(32, 1);
  await t.rejects(pullImage({ ...args, hash: `sha256-${wrong.toString('base64')}` }, { signal }), {
    code: 'E_DIGEST',
    message: `Cannot use pulled image "${imageName}": its archive has the hash ${found.hash}, want sha256-${wrong.toString('base64')}`,
  });
  t.same(readdirSync(path.join(directory, 'tmp')), []);
});

t.test('pullImage() says what the registry said', async (t) => {
  await t.rejects(pullImage({ ...args, imageDigest: `sha256:${'0'.repeat(64)}` }, { signal }), {
    code: 'E_REGISTRY',
    message: /manifest unknown/,
  });
  await t.rejects(pullImage({ ...args, tlsVerify: true }, { signal }), { code: 'E_REGISTRY', hint: /tlsVerify false/ });
  await t.rejects(pullImage({ ...args, imageName: '127.0.0.1:1/none' }, { signal }), { code: 'E_REGISTRY', message: /connection refused/ });
});

t.test('pullImage() ends when it is cancelled', async (t) => {
  await t.rejects(pullImage(args, { signal: AbortSignal.abort() }), { name: 'AbortError' });
  t.same(readdirSync(path.join(directory, 'tmp')), []);
});

t.test('pullImage() names the place of a wrong argument', async (t) => {
  const refused = async (change: object, message: RegExp): Promise<void> => {
    await t.rejects(pullImage({ ...args, ...change } as PullImageArgs, { signal }), { code: 'E_RECIPE', message });
  };
  await refused({ hash: null }, /\/sha256: it is missing, want the hash of the archive here or in "hash"/);
  await refused({ hash: 'x' }, /\/hash: want a sha256 in hex/);
  await refused({ sha256: '0'.repeat(64) }, /\/hash: it is another hash than "sha256"/);
  await refused({ imageName: 'a:b' }, /\/imageName: want the name of an image without tag and digest/);
  await refused({ imageDigest: 'sha256:1' }, /\/imageDigest: want "sha256:"/);
});

t.test('rootlayer image pull --prefetch prints digest and hashes', async (t) => {
  const ended = await rootlayerOk(['image', 'pull', '--prefetch', `${imageName}:1`, '--no-tls-verify', '--json']);
  t.same(JSON.parse(ended.stdout), found);
  const people = await rootlayerOk(['image', 'pull', '--prefetch', `${imageName}:1`, '--no-tls-verify']);
  t.match(people.stdout, `imageDigest     ${found.imageDigest}\n`);
});

t.test('rootlayer image pull without -o brings the image into the store', async (t) => {
  const daemon = await startFakeDaemon(t);
  const pulled = await run(daemon, [
    'image',
    'pull',
    `${imageName}@${found.imageDigest}`,
    '--sha256',
    found.sha256,
    '--final-tag',
    '1',
    '--no-tls-verify',
  ]);
  t.same([pulled.status, pulled.stderr], [0, '']);
  t.match(pulled.stdout, /^sha256:[0-9a-f]{64}\n$/);
  t.equal(JSON.parse((await run(daemon, ['image', 'ls', '--json'])).stdout).images.length, 1);
});

t.test('rootlayer image pull wants a digest', async (t) => {
  const ended = await rootlayer(['image', 'pull', `${imageName}:1`, '-o', path.join(directory, 'none.tar')]);
  t.equal(ended.status, 125);
  t.match(ended.stderr, /want name@sha256:.*\n.*--prefetch/s);
});
