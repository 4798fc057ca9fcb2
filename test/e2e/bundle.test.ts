import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { type Ended, rootlayer, rootlayerOk } from '../helpers/command.ts';
import { temporary } from '../helpers/image-judges.ts';
import { requires } from '../helpers/requires.ts';
import { BOTTOM, TOP, tinyImage, writeDockerArchive } from '../root/store/tiny-image.ts';

const dir = temporary(t);
const image = await writeDockerArchive(dir, tinyImage([BOTTOM, TOP]), ['tiny:1']);
let made = 0;

/** Runs `rootlayer bundle` with a directory of its own. */
async function bundle(...args: string[]): Promise<{ ended: Ended; out: string }> {
  made += 1;
  const out = path.join(dir, `bundle-${made}`);
  return { out, ended: await rootlayer(['bundle', '-o', out, ...args]) };
}

function configOf(
  out: string,
): { mounts: { destination: string }[]; process: object; linux: object; root: object } & Record<string, unknown> {
  return JSON.parse(readFileSync(path.join(out, 'config.json'), 'utf8'));
}

t.test('rootlayer bundle --from an archive runs what the image runs', async (t) => {
  const { out, ended } = await bundle('--from', image);
  t.same([ended.status, ended.stdout, ended.stderr], [0, '', `written  ${out} (an OCI runtime bundle)\n`]);
  t.match(configOf(out).process, { args: ['/bin/tool'], env: ['PATH=/bin'] });
  t.same(readdirSync(path.join(out, 'rootfs')).sort(), ['bin', 'data', 'dev', 'etc', 'proc', 'sys']);
  t.equal(readFileSync(path.join(out, 'rootfs/etc/hello'), 'utf8'), 'two');
  t.notOk(existsSync(path.join(out, 'rootfs/etc/gone')), 'whiteouts are applied');
});

t.test('rootlayer bundle hands its options on', async (t) => {
  const { out, ended } = await bundle(
    ...[
      '--from',
      image,
      '--select',
      'tiny:1',
      '--readonly',
      '--hostname',
      'box',
      '--env',
      'A=1',
      '--cwd',
      '/etc',
      '--user',
      '7:8',
      '--cap',
      'CAP_CHOWN',
    ],
    ...[
      '--mount',
      'source=/srv/data,dst=/data,options=ro:nosuid',
      '--mount',
      'type=tmpfs,dst=/tmp',
      '--unmount',
      '/sys/fs/cgroup',
      '--terminal',
    ],
    ...['--uid-map', '0:100000:65536', '--gid-map', '0:200000:1000', '--gid-map', '1000:300000:1000', '--arch', 'aarch64', '--json'],
    ...['--', '/bin/tool', '--flag', 'a b'],
  );
  t.equal(ended.status, 0, ended.stderr);
  t.same(JSON.parse(ended.stdout), { bundle: out });
  const config = configOf(out);
  t.match(config, {
    hostname: 'box',
    annotations: { 'org.opencontainers.image.architecture': 'arm64' },
    root: { readonly: true },
    process: { args: ['/bin/tool', '--flag', 'a b'], cwd: '/etc', env: ['PATH=/bin', 'A=1'], user: { uid: 7, gid: 8 }, terminal: true },
    linux: {
      uidMappings: [{ containerID: 0, hostID: 100_000, size: 65_536 }],
      gidMappings: [{ size: 1000 }, { containerID: 1000, hostID: 300_000 }],
    },
  });
  const found = new Map(config.mounts.map((mount) => [mount.destination, mount]));
  t.same(found.get('/data'), { destination: '/data', options: ['rbind', 'ro', 'nosuid'], source: '/srv/data', type: 'bind' });
  t.same(found.get('/tmp'), { destination: '/tmp', options: [], source: 'tmpfs', type: 'tmpfs' });
  t.notOk(found.has('/sys/fs/cgroup'));
});

t.test('rootlayer bundle puts closures in, as "nix path-info" tells them', async (t) => {
  const root = path.join(dir, 'nix');
  for (const name of ['a', 'b', 'c']) {
    mkdirSync(path.join(root, 'nix/store', name), { recursive: true });
    writeFileSync(path.join(root, 'nix/store', name, 'file'), name);
  }
  const info = path.join(dir, 'info.json');
  const store = (name: string, ...references: string[]): object => ({
    path: `/nix/store/${name}`,
    references: references.map((each) => `/nix/store/${each}`),
    narSize: 1,
  });
  writeFileSync(info, JSON.stringify([store('a', 'b'), store('b', 'b'), store('c')]));
  const { out, ended } = await bundle('--references', info, '--store-root', root, '--', '/nix/store/a/file', '--x=/nix/store/a/y');
  t.equal(ended.status, 0, ended.stderr);
  t.same(readdirSync(path.join(out, 'rootfs/nix/store')).sort(), ['a', 'b']);
  const more = await bundle('--closure', '/nix/store/c', '--references', info, '--store-root', root, '--', '/nix/store/a/file');
  t.same(readdirSync(path.join(more.out, 'rootfs/nix/store')).sort(), ['a', 'b', 'c']);
});

t.test('rootlayer bundle --compat seed has the config.json of the seed', async (t) => {
  const { out, ended } = await bundle('--compat', 'seed', '--', '/bin/sh');
  t.equal(ended.status, 0, ended.stderr);
  t.match(
    readFileSync(path.join(out, 'config.json'), 'utf8'),
    /^\{"linux":\{"namespaces":\[\{"type":"pid"\}.*"realatime".*"readonly":false\}\}$/,
  );
});

t.test('rootlayer bundle says what is wrong, and leaves nothing', async (t) => {
  const refused = async (message: RegExp, ...args: string[]): Promise<void> => {
    const { out, ended } = await bundle(...args);
    t.equal(ended.status, 125, args.join(' '));
    t.match(ended.stderr, message);
    t.notOk(existsSync(out));
  };
  await refused(/\/args: it is missing, want a program/);
  await refused(/\/args\/0: the program "\/bin\/none" is not in the root file system/, '--from', image, '--', '/bin/none');
  await refused(/Cannot use --mount "a=b": "a" is none of type, source/, '--mount', 'a=b', '--', 'x');
  await refused(/Cannot use --mount "source=\/a": want source=PATH and destination=PATH/, '--mount', 'source=/a', '--', 'x');
  await refused(/Cannot use --uid-map "0:1": want CONTAINER:HOST:SIZE/, '--uid-map', '0:1', '--', 'x');
  await refused(/Cannot use --references ".*none": ENOENT/, '--references', path.join(dir, 'none'), '--', 'x');
  await refused(/\/compat: /, '--compat', 'other', '--', 'x');
  const full = await rootlayer(['bundle', '-o', dir, '--', 'x']);
  t.match(full.stderr, /the directory is not empty/);
  t.same(
    readdirSync(dir).filter((name) => name.startsWith('.')),
    [],
    'no draft is left',
  );
});

t.test('rootlayer bundle --from an image of the store', async (t) => {
  if (!requires(t, 'root', 'overlay', 'userns', 'launcher')) return;
  const state = ['--state-dir', path.join(dir, 'state'), '--allow-degraded'];
  await rootlayerOk(['image', 'import', image, ...state]);
  const { out, ended } = await bundle('--from', 'tiny:1', ...state);
  t.equal(ended.status, 0, ended.stderr);
  t.equal(readFileSync(path.join(out, 'rootfs/data/b'), 'utf8'), 'b');
});
