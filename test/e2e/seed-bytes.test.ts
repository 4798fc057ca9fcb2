import { spawnSync } from 'node:child_process';
import { chmodSync, createWriteStream, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import t, { type Test } from 'tap';
import { sessionOf } from '../../src/api/embedded.ts';
import type { Session } from '../../src/api/session.ts';
import { type BuildImageArgs, type BuiltImage, buildImage } from '../../src/recipe/build/build-image.ts';
import { mkPureLayer } from '../../src/recipe/build/pure-layer.ts';
import { mkRootLayer } from '../../src/recipe/build/root-layer.ts';
import { jqText } from '../../src/recipe/build/seed-json.ts';
import type { RecipeContext } from '../../src/recipe/recipe-context.ts';
import { hostTools } from '../../src/recipe/script/tools-image-host.ts';
import { packTree } from '../../src/recipe/tree/pack.ts';
import { Tree } from '../../src/recipe/tree/tree.ts';
import { closeTestEngine, openTestEngine, ROOT, readTar } from '../helpers/engine.ts';
import { repoRoot } from '../helpers/repo.ts';
import { requires } from '../helpers/requires.ts';
import { MAIN } from './cli-process.ts';

requires(t, 'tar', 'rsync', 'jshon', 'jq', 'pigz', 'zstd');

const signal = new AbortController().signal;
const dir = mkdtempSync(path.join(tmpdir(), 'seed-bytes-'));
t.teardown(() => {
  spawnSync('chmod', ['-R', 'u+rwX', dir]);
  rmSync(dir, { recursive: true, force: true });
});

function contextOf(session: Session | null): RecipeContext {
  return {
    signal,
    note: () => {},
    progress: () => {},
    session: async () => {
      if (session === null) throw new Error('no script is to run here');
      return session;
    },
  };
}

/** Text for a file, `-> target` for a link, null for a directory. */
type Spec = Record<string, string | null>;

function makeItem(name: string, spec: Spec): string {
  const root = path.join(dir, name);
  mkdirSync(root);
  for (const [file, content] of Object.entries(spec)) {
    const full = path.join(root, file);
    mkdirSync(content === null ? full : path.dirname(full), { recursive: true });
    if (content?.startsWith('-> ')) symlinkSync(content.slice(3), full);
    else if (content !== null) writeFileSync(full, content);
  }
  return root;
}

const ITEM = makeItem('item', {
  'bin/tool': '#!/bin/sh\necho tool\n',
  'lib/data': 'x'.repeat(70_000),
  'linked-lib': '-> lib',
  'etc/link': '-> ../bin/tool',
  'etc/broken': '-> /nowhere',
  'with space/and more': 'text',
  [`long/${'n'.repeat(120)}`]: 'long name',
  'long/link': `-> ${'t'.repeat(130)}`,
  empty: null,
});
chmodSync(path.join(ITEM, 'bin/tool'), 0o755);
chmodSync(path.join(ITEM, 'empty'), 0o500);
chmodSync(ITEM, 0o555);
const OTHER = makeItem('other item', { 'bin/second': 'second\n', 'etc/conf': 'conf\n', 'linked-lib/third': 'third\n' });

const CONFIG = {
  WorkingDir: '/a/b',
  Cmd: ['/bin/tool', '"quoted"'],
  Env: ['OWN=1', 'SHARED=own'],
  Labels: { 'z.label': 'ü', 'a/label': 'x\ty' },
  ExposedPorts: { '80/tcp': {} },
};

type Image = Pick<BuildImageArgs, 'name' | 'copyToRoot' | 'keepContentsDirlinks' | 'config'> & {
  fromImage?: string;
  runAsRoot?: string;
  extraCommands?: string;
  closure?: string[];
  storeDir?: string;
  uid?: number;
  gid?: number;
};

let runs = 0;

/** Follows the seed's steps for an image; gives the directory with what they made. */
function follow(image: Image, tag: string): string {
  runs += 1;
  const work = path.join(dir, `steps-${runs}`);
  const setting = (name: string, text: string): string => {
    const file = path.join(dir, `${name}-${runs}`);
    writeFileSync(file, text);
    return file;
  };
  const items = image.copyToRoot as string[] | undefined;
  const env = {
    PATH: process.env['PATH'],
    HOME: '/root',
    NAME: image.name.toLowerCase(),
    TAG: tag,
    BASE_JSON: setting('base-json', JSON.stringify(baseJsonOf(image))),
    ITEMS: setting('items', (items ?? []).map((item) => `${item}\n`).join('')),
    DIRLINKS: image.keepContentsDirlinks === true ? 'K' : 'k',
    FROM: image.fromImage ?? '',
    RUN_AS_ROOT: image.runAsRoot === undefined ? '' : setting('run-as-root', image.runAsRoot),
    EXTRA: image.extraCommands === undefined ? '' : setting('extra', image.extraCommands),
    OWNER: String(image.uid ?? 0),
    GROUP: String(image.gid ?? 0),
    CLOSURE: setting('closure', (image.closure ?? []).map((name) => `${name}\n`).join('')),
    STORE_DIR: image.storeDir ?? '/nix/store',
    TARSUM: `${process.execPath} ${MAIN} layer tarsum -`,
  };
  const script = path.join(repoRoot, 'test/fixtures/seed-steps.sh');
  const [program, ...args] = image.runAsRoot === undefined ? ['bash', script, work] : ['unshare', '--mount', 'bash', script, work];
  const ran = spawnSync(program ?? '', args, { env, encoding: 'utf8' });
  if (ran.status !== 0) throw new Error(`the seed's steps end with ${ran.status}: ${ran.stderr}`);
  return work;
}

/** As Nix prints it: keys in order at every level. */
function baseJsonOf({ config }: Image): Record<string, unknown> {
  const sorted = (value: unknown): unknown => {
    if (Array.isArray(value) || typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(
      Object.entries(value)
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([key, member]) => [key, sorted(member)]),
    );
  };
  const created = '1970-01-01T00:00:01Z';
  return { architecture: 'amd64', config: sorted(config ?? null), created, os: 'linux', preferLocalBuild: true };
}

/** Builds an image as the seed would, follows the seed's steps, and compares all that both made. */
async function compare(t: Test, image: Image, session: Session | null = null, tag?: string): Promise<string> {
  const args: BuildImageArgs = {
    ...image,
    compat: 'seed',
    architecture: 'amd64',
    compressor: 'none',
    ...(tag === undefined ? {} : { tag }),
  };
  await using built = await buildImage(args, contextOf(session));
  const work = follow(image, built.imageTag);
  const bytes = await buffer(built.open(signal));
  const wanted = readFileSync(path.join(work, 'image.tar'));
  t.same(contentsOf(bytes), contentsOf(wanted), 'what is in the two archives');
  t.ok(bytes.equals(wanted), 'the archives, byte for byte');
  await compareCompressed(t, args, built, work, session);
  return work;
}

async function compareCompressed(t: Test, args: BuildImageArgs, built: BuiltImage, work: string, session: Session | null): Promise<void> {
  if (args.runAsRoot !== undefined) return;
  const archive = path.join(work, 'image.tar');
  for (const [compressor, ending, program] of [
    ['gz', '.gz', ['pigz', '-p3', '-nTR']],
    ['zstd', '.zst', ['zstd', '-q', '-T3']],
  ] as const) {
    const [name, ...options] = program;
    const packed = spawnSync(name, options, { input: readFileSync(archive), maxBuffer: 2 ** 28 }).stdout;
    await using image = await buildImage({ ...args, compressor, tag: built.imageTag }, contextOf(session));
    t.equal(image.fileName, `${built.fileName}${ending}`);
    t.ok((await buffer(image.open(signal))).equals(packed), `${compressor}: byte for byte`);
  }
}

/** Names, modes and documents of an archive, so that a difference can be read. */
function contentsOf(archive: Buffer): unknown[] {
  return readTar(archive).map(({ header, body }) => {
    const name = header.name.toString('latin1');
    const isText = !name.endsWith('.tar') && body.length < 100_000;
    return [name, header.type, header.mode.toString(8), isText ? body.toString('utf8') : layerLines(body)];
  });
}

function layerLines(layer: Buffer): unknown {
  if (layer.length === 0 || layer.length > 4_000_000) return layer.length;
  return readTar(layer).map(({ header, body }) => [
    header.name.toString('latin1'),
    header.type,
    header.mode.toString(8),
    header.uid,
    header.gid,
    header.linkName.toString('latin1'),
    body.length,
    header.mtimeSec,
  ]);
}

t.test('buildImage() with compat "seed": a pure image of several items has the bytes of the seed, with each compressor', async (t) => {
  await compare(t, { name: 'registry.example/Path/Pure', copyToRoot: [ITEM, OTHER], config: CONFIG });
});

t.test('buildImage() with compat "seed": links to directories kept, an owner, no config', async (t) => {
  await compare(t, { name: 'owned', copyToRoot: [ITEM, OTHER], keepContentsDirlinks: true, uid: 4321, gid: 54_321 }, null, 'v1');
});

t.test('buildImage() with compat "seed": an image of nothing', async (t) => {
  await compare(t, { name: 'nothing' }, null, 'empty');
});

/** Layers of a base by name, from the files of a directory; the tools of this machine are one of them. */
async function makeBase(name: string, layers: readonly string[], env: readonly string[]): Promise<string> {
  const root = path.join(dir, name);
  mkdirSync(root);
  const tools = await hostTools(signal);
  t.ok(tools, 'this machine has bash');
  for (const layer of new Set(layers)) {
    mkdirSync(path.join(root, layer));
    const file = path.join(root, layer, 'layer.tar');
    if (layer.startsWith('tools')) {
      if (layer === 'tools-bare') for (const gone of ['tmp', 'dev', 'sys']) tools?.remove(Buffer.from(gone));
      const tar = packTree(tools ?? new Tree(), { format: 'gnu', mtimeSec: 0 }, signal);
      await pipeline(Readable.from(tar), createWriteStream(file));
    } else
      run('tar', [
        '-C',
        makeItem(`${name}-${layer}`, BASE_LAYERS[layer] ?? {}),
        '--sort=name',
        '--owner=0',
        '--group=0',
        '--mtime=@99',
        '-cf',
        file,
        '.',
      ]);
    writeFileSync(path.join(root, layer, 'VERSION'), '1.0');
  }
  const diffIds = layers.map((layer) => `sha256:${run('sha256sum', [path.join(root, layer, 'layer.tar')]).slice(0, 64)}`);
  const config = {
    architecture: 'amd64',
    os: 'linux',
    config: { Env: env, User: 'nobody' },
    rootfs: { type: 'layers', diff_ids: diffIds },
  };
  writeFileSync(path.join(root, 'c0ffee.json'), JSON.stringify(config));
  writeFileSync(path.join(root, 'repositories'), '{"base":{"1":"x"}}');
  const manifest = [{ Config: 'c0ffee.json', RepoTags: ['base:1'], Layers: layers.map((layer) => `${layer}/layer.tar`) }];
  writeFileSync(path.join(root, 'manifest.json'), jqText(manifest));
  const archive = path.join(dir, `${name}.tar`);
  run('tar', ['-C', root, '-cf', archive, '.']);
  return archive;
}

function run(program: string, args: readonly string[]): string {
  const ran = spawnSync(program, args, { encoding: 'utf8' });
  if (ran.status !== 0) throw new Error(ran.stderr);
  return ran.stdout;
}

const BASE_LAYERS: Record<string, Spec> = {
  first: { 'data/one': 'first', 'data/two': 'first', 'data/gone': 'first', 'old/a/b': 'first', 'srv/keep': 'kept' },
  second: { 'data/two': 'second', 'data/.wh.gone': '', 'opt/second': 'second', 'srv/also': 'kept' },
};

const ENV = ['PATH=/bin', 'SHARED=base'];

t.test('buildImage() with compat "seed": a closure is put behind the layer, less what base and layer have', async (t) => {
  const storeDir = path.join(dir, 'store');
  const one = makeItem('store', { 'one/bin/x': 'x\n', 'one/with space/y': 'y\n', 'two/z': 'z\n', 'two/link': '-> ../one/bin/x' });
  chmodSync(path.join(one, 'one/bin'), 0o555);
  const image = { name: 'closed', copyToRoot: [ITEM], closure: [`${storeDir}/two`, `${storeDir}/one`], storeDir };
  await compare(t, image, null, 'c');
  const base = await makeBase('closure-base', ['first', 'second', 'first'], []);
  await compare(t, { ...image, fromImage: base, copyToRoot: [OTHER] }, null, 'c2');
});

t.test('buildImage() with compat "seed": a pure image on a base of several layers, one of them twice', async (t) => {
  const fromImage = await makeBase('pure-base', ['first', 'second', 'first'], ENV);
  await compare(t, { name: 'on-base', fromImage, copyToRoot: [OTHER], config: CONFIG });
});

t.test('mkPureLayer() with compat "seed" gives the three files of the seed', async (t) => {
  const image = { name: 'layer', copyToRoot: [ITEM, OTHER], config: CONFIG };
  await using made = await mkPureLayer({ ...withoutConfig(image), baseJson: baseJsonOf(image), compat: 'seed' }, contextOf(null));
  const work = follow(image, 'x');
  t.equal(made.fileName, 'docker-layer-layer');
  await compareDirectory(t, made.tree, path.join(work, 'layer'));
});

async function compareDirectory(t: Test, tree: Tree, directory: string): Promise<void> {
  const members = readTar(await buffer(packTree(tree, { format: 'plain' }, signal))).filter(({ header }) => header.type === 'file');
  t.same(members.map(({ header }) => header.name.toString()).sort(), ['VERSION', 'json', 'layer.tar']);
  for (const { header, body } of members) {
    t.ok(body.equals(readFileSync(path.join(directory, header.name.toString()))), `${header.name}: byte for byte`);
  }
}

function withoutConfig({ config: _config, ...rest }: Image): Omit<Image, 'config'> {
  return rest;
}

const RUN_AS_ROOT = `
echo "parentheses (and 'quotes' and \\"more\\") and $HOME" > /srv/"it's (quoted)"
mkdir -p /new/empty /new/full
chmod 1777 /new/empty
echo text > /new/full/file
ln /new/full/file /new/full/linked
ln -s ../full /new/empty/link
mkfifo /new/pipe
chown 12345:23456 /new/full
chmod 4755 /new/full/file
echo changed > /data/one
rm /data/two
rm -r /old
mkdir -p /old/a
rm /srv/also && mkdir /srv/also
mv /opt/second /opt/moved
touch /srv/keep
rm /bin/yes
echo tmp > /tmp/left
`;

const EXTRA = `
echo extra > extra-file
rm new/pipe
mkdir 'made (here)'
chmod 700 'made (here)'
`;

const env = await openTestEngine(t);
if (env !== null) {
  const session = sessionOf(env.engine, ROOT);
  const layers = ['first', 'tools', 'second', 'first'];

  t.test('buildImage() with compat "seed": base of several layers, contents, runAsRoot, extraCommands, whiteouts and a tag', async (t) => {
    if (!requires(t, 'unshare')) return;
    const fromImage = await makeBase('root-base', layers, ENV);
    const image = { name: 'full', fromImage, copyToRoot: [ITEM, OTHER], config: CONFIG, runAsRoot: RUN_AS_ROOT, extraCommands: EXTRA };
    const work = await compare(t, image, session, 'tagged');
    const names = readTar(readFileSync(path.join(work, 'layer/layer.tar'))).map(({ header }) => header.name.toString());
    for (const name of ['./data/.wh.two', './.wh.dev', './bin/.wh.yes', './extra-file'])
      t.ok(names.includes(name), `${name} is in the layer`);
  });

  t.test(
    'mkRootLayer() with compat "seed" gives the three files of the seed, without contents, on a base without /tmp and /dev',
    async (t) => {
      if (!requires(t, 'unshare')) return;
      const fromImage = await makeBase('bare-base', ['tools-bare', 'second'], []);
      const image = {
        name: 'bare',
        fromImage,
        runAsRoot: 'echo x > /tmp/x; mkdir /new; rm /opt/second; mkdir -p /srv/more/deep; chmod 711 /',
      };
      await using made = await mkRootLayer({ ...image, baseJson: baseJsonOf(image), compat: 'seed' }, contextOf(session));
      await compareDirectory(t, made.tree, path.join(follow(image, 'x'), 'layer'));
    },
  );

  closeTestEngine(t, env);
}
