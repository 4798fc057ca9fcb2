import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import { tarsumOf } from '../../../src/core/tarsum.ts';
import { type BuildImageArgs, buildImage } from '../../../src/recipe/build/build-image.ts';
import { buildImageArgsSchema } from '../../../src/recipe/build/build-image-args.ts';
import { goArchitecture } from '../../../src/store/platform.ts';
import { readTar } from '../../helpers/engine.ts';
import { makeTinyStore, PATHS, quietContext, REFERENCES } from '../../helpers/tiny-store.ts';
import { layerTar } from '../../root/store/tiny-image.ts';
import { configFor, jsonOf, sha256 } from '../store/archive-fixture.ts';
import { CONFIG, classicMembers, docker25Members, LOWER, ociMembers, scratch, skopeoMembers, UPPER, writeMembers } from './image-files.ts';

const signal = new AbortController().signal;

type Member = { mode: number; body: Buffer };

/** What was built: the members of the archive, and its documents parsed. */
type Read = {
  names: string[];
  members: Map<string, Member>;
  config: {
    created: string;
    architecture: string;
    os: string;
    config: Record<string, unknown>;
    rootfs: { diff_ids: string[] };
    history: object[];
  };
  manifest: { Config: string; RepoTags: string[]; Layers: string[] };
  repositories: unknown;
  /** The new layer, and the JSON beside it. */
  layer: ReturnType<typeof readTar>;
  json: Record<string, unknown>;
  notes: string[];
  imageTag: string;
};

async function build(args: BuildImageArgs): Promise<Read> {
  const context = quietContext();
  await using image = await buildImage({ compressor: 'none', ...args }, context);
  const archive = readTar(await buffer(image.open(signal)));
  const members = new Map(archive.map(({ header, body }): [string, Member] => [header.name.toString(), { mode: header.mode, body }]));
  const json = (name: string): unknown => JSON.parse(members.get(name)?.body.toString() ?? '');
  const [manifest] = json('manifest.json') as [Read['manifest']];
  const top = manifest.Layers.at(-1) ?? '';
  return {
    ...{ names: [...members.keys()], members, manifest, notes: context.notes, imageTag: image.imageTag },
    config: json(manifest.Config) as Read['config'],
    repositories: json('repositories'),
    layer: readTar(members.get(top)?.body ?? Buffer.alloc(0)),
    json: json(path.posix.join(path.posix.dirname(top), 'json')) as Record<string, unknown>,
  };
}

function layerNames({ layer }: Read): string[] {
  return layer.map(({ header }) => header.name.toString());
}

/** A directory to copy: files by name, links as `-> target`. */
function itemOf(t: Test, files: Record<string, string>): string {
  const item = path.join(scratch(t), 'item');
  mkdirSync(item);
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(item, name)), { recursive: true });
    if (text.startsWith('-> ')) symlinkSync(text.slice(3), path.join(item, name));
    else writeFileSync(path.join(item, name), text);
  }
  return item;
}

function baseOf(t: Test, members = classicMembers(['base:1'])): string {
  return writeMembers(path.join(scratch(t), 'base.tar'), members);
}

t.test('buildImage() gives a docker-archive of one layer with its documents, all read-only', async (t) => {
  const image = await build({
    name: 'Registry.example/Path/Name',
    tag: 'v1',
    copyToRoot: itemOf(t, { 'a/b': 'text' }),
    config: { Cmd: ['/a/b'] },
  });
  const [id = ''] = image.manifest.Layers.map((name) => path.posix.dirname(name));
  t.same(
    new Set(image.names),
    new Set(['./', `${id}/`, `${id}/VERSION`, `${id}/json`, `${id}/layer.tar`, image.manifest.Config, 'manifest.json', 'repositories']),
  );
  t.same(image.manifest.RepoTags, ['registry.example/path/name:v1'], 'the name is lower-cased (seed check 20)');
  t.same(image.repositories, { 'registry.example/path/name': { v1: id } });
  t.same([...new Set([...image.members.values()].map(({ mode }) => mode & 0o222))], [0]);
  t.same(layerNames(image), ['./', 'a/', 'a/b']);
  t.same(
    image.layer.map(({ header }) => [header.mode, header.uid, header.mtimeSec]),
    [
      [0o755, 0, 315_532_800],
      [0o755, 0, 315_532_800],
      [0o644, 0, 315_532_800],
    ],
  );
  t.same(image.config.config, { Cmd: ['/a/b'] });
  t.notOk('preferLocalBuild' in image.config, 'what the seed leaves in by mistake');
  t.equal(`${sha256(image.members.get(image.manifest.Config)?.body ?? '').slice(7)}.json`, image.manifest.Config);
});

t.test('buildImage() names the layer by its JSON and gives its true size, digest and checksum', async (t) => {
  const image = await build({ name: 'n', copyToRoot: itemOf(t, { f: '1' }) });
  const tar = image.members.get(image.manifest.Layers[0] ?? '')?.body ?? Buffer.alloc(0);
  t.same(image.config.rootfs.diff_ids, [sha256(tar)]);
  t.match(image.json, { id: path.posix.dirname(image.manifest.Layers[0] ?? ''), Size: tar.length, checksum: await tarsumOf([tar]) });
});

t.test('buildImage() without a tag makes one of 32 characters that stands for the content (seed check 3)', async (t) => {
  const copyToRoot = itemOf(t, { f: '1' });
  const [one, same, other] = [await build({ name: 'n', copyToRoot }), await build({ name: 'n', copyToRoot }), await build({ name: 'n' })];
  t.match(one.imageTag, /^[0-9a-z]{32}$/);
  t.same(one.manifest.RepoTags, [`n:${one.imageTag}`]);
  t.equal(one.imageTag, same.imageTag);
  t.not(one.imageTag, other.imageTag);
});

t.test('buildImage() is from 1970 unless it is told otherwise (seed check 2)', async (t) => {
  t.equal((await build({ name: 'n' })).config.created, '1970-01-01T00:00:01Z');
  t.equal((await build({ name: 'n', created: '2020-02-03T04:05:06+02:00' })).config.created, '2020-02-03T04:05:06+02:00');
  const before = Math.floor(Date.now() / 1000) * 1000;
  const { created } = (await build({ name: 'n', created: 'now' })).config;
  t.match(created, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$/);
  t.ok(Date.parse(created) >= before);
});

t.test('buildImage() is for this machine, for its base’s, or for what it is told (seed check 18)', async (t) => {
  t.equal((await build({ name: 'n' })).config.architecture, goArchitecture());
  t.equal((await build({ name: 'n', architecture: 'arm64' })).config.architecture, 'arm64');
  const foreign = configFor([LOWER], { architecture: 'riscv64' });
  const base = baseOf(t, [
    ['l/layer.tar', LOWER],
    ['c.json', foreign],
    ['manifest.json', jsonOf([{ Config: 'c.json', RepoTags: null, Layers: ['l/layer.tar'] }])],
  ]);
  t.equal((await build({ name: 'n', fromImage: base })).config.architecture, 'riscv64');
});

t.test('buildImage() takes over the base’s config by a rule per field, Env by name (seed check 15)', async (t) => {
  const base = baseWith(t, {
    Env: ['FROM_PARENT=true', 'LAST_LAYER=parent'],
    User: 'web',
    Cmd: ['/old'],
    Labels: { a: '1' },
    WorkingDir: '/w',
  });
  const { config } = await build({
    name: 'n',
    fromImage: base,
    config: { Env: ['FROM_CHILD=true', 'LAST_LAYER=child'], Labels: { b: '2' } },
  });
  t.same(config.config, {
    Env: ['FROM_PARENT=true', 'LAST_LAYER=child', 'FROM_CHILD=true'],
    User: 'web',
    Cmd: ['/old'],
    Labels: { a: '1', b: '2' },
    WorkingDir: '/w',
  });
});

t.test('buildImage() with inherit "seed" takes over Env alone', async (t) => {
  const base = baseWith(t, { Env: ['A=1'], User: 'web', Cmd: ['/old'] });
  const { config } = await build({ name: 'n', fromImage: base, inherit: 'seed', config: { Env: ['B=2'] } });
  t.same(config.config, { Env: ['A=1', 'B=2'] });
});

function baseWith(t: Test, config: object): string {
  const text = configFor([LOWER], { config });
  return baseOf(t, [
    ['l/layer.tar', LOWER],
    ['c.json', text],
    ['manifest.json', jsonOf([{ Config: 'c.json', RepoTags: ['b:1'], Layers: ['l/layer.tar'] }])],
  ]);
}

for (const [form, members] of [
  ['of docker save', classicMembers(['base:1'])],
  ['of skopeo', skopeoMembers('base:1')],
  ['of Docker 25', docker25Members('base:1')],
  ['OCI', ociMembers('base:1')],
] as const) {
  t.test(`buildImage() puts a layer on a base ${form}, each layer once and listed as often as it was (seed check 14)`, async (t) => {
    const image = await build({ name: 'n', fromImage: baseOf(t, members), copyToRoot: itemOf(t, { f: '1' }) });
    const own = image.manifest.Layers.at(-1) ?? '';
    const [lower, upper] = [LOWER, UPPER].map((layer) => `${sha256(layer).slice(7)}/layer.tar`);
    t.same(image.manifest.Layers, [lower, upper, lower, own]);
    t.same(image.config.rootfs.diff_ids, [LOWER, UPPER, LOWER, image.members.get(own)?.body ?? ''].map(sha256));
    t.equal(image.config.history.length, 4);
    t.ok(image.members.get(lower ?? '')?.body.equals(LOWER));
    t.same(
      image.names.filter((name) => /^(?:oci-layout|index\.json|blobs)/.test(name)),
      [],
      'no half of another format is left',
    );
    t.equal(image.json['parent'], sha256(CONFIG).slice(7));
  });
}

t.test('buildImage() chooses the base by its exact name and tag', async (t) => {
  const other = configFor([UPPER], { config: { Env: ['WHICH=other'] } });
  const base = baseOf(t, [
    ...classicMembers(['foo:latest']).filter(([name]) => name !== 'manifest.json'),
    ['other.json', other],
    [
      'manifest.json',
      jsonOf([
        {
          Config: 'config.json',
          RepoTags: ['foo:latest'],
          Layers: [`${'1'.repeat(64)}/layer.tar`, `${'2'.repeat(64)}/layer.tar`, `${'1'.repeat(64)}/layer.tar`],
        },
        { Config: 'other.json', RepoTags: ['oo:lat'], Layers: [`${'2'.repeat(64)}/layer.tar`] },
      ]),
    ],
  ]);
  const chosen = await build({ name: 'n', fromImage: base, fromImageName: 'oo', fromImageTag: 'lat' });
  t.same(chosen.config.config, { Env: ['WHICH=other'] });
  const first = await build({ name: 'n', fromImage: base });
  t.same(first.config.config, { Env: ['A=1'] });
  t.ok(first.notes.includes("From-image name or tag wasn't set. Reading the first ID."));
  await t.rejects(build({ name: 'n', fromImage: base, fromImageName: 'o', fromImageTag: 'lat' }), { code: 'E_NOT_FOUND' });
});

t.test('buildImage() takes bare paths, one path for a list, and helpers (seed checks 24 and 25)', async (t) => {
  const item = itemOf(t, { 'etc/x': '1' });
  const hosts = path.join(scratch(t), 'hosts');
  writeFileSync(hosts, '127.0.0.1 localhost\n');
  const image = await build({ name: 'n', copyToRoot: [item, hosts, { function: 'binSh', bash: '/bin/bash' }] });
  t.same(layerNames(image), ['./', 'bin/', 'bin/sh', 'etc/', 'etc/x', 'hosts']);
  t.same(layerNames(await build({ name: 'n', copyToRoot: item })), ['./', 'etc/', 'etc/x']);
});

t.test('buildImage() gives all files to uid and gid (seed check 27)', async (t) => {
  const { layer } = await build({ name: 'n', copyToRoot: itemOf(t, { f: '1' }), uid: 1000, gid: 100 });
  t.same(
    layer.map(({ header }) => [header.uid, header.gid]),
    [
      [1000, 100],
      [1000, 100],
    ],
  );
});

t.test('buildImage() puts a closure behind the layer, links as they are, and nothing else (seed checks 5, 6, 17, 19)', async (t) => {
  const store = makeTinyStore(t);
  const args = { name: 'n', storeRoot: store.root, references: REFERENCES };
  const image = await build({ ...args, copyToRoot: itemOf(t, { 'bin/app': `-> ${PATHS.app}/bin/app` }) });
  const names = layerNames(image);
  const found = new Set(names.filter((name) => /^nix\/store\/./.test(name)).map((name) => `/${name.split('/').slice(0, 3).join('/')}`));
  t.same(found, new Set([PATHS.app, PATHS.lib, PATHS.data]), 'what the link leads to, with what that needs');
  const modes = new Map(image.layer.map(({ header }) => [header.name.toString(), header.mode]));
  t.same([modes.get('nix/'), modes.get('nix/store/')], [0o755, 0o755]);
  const link = image.layer.find(({ header }) => header.name.toString() === `${PATHS.lib.slice(1)}/lib/lib-current.so`);
  t.same([link?.header.type, link?.header.linkName.toString()], ['symlink', 'lib.so']);
  const named = layerNames(await build({ ...args, config: { Cmd: [`${PATHS.lib}/lib/lib.so`] } }));
  t.ok(named.includes(`${PATHS.lib.slice(1)}/lib/lib.so`) && !named.includes(`${PATHS.app.slice(1)}/bin/app`), 'what the config names');
  const alias = await build({ ...args, closure: [PATHS.alias] });
  const entry = alias.layer.find(({ header }) => header.name.toString() === PATHS.alias.slice(1));
  t.equal(entry?.header.type, 'symlink', 'a store path that is a link stays one');
  t.equal(new Set(names).size, names.length, 'no name twice');
});

t.test('buildImage() with includeNixDB registers the store paths of the contents', async (t) => {
  const store = makeTinyStore(t);
  const item = path.join(store.root, PATHS.app);
  const args = { name: 'n', storeRoot: '', storeDir: path.join(store.root, 'nix/store'), includeNixDB: true };
  const names = layerNames(await build({ ...args, copyToRoot: item }));
  t.ok(names.includes('nix/var/nix/db/db.sqlite'));
  t.ok(names.includes(`nix/var/nix/gcroots/docker/${path.basename(PATHS.app)}`));
});

t.test('buildImage() leaves out of a closure what the base has', async (t) => {
  const store = makeTinyStore(t);
  const file = `${PATHS.data.slice(1)}/share/data.txt`;
  const layer = layerTar({ 'nix/': {}, 'nix/store/': {}, [file]: { body: 'data\n' } });
  const base = baseOf(t, [
    ['l/layer.tar', layer],
    ['c.json', configFor([layer])],
    ['manifest.json', jsonOf([{ Config: 'c.json', RepoTags: null, Layers: ['l/layer.tar'] }])],
  ]);
  const names = layerNames(await build({ name: 'n', storeRoot: store.root, fromImage: base, closure: [PATHS.data] }));
  t.notOk(names.includes(file) || names.includes('nix/store/'));
  t.ok(names.includes(`${PATHS.data.slice(1)}/share/${'long-'.repeat(30)}name`));
});

t.test('buildImage() refuses what contradicts itself or is not there, naming its place', async (t) => {
  const dir = scratch(t);
  const cases: [BuildImageArgs, RegExp][] = [
    [
      { name: 'n', contents: dir, copyToRoot: dir },
      /^Cannot use recipe: \/contents: in docker image n: You can not specify both contents and copyToRoot\.$/,
    ],
    [{ name: 'n', runAsRoot: 'true', uid: 0 }, /\/uid: it cannot be given together with runAsRoot/],
    [{ name: 'n', runAsRoot: 'true', gid: 5 }, /\/gid: it cannot be given together with runAsRoot/],
    [{ name: 'n', copyToRoot: [dir, `${dir}/missing`] }, /\/copyToRoot\/1: there is no file or directory/],
    [{ name: 'n', contents: `${dir}/missing` }, /\/contents: there is no file or directory/],
    [{ name: 'n', fromImage: `${dir}/missing.tar` }, /\/fromImage: there is no file/],
    [{ name: 'n', closure: ['/elsewhere/x'] }, /\/closure\/0: Expecting absolute paths from \/nix\/store/],
    [{ name: 'n', closure: ['/nix/store/missing-path'] }, /\/closure\/0: there is no file or directory/],
    [{ name: 'n', config: { Nonsense: 1 } }, /\/config\/Nonsense: there is no such member/],
    [{ name: 'n', config: { Env: ['x'] } }, /\/config\/Env\/0: /],
    [{ name: 'a b' }, /\/name: /],
    [{ name: 'n', compressor: 'xz' } as unknown as BuildImageArgs, /\/compressor: /],
    [{ name: 'n', diskSize: 'big' } as unknown as BuildImageArgs, /\/diskSize: it is a string/],
    [{ name: 'n', copyRoot: 'x' } as unknown as BuildImageArgs, /\/copyRoot: there is no such member, did you mean "copyToRoot"\?/],
  ];
  for (const [args, message] of cases) await t.rejects(build(args), { code: 'E_RECIPE', message }, String(message));
});

t.test('buildImage() warns of the older name of copyToRoot, and takes it', async (t) => {
  const image = await build({ name: 'n', contents: itemOf(t, { f: '1' }) });
  t.ok(image.notes.includes('warning: in docker image n: The contents parameter is deprecated. Change to copyToRoot.'));
  t.same(layerNames(image), ['./', 'f']);
});

t.test('buildImage() fails when a file changes before the archive is written', async (t) => {
  const item = itemOf(t, { f: 'before' });
  await using image = await buildImage({ name: 'n', copyToRoot: item, compressor: 'none' }, quietContext());
  writeFileSync(path.join(item, 'f'), 'behind');
  await t.rejects(buffer(image.open(signal)), { code: 'E_CAPTURE_CHANGED' });
});

t.test('buildImageArgsSchema has the defaults of dockerTools', async (t) => {
  t.match(buildImageArgsSchema.parse({ name: 'n' }), {
    tag: null,
    fromImage: null,
    copyToRoot: null,
    keepContentsDirlinks: false,
    config: null,
    extraCommands: '',
    runAsRoot: null,
    diskSize: 1024,
    buildVMMemorySize: 512,
    created: '1970-01-01T00:00:01Z',
    compressor: 'gz',
    includeNixDB: false,
  });
});
