import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import type { StreamLayeredImageArgs } from '../../../src/recipe/layered/args.ts';
import { streamLayeredImage } from '../../../src/recipe/layered/stream-layered-image.ts';
import { readTar } from '../../helpers/engine.ts';
import { repoRoot } from '../../helpers/repo.ts';
import { requires } from '../../helpers/requires.ts';
import { makeTinyStore, PATHS, quietContext, REFERENCES, STORE, type TinyStore } from '../../helpers/tiny-store.ts';
import { writeBase } from '../../helpers/tools-base.ts';

const ORDER = [PATHS.data, PATHS.lib, PATHS.app];

t.test('streamLayeredImage() gives the bytes of a writer in Python', async (t) => {
  if (!requires(t, 'python3', 'tar')) return;
  const store = makeTinyStore(t);
  const config = { Cmd: [`${PATHS.app}/bin/app`], Env: ['A=ä', 'B=\'"', 'A=2'], Labels: { z: '\u007f', a: '/' } };
  const mine = await archiveOf({ ...argsFor(store), config, uid: 8 ** 7, uname: 'nutzer-ä', gname: 'g'.repeat(40), maxLayers: 3 });
  const theirs = reference(store, {
    groups: [[PATHS.data], [PATHS.lib, PATHS.app]],
    config: { Cmd: config.Cmd, Env: config.Env, Labels: { a: '/', z: '\u007f' } },
    ...{ uid: 8 ** 7, uname: 'nutzer-ä', gname: 'g'.repeat(40) },
  });
  sameArchive(t, mine, theirs);
});

t.test('streamLayeredImage() on a base gives the bytes of a writer in Python', async (t) => {
  if (!requires(t, 'python3', 'tar')) return;
  const store = makeTinyStore(t);
  const base = path.join(store.dir, 'base.tar');
  writeFileSync(
    base,
    await archiveOf({ ...argsFor(store), name: 'base', contents: [], closure: [PATHS.tool], config: { Env: ['P=1', 'Q=1'] } }),
  );
  const config = { Env: ['Q=2', 'R=2'] };
  const mine = await archiveOf({ ...argsFor(store), fromImage: base, config, compat: 'seed', mtime: '2001-01-01' });
  sameArchive(t, mine, reference(store, { groups: ORDER.map((name) => [name]), config, base }));
});

t.test('streamLayeredImage() gives the same bytes each time its stream is opened', async (t) => {
  const store = makeTinyStore(t);
  await using image = await streamLayeredImage(argsFor(store), quietContext());
  const { signal } = new AbortController();
  t.equal(sha256(await buffer(image.open(signal))), sha256(await buffer(image.open(signal))));
});

t.test('streamLayeredImage() ends its stream with an error when a file has changed since', async (t) => {
  const store = makeTinyStore(t);
  await using image = await streamLayeredImage(argsFor(store), quietContext());
  writeFileSync(`${store.root}${PATHS.lib}/lib/lib.so`, Buffer.alloc(70_000, 8));
  await t.rejects(buffer(image.open(new AbortController().signal)), { code: 'E_CAPTURE_CHANGED', message: /its files changed meanwhile/ });
});

t.test('streamLayeredImage() says what it does in the words of the original', async (t) => {
  const store = makeTinyStore(t);
  const context = quietContext();
  await using image = await streamLayeredImage({ ...argsFor(store), maxLayers: 3 }, context);
  t.equal(image.layers.length, 3);
  t.strictSame(context.notes, [
    "No 'fromImage' provided",
    `Creating layer 1 from paths: ['${PATHS.data}']`,
    `Creating layer 2 from paths: ['${PATHS.lib}', '${PATHS.app}']`,
    'Creating layer 3 with customisation...',
    'Adding manifests...',
  ]);
});

t.test('streamLayeredImage() names the image in lower case, and tags it by its content', async (t) => {
  const store = makeTinyStore(t);
  await using image = await streamLayeredImage({ ...argsFor(store), name: 'Registry.example/Team/App', tag: null }, quietContext());
  t.equal(image.imageName, 'registry.example/team/app');
  t.match(image.imageTag, /^[0-9a-df-np-sv-z]{32}$/);
  t.equal(image.fileName, 'app.tar');
  await using other = await streamLayeredImage({ ...argsFor(store), tag: null, created: '1970-01-01T00:00:02Z' }, quietContext());
  t.not(other.imageTag, image.imageTag);
});

t.test('streamLayeredImage() overrides the name and tag with repoTag', async (t) => {
  const store = makeTinyStore(t);
  const members = readTar(await archiveOf({ ...argsFor(store), repoTag: 'other:1' }));
  t.match(JSON.parse(members.at(-1)?.body.toString() ?? ''), [{ RepoTags: ['other:1'] }]);
});

t.test('streamLayeredImage() without includeStorePaths has the layer of customisation alone', async (t) => {
  const store = makeTinyStore(t);
  await using image = await streamLayeredImage({ ...argsFor(store), includeStorePaths: false }, quietContext());
  t.strictSame(
    image.layers.map(({ kind }) => kind),
    ['customisation'],
  );
});

t.test('streamLayeredImage() takes in what the config mentions, and what that needs', async (t) => {
  const store = makeTinyStore(t);
  await using image = await streamLayeredImage(
    { ...argsFor(store), contents: [], config: { Cmd: [`${PATHS.lib}/bin/x`], Env: [`X=${STORE}/nothing-of-ours`] } },
    quietContext(),
  );
  t.strictSame(
    image.layers.filter(({ kind }) => kind === 'store').flatMap(({ paths }) => paths),
    [PATHS.data, PATHS.lib],
  );
});

t.test('streamLayeredImage() takes over the config of its base by a rule per field, or Env alone', async (t) => {
  const store = makeTinyStore(t);
  const base = path.join(store.dir, 'base.tar');
  const baseConfig = { Env: ['A=1', 'B=1'], User: '7', Entrypoint: ['/e'], Cmd: ['/c'], Labels: { a: '1', b: '1' } };
  writeFileSync(base, await archiveOf({ ...argsFor(store), name: 'base', config: baseConfig }));
  const own = { Env: ['B=2'], Labels: { b: '2' }, Entrypoint: ['/own'] };
  const configWith = async (inherit: 'all' | 'seed'): Promise<unknown> => {
    await using image = await streamLayeredImage({ ...argsFor(store), fromImage: base, config: own, inherit }, quietContext());
    return JSON.parse(image.configText).config;
  };
  t.strictSame(await configWith('all'), { Entrypoint: ['/own'], Env: ['A=1', 'B=2'], Labels: { a: '1', b: '2' }, User: '7' });
  t.strictSame(await configWith('seed'), { Entrypoint: ['/own'], Env: ['A=1', 'B=2'], Labels: { b: '2' } });
});

t.test('streamLayeredImage() takes a base that lists a layer twice, and stores it once', async (t) => {
  const store = makeTinyStore(t);
  const small = execFileSync('tar', ['-C', store.root, '-cf', '-', '.']);
  const other = execFileSync('tar', ['-C', store.dir, '-cf', '-', '--exclude=*.tar', 'root/nix/store']);
  const base = writeBase(store.dir, 'twice:1', [small, other, small]);
  const members = readTar(await archiveOf({ ...argsFor(store), fromImage: base, contents: [] })).map(({ header }) =>
    header.name.toString(),
  );
  const [{ Layers }] = JSON.parse(
    readTar(await archiveOf({ ...argsFor(store), fromImage: base, contents: [] }))
      .at(-1)
      ?.body.toString() ?? '',
  );
  t.equal(Layers.length, 4);
  t.equal(Layers[0], Layers[2]);
  t.equal(members.filter((name) => name === Layers[0]).length, 1);
  const asSeed = readTar(await archiveOf({ ...argsFor(store), fromImage: base, contents: [], compat: 'seed' }));
  t.equal(asSeed.filter(({ header }) => header.name.toString() === Layers[0]).length, 2);
});

t.test('streamLayeredImage() takes an OCI layout with compressed layers as its base', async (t) => {
  if (!requires(t, 'skopeo')) return;
  const store = makeTinyStore(t);
  const [base, layout, out] = ['base.tar', 'layout', 'out.tar'].map((name) => path.join(store.dir, name));
  writeFileSync(base ?? '', await archiveOf({ ...argsFor(store), name: 'base' }));
  execFileSync('skopeo', ['copy', '-q', '--dest-compress', `docker-archive:${base}`, `oci:${layout}:1`]);
  writeFileSync(out ?? '', await archiveOf({ ...argsFor(store), fromImage: layout ?? '', contents: [PATHS.tool] }));
  const { Layers, Config } = JSON.parse(execFileSync('tar', ['-xOf', out ?? '', 'manifest.json'], { encoding: 'utf8' }))[0];
  const { rootfs } = JSON.parse(execFileSync('tar', ['-xOf', out ?? '', Config], { encoding: 'utf8' }));
  t.strictSame(
    Layers,
    rootfs.diff_ids.map((id: string) => `${id.slice('sha256:'.length)}/layer.tar`),
  );
  t.doesNotThrow(() => execFileSync('skopeo', ['copy', '-q', `docker-archive:${out}`, `dir:${store.dir}/copy`], { stdio: 'pipe' }));
});

t.test('streamLayeredImage() refuses what it cannot make, naming the place', async (t) => {
  const store = makeTinyStore(t);
  const base = path.join(store.dir, 'base.tar');
  writeFileSync(base, await archiveOf({ ...argsFor(store), name: 'base', contents: [] }));
  const samples: [args: Record<string, unknown>, message: string | RegExp][] = [
    [
      { maxLayers: 1 },
      '/maxLayers: the maxLayers argument of dockerTools.buildLayeredImage function must be greather than 1 (current value: 1)',
    ],
    [
      { fromImage: base, maxLayers: 2 },
      "/maxLayers: Error: usedLayers 2 layers to store 'fromImage' and 'extraCommands', but only maxLayers=2 were allowed. At least 1 layer is required to store contents.",
    ],
    [{ closure: ['/opt/x'] }, '/closure/0: Expecting absolute paths from /nix/store, but got: "/opt/x"'],
    [{ closure: [`${STORE}/none`] }, `/closure/0: "${store.root}${STORE}/none": there is no such file or directory`],
    [{ contents: ['/no/such/path'] }, '/contents/0: "/no/such/path": there is no such file or directory'],
    [{ references: { [PATHS.app]: [`${STORE}/gone`] } }, /^\/references\/.*gone: ".*gone": there is no such file/],
    [{ config: { Env: 'A=1' } }, /^\/config\/Env: /],
    [{ config: { Envs: [] } }, '/config/Envs: there is no such member'],
    [{ maxLayer: 3 }, '/maxLayer: there is no such member, did you mean "maxLayers"?'],
    [{ created: 'yesterday' }, '/created: want a time such as "1970-01-01T00:00:01Z", or "now"'],
    [{ name: 3 }, '/name: it is a number, want a string'],
  ];
  for (const [args, message] of samples) {
    const given = { ...argsFor(store), ...args } as StreamLayeredImageArgs;
    const whole =
      typeof message === 'string' ? `Cannot use recipe: ${message}` : new RegExp(`Cannot use recipe: ${message.source.slice(1)}`);
    await t.rejects(streamLayeredImage(given, quietContext()), { code: 'E_RECIPE', message: whole }, JSON.stringify(args));
  }
});

function argsFor(store: TinyStore): StreamLayeredImageArgs {
  return { name: 'app', tag: '1', architecture: 'amd64', storeRoot: store.root, contents: [PATHS.app], references: REFERENCES };
}

async function archiveOf(args: StreamLayeredImageArgs): Promise<Buffer> {
  await using image = await streamLayeredImage(args, quietContext());
  return await buffer(image.open(new AbortController().signal));
}

/** The same image by Python and GNU tar, from links that `ln` made. */
function reference(store: TinyStore, own: { groups: string[][]; config: unknown } & Record<string, unknown>): Buffer {
  const links = path.join(store.dir, 'links');
  rmSync(links, { recursive: true, force: true });
  for (const dir of ['', '/bin', '/etc', '/var']) mkdirSync(links + dir, { mode: 0o755 });
  for (const file of ['/bin/app', '/etc/empty']) symlinkSync(PATHS.app + file, links + file);
  const customisation = path.join(store.dir, 'customisation.tar');
  const tar = ['--sort=name', '--numeric-owner', '--owner=0', '--group=0', '--mtime=@315532800', '--hard-dereference'];
  execFileSync('tar', [...tar, '-cf', customisation, '-C', links, '.']);
  const conf = path.join(store.dir, 'conf.json');
  const epoch = '1970-01-01T00:00:01+00:00';
  const defaults = { uid: 0, gid: 0, uname: 'root', gname: 'root', architecture: 'amd64', repo_tag: 'app:1', created: epoch, mtime: epoch };
  const names = { store_root: store.root, store_dir: STORE, customisation, customisation_name: 'app-customisation-layer', base: null };
  writeFileSync(conf, JSON.stringify({ ...defaults, ...names, ...own }));
  return execFileSync('python3', [path.join(repoRoot, 'test/fixtures/layered/reference.py'), conf], {
    maxBuffer: 64 * 1024 * 1024,
    env: { PATH: process.env['PATH'], LC_ALL: 'C.UTF-8' },
  });
}

/** Member by member first, for a message that says where they part. */
function sameArchive(t: Test, mine: Buffer, theirs: Buffer): void {
  const members = (archive: Buffer): unknown[] =>
    readTar(archive).map(({ header, body }) => [
      header.name.toString(),
      header.mode,
      header.mtimeSec,
      body.length < 4096 ? body.toString() : sha256(body),
    ]);
  t.strictSame(members(mine), members(theirs));
  t.equal(sha256(mine), sha256(theirs));
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
