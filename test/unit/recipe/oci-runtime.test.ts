import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import t, { type Test } from 'tap';
import { z } from 'zod';
import type { BuildContainerArgs } from '../../../src/recipe/oci-runtime/args.ts';
import { type Bundle, buildContainer } from '../../../src/recipe/oci-runtime/bundle.ts';
import { requires } from '../../helpers/requires.ts';
import { layerTar } from '../../root/store/tiny-image.ts';
import { configFor, jsonOf } from '../store/archive-fixture.ts';
import { scratch, writeMembers } from './image-files.ts';

const signal = new AbortController().signal;

async function build(t: Test, args: BuildContainerArgs, notes: string[] = []): Promise<Bundle> {
  const bundle = await buildContainer(args, { signal, note: (line) => notes.push(line) });
  t.teardown(() => bundle[Symbol.asyncDispose]());
  return bundle;
}

/** What the runtime-spec 1.0 requires of a Linux bundle that has a process. */
const mount = z.strictObject({
  destination: z.string().startsWith('/'),
  type: z.string(),
  source: z.string(),
  options: z.array(z.string()),
});
const mapping = z.strictObject({ containerID: z.int(), hostID: z.int(), size: z.int() });
const requiredShape = z.strictObject({
  ociVersion: z.string().regex(/^1\.\d+\.\d+$/),
  annotations: z.record(z.string(), z.string()),
  hostname: z.string().optional(),
  root: z.strictObject({ path: z.string(), readonly: z.boolean() }),
  mounts: z.array(mount),
  process: z.strictObject({
    args: z.array(z.string()).min(1),
    capabilities: z.record(z.string(), z.array(z.string())).optional(),
    cwd: z.string().startsWith('/'),
    env: z.array(z.string().includes('=')),
    noNewPrivileges: z.boolean(),
    terminal: z.boolean(),
    user: z.strictObject({ uid: z.int(), gid: z.int() }),
  }),
  linux: z.strictObject({
    namespaces: z.array(z.strictObject({ type: z.enum(['pid', 'network', 'mount', 'ipc', 'uts', 'user']) })),
    uidMappings: z.array(mapping).optional(),
    gidMappings: z.array(mapping).optional(),
    maskedPaths: z.array(z.string().startsWith('/')),
    readonlyPaths: z.array(z.string().startsWith('/')),
  }),
});

async function config(t: Test, args: BuildContainerArgs): Promise<z.infer<typeof requiredShape>> {
  return requiredShape.parse(JSON.parse((await build(t, args)).configText));
}

/** A store of three packages below a directory of its own: a needs b, c stands alone. */
function makeStore(t: Test): Pick<BuildContainerArgs, 'storeDir' | 'storeRoot' | 'references'> {
  const storeRoot = scratch(t);
  for (const name of ['a', 'b', 'c']) {
    mkdirSync(path.join(storeRoot, 'store', name, 'bin'), { recursive: true });
    writeFileSync(path.join(storeRoot, 'store', name, 'bin/run'), name, { mode: 0o555 });
  }
  return { storeDir: '/store', storeRoot, references: { '/store/a': ['/store/b', '/store/a'], '/store/b': [] } };
}

function files(bundle: Bundle): string[] {
  return [...bundle.tree.entries()].map(({ path: at }) => at.toString());
}

t.test('buildContainer() makes a config.json as the runtime-spec wants it', async (t) => {
  const { mounts, ...rest } = await config(t, {
    args: ['run', 'it'],
    arch: 'x86_64',
    hostname: 'box',
    readonly: true,
    capabilities: ['CAP_CHOWN'],
  });
  t.match(rest, {
    ociVersion: '1.0.0',
    annotations: { 'org.opencontainers.image.architecture': 'amd64', 'org.opencontainers.image.os': 'linux' },
    hostname: 'box',
    root: { path: 'rootfs', readonly: true },
    process: { args: ['run', 'it'], cwd: '/', user: { uid: 0, gid: 0 }, capabilities: { bounding: ['CAP_CHOWN'] }, noNewPrivileges: true },
    linux: { namespaces: ['pid', 'network', 'mount', 'ipc', 'uts'].map((type) => ({ type })) },
  });
  t.same(
    mounts.map(({ destination, type, options }) => `${destination} ${type} ${options.join(' ')}`),
    [
      '/dev tmpfs nosuid strictatime mode=755 size=65536k',
      '/dev/mqueue mqueue nosuid noexec nodev',
      '/dev/pts devpts nosuid noexec newinstance ptmxmode=0666 mode=755 gid=5',
      '/dev/shm tmpfs nosuid noexec nodev mode=1777 size=65536k',
      '/proc proc ',
      '/sys sysfs nosuid noexec nodev ro',
      '/sys/fs/cgroup cgroup nosuid noexec nodev relatime ro',
    ],
  );
});

t.test('buildContainer() adds mounts in order, lets one replace a default and null take one away', async (t) => {
  const mounts = {
    '/data': { type: 'none', source: '/var/lib/mydata', options: ['bind'] },
    '/proc': { type: 'bind', source: '/proc', options: ['rbind'] },
    '/sys/fs/cgroup': null,
  };
  const found = (await config(t, { args: ['run'], mounts })).mounts;
  t.same(
    found.map(({ destination }) => destination),
    ['/data', '/dev', '/dev/mqueue', '/dev/pts', '/dev/shm', '/proc', '/sys'],
  );
  t.same(found[0], { destination: '/data', ...mounts['/data'] });
  t.same(found[5], { destination: '/proc', ...mounts['/proc'] });
  t.same((await config(t, { args: ['run'], mounts: { '/x': { type: 'tmpfs', source: 'tmpfs' } } })).mounts.at(-1)?.options, []);
});

t.test('buildContainer() puts in the closure of the arguments and nothing else', async (t) => {
  const store = makeStore(t);
  const bundle = await build(t, { ...store, args: ['/store/a/bin/run', '--with=/store/nothere'] });
  t.same(files(bundle), [
    ...['', 'config.json', 'rootfs', 'rootfs/dev', 'rootfs/proc', 'rootfs/store'],
    ...['a', 'b'].flatMap((name) => [`rootfs/store/${name}`, `rootfs/store/${name}/bin`, `rootfs/store/${name}/bin/run`]),
    'rootfs/sys',
  ]);
  t.ok(files(await build(t, { ...store, args: ['/store/a/bin/run'], closure: ['/store/c'] })).includes('rootfs/store/c/bin/run'));
});

t.test('buildContainer() takes root file system, arguments and more from an image', async (t) => {
  const layer = layerTar({
    'bin/': {},
    'bin/run': { body: 'x', mode: 0o755 },
    'etc/': {},
    'etc/passwd': { body: 'root:x:0:0::/:/bin/sh\nme:x:12:34::/:/bin/sh\n' },
    'etc/group': { body: 'us:x:56:\n' },
  });
  const settings = { Entrypoint: ['/bin/run'], Cmd: ['a', 'b'], Env: ['A=1', 'PATH=/bin'], User: 'me', WorkingDir: '/etc' };
  const image = writeMembers(path.join(scratch(t), 'image.tar'), [
    ['l.tar', layer],
    ['c.json', configFor([layer], { architecture: 'riscv64', config: settings })],
    ['manifest.json', jsonOf([{ Config: 'c.json', RepoTags: ['a:b'], Layers: ['l.tar'] }])],
  ]);
  const inherited = await config(t, { fromImage: image });
  t.match(inherited.process, { args: ['/bin/run', 'a', 'b'], cwd: '/etc', env: ['PATH=/bin', 'A=1'], user: { uid: 12, gid: 34 } });
  t.equal(inherited.annotations['org.opencontainers.image.architecture'], 'riscv64');
  const own = await config(t, { fromImage: image, args: ['/bin/run'], env: ['A=2'], user: '99:us', cwd: '/' });
  t.match(own.process, { args: ['/bin/run'], cwd: '/', env: ['PATH=/bin', 'A=2'], user: { uid: 99, gid: 56 } });
  t.ok(files(await build(t, { fromImage: image, fromImageName: 'a', fromImageTag: 'b' })).includes('rootfs/bin/run'));
});

t.test('buildContainer() makes a user namespace, without what it cannot have', async (t) => {
  const one = [{ containerID: 0, hostID: 1000, size: 1 }];
  const small = await config(t, { args: ['run'], uidMappings: one, gidMappings: one });
  t.same(small.linux.namespaces.at(-1), { type: 'user' });
  t.same([small.linux.uidMappings, small.linux.gidMappings], [one, one]);
  const pts = (mounts: typeof small.mounts): string =>
    mounts.find(({ destination }) => destination === '/dev/pts')?.options.join(' ') ?? '';
  t.notMatch(pts(small.mounts), /gid=/, 'a group without a place');
  const wide = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
  t.match(pts((await config(t, { args: ['run'], uidMappings: wide, gidMappings: wide })).mounts), /gid=5/);
});

t.test('buildContainer() names the place of what is wrong', async (t) => {
  const refused = async (args: object, message: RegExp): Promise<void> => {
    await t.rejects(buildContainer(args as BuildContainerArgs, { signal, note: () => {} }), { code: 'E_RECIPE', message });
  };
  const store = makeStore(t);
  const one = [{ containerID: 0, hostID: 1000, size: 1 }];
  await refused({}, /\/args: it is missing, want a program and its arguments/);
  await refused({ args: [] }, /\/args: want a program/);
  await refused({ args: ['/bin/sh'] }, /\/args\/0: the program "\/bin\/sh" is not in the root file system/);
  await refused({ args: ['x'], arch: 'vax' }, /\/arch: "vax" is no architecture, want one of 386, amd64/);
  await refused({ args: ['x'], mounts: { data: { type: 'a', source: 'b' } } }, /\/mounts\/data: want an absolute path/);
  await refused({ args: ['x'], mounts: { '/data': { type: 'a', src: 'b' } } }, /\/mounts\/~1data\/source: it is missing/);
  await refused({ args: ['x'], user: 'nobody' }, /\/user: there is no user "nobody"/);
  await refused({ args: ['x'], user: '5', uidMappings: one, gidMappings: one }, /\/uidMappings: the process has the id 5/);
  await refused({ ...store, args: ['x'], closure: ['/elsewhere/a'] }, /\/closure\/0: Expecting absolute paths from \/store/);
  await refused({ ...store, args: ['x'], closure: ['/store/none'] }, /\/closure\/0: ".*\/store\/none": there is no such file/);
  await refused({ args: ['x'], compat: 'seed', fromImage: 'x' }, /\/fromImage: the seed makes no bundle of an image/);
});

t.test('buildContainer() lets root have no user namespace of its own ids', async (t) => {
  if (!requires(t, 'root')) return;
  await t.rejects(buildContainer({ args: ['x'], userNamespace: true }, { signal, note: () => {} }), {
    message: /\/uidMappings: it is missing, want ids of the host that are not root/,
  });
});

/** What the seed's expression evaluates to for `args = [ "/store/a/bin/run" "é" ]; readonly = true`, by the table of its mounts. */
const SEED =
  '{"linux":{"namespaces":[{"type":"pid"},{"type":"network"},{"type":"mount"},{"type":"ipc"},{"type":"uts"}]},"mounts":[' +
  '{"destination":"/dev","options":["nosuid","strictatime","mode=755","size=65536k"],"source":"tmpfs","type":"tmpfs"},' +
  '{"destination":"/dev/mqueue","options":["nosuid","noexec","nodev"],"source":"mqueue","type":"mqueue"},' +
  '{"destination":"/dev/pts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=755","gid=5"],"source":"devpts","type":"devpts"},' +
  '{"destination":"/dev/shm","options":["nosuid","noexec","nodev","mode=1777","size=65536k"],"source":"shm","type":"tmpfs"},' +
  '{"destination":"/proc","options":null,"source":"proc","type":"proc"},' +
  '{"destination":"/sys","options":["nosuid","noexec","nodev","ro"],"source":"sysfs","type":"sysfs"},' +
  '{"destination":"/sys/fs/cgroup","options":["nosuid","noexec","nodev","realatime","ro"],"source":"cgroup","type":"cgroup"}],' +
  '"ociVersion":"1.0.0","platform":{"arch":"x86_64","os":"linux"},' +
  '"process":{"args":["/store/a/bin/run","é"],"cwd":"/","user":{"gid":0,"uid":0}},"root":{"path":"rootfs","readonly":true}}';

t.test('buildContainer() with compat "seed" gives the bytes of the seed\'s config.json', async (t) => {
  const notes: string[] = [];
  const mounts = { '/data': { type: 'none', source: '/d' } };
  const args = ['/store/a/bin/run', 'é'];
  const bundle = await build(t, { ...makeStore(t), args, mounts, readonly: true, compat: 'seed' }, notes);
  t.equal(bundle.configText, SEED);
  t.same(notes, ['mounts are ignored, as in the seed']);
  t.ok(files(bundle).includes('rootfs/store/b/bin/run'));
});

t.test("the bytes of the seed's config.json are spelt as Nix spells JSON", async (t) => {
  if (!requires(t, 'nix-instantiate')) return;
  const directory = scratch(t);
  const strange: BuildContainerArgs = { args: ['/store/a', '"\\\n\u0001\u007f/é\u2028'], compat: 'seed' };
  for (const text of [SEED, (await build(t, strange)).configText]) {
    const file = path.join(directory, 'config.json');
    writeFileSync(file, text);
    const env = {
      ...process.env,
      HOME: directory,
      NIX_STATE_DIR: path.join(directory, 'state'),
      NIX_STORE_DIR: path.join(directory, 'store'),
    };
    const expression = `builtins.toJSON (builtins.fromJSON (builtins.readFile ${file}))`;
    const said = execFileSync('nix-instantiate', ['--eval', '--strict', '--json', '--expr', expression], {
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    t.equal(JSON.parse(said.toString()), readFileSync(file, 'utf8'));
  }
});
