import {
  closeSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import { buildRecipe } from '../../src/cli/build-recipe.ts';
import { hexOf } from '../../src/core/digest.ts';
import { rootlayer, rootlayerOk, run, startCommand } from '../helpers/command.ts';
import { JUDGES, judgeArchive, temporary } from '../helpers/image-judges.ts';
import { repoRoot } from '../helpers/repo.ts';
import { baseImagePath, requires } from '../helpers/requires.ts';
import { quietContext } from '../helpers/tiny-store.ts';

// Each command is a process of its own, on a machine that does other things too.
t.setTimeout(280_000);
requires(t, 'root', 'overlay', 'loop', 'userns', 'launcher', 'base-image', 'pigz', 'zstd', ...JUDGES);

/** The examples of docs/recipes.md, in an order in which each finds what it is made of; pullImage needs a registry. */
const PLAIN = [
  'binSh',
  'usrBinEnv',
  'fakeNss',
  'caCertificates',
  'shadowSetup',
  'shellScript',
  'mergeDrvs',
  'mkPureLayer',
  'buildImage',
  'exportImage',
];
const IMAGES: Record<string, string> = {
  buildImage: 'docker-image-hello.tar.gz',
  buildImageWithNixDb: 'docker-image-greeter-db.tar.gz',
  streamLayeredImage: 'greeter.tar',
  buildLayeredImage: 'greeter-on-hello.tar.zst',
  buildLayeredImageWithNixDb: 'greeter-layered-db.tar.gz',
  buildNixShellImage: 'hello-2.12-env.tar.gz',
  streamNixShellImage: 'hello-env.tar',
  'buildImage-runAsRoot': 'docker-image-service.tar.gz',
};

const dir = temporary(t);
cpSync(path.join(repoRoot, 'examples/recipes'), dir, { recursive: true });
symlinkSync(baseImagePath(), path.join(dir, 'debian.tar'));

/** Runs an example where it lies, and gives its one document. */
async function build(name: string, ...args: string[]): Promise<{ output: { path: string; digest: string } } & Record<string, unknown>> {
  const { stdout } = await rootlayerOk(['build', `${name}.json`, '--json', '--state-dir', path.join(dir, 'state'), ...args], { cwd: dir });
  return JSON.parse(stdout);
}

t.test('build makes the files of each helper', async (t) => {
  for (const name of PLAIN) await build(name);
  const text = (name: string): string => readFileSync(path.join(dir, name), 'utf8');
  t.match(text('fake-nss/etc/passwd'), /^root:.*\napp:x:1000.*\nnobody:.*\n$/);
  t.ok(lstatSync(path.join(dir, 'bin-sh/bin/sh')).isSymbolicLink());
  t.ok(lstatSync(path.join(dir, 'usr-bin-env/usr/bin/env')).isSymbolicLink());
  t.match(text('ca-certificates/etc/ssl/certs/ca-certificates.crt'), /BEGIN CERTIFICATE/);
  t.match(text('shadow-setup.sh'), /^export PATH=/);
  t.strictSame(readdirSync(path.join(dir, 'merge-drvs/share')), ['greeting', 'more']);
  t.strictSame(readdirSync(path.join(dir, 'docker-layer-hello')).sort(), ['VERSION', 'json', 'layer.tar']);
  t.equal(lstatSync(path.join(dir, 'greet.sh')).mode & 0o777, 0o755);
  t.match((await run(path.join(dir, 'greet.sh'), [])).stdout, /^It's \w+ \(again\)\.\n$/);
  t.match((await run('tar', ['-tf', path.join(dir, 'hello-root.tar')])).stdout, /^\.\/bin\/hello$/m);
});

t.test('build makes images that podman, skopeo and umoci take', async (t) => {
  for (const [name, file] of Object.entries(IMAGES)) {
    const built = await build(name);
    t.equal(built.output.path, path.join(dir, file), name);
    const judged = judgeArchive(t, path.join(dir, file));
    t.strictSame(judged.names, [`${String(built['imageName'])}:${String(built['imageTag'])}`], name);
  }
});

t.test('build runs runAsRoot on the base image', async (t) => {
  const { rootfs, config } = judgeArchive(t, path.join(dir, 'docker-image-service.tar.gz'));
  t.match(readFileSync(`${rootfs}/etc/passwd`, 'utf8'), /^service:x:\d+/m);
  t.equal(readFileSync(`${rootfs}/var/lib/service/more`, 'utf8'), 'Something more.\n');
  t.notOk(existsSync(`${rootfs}/share`));
  t.equal(config.config.User, 'service');
});

t.test('build makes the layers of mkRootLayer and runWithOverlay', async (t) => {
  await build('mkRootLayer');
  const names = (await run('tar', ['-tf', path.join(dir, 'docker-layer-accounts/layer.tar')])).stdout;
  t.match(names, /home\/worker\/\.profile$/m);
  await build('runWithOverlay');
  t.equal(readFileSync(path.join(dir, 'overlay/names'), 'utf8'), 'debian_version\nlog\n');
});

t.test('build merges images, and makes a bundle of one', async (t) => {
  await build('mergeImages', '-o', 'merged.tar');
  t.strictSame([...judgeArchive(t, path.join(dir, 'merged.tar'), 'hello:1.0').names].sort(), ['greeter:1.0', 'hello:1.0']);
  await build('buildContainer');
  t.match(JSON.parse(readFileSync(path.join(dir, 'bundle/config.json'), 'utf8')).process.args, ['/bin/hello']);
  t.equal(readFileSync(path.join(dir, 'bundle/rootfs/share/greeting'), 'utf8'), 'Hello from an image.\n');
});

t.test('build gives the same bytes each time, wherever they go', async (t) => {
  const first = await build('buildLayeredImage', '-o', 'again.tar.zst');
  const second = await build('buildLayeredImage', '-o', 'again.tar.zst');
  t.equal(first.output.digest, second.output.digest);
  const { stdout } = await rootlayerOk(['build', 'fakeNss.json', '-o', '-'], { cwd: dir });
  t.match(stdout, /etc\/passwd/);
  await build('fakeNss', '-o', 'nss.tar');
  t.match((await run('tar', ['-tf', path.join(dir, 'nss.tar')])).stdout, /^\.\/etc\/passwd$/m);
});

t.test('build sets members with --set, whose values are JSON or texts', async (t) => {
  const built = await build(
    'streamLayeredImage',
    '--set',
    'tag=2.0',
    '--set',
    'maxLayers=2',
    '--set',
    'config={"Cmd":["x"]}',
    '-o',
    'set.tar',
  );
  t.equal(built['imageTag'], '2.0');
  t.equal((built['layers'] as unknown[]).length, 2);
});

t.test('build reads a recipe from standard input, with paths from where it runs', async (t) => {
  const recipe = JSON.stringify({ function: 'buildImage', name: 'in', tag: '1', copyToRoot: 'files/hello', compressor: 'none' });
  const { stdout } = await rootlayerOk(['build', '-', '--json', '-o', 'in.tar'], { cwd: dir, input: recipe });
  const { output } = JSON.parse(stdout);
  t.match(hexOf(output.digest), /^[0-9a-f]{64}$/);
  t.ok(existsSync(path.join(dir, 'in.tar')));
});

t.test('build tells what it does on standard error, and nothing with --quiet', async (t) => {
  const { stdout, stderr } = await rootlayerOk(['build', 'streamLayeredImage.json', '-o', 'told.tar'], { cwd: dir });
  t.equal(stdout, '');
  t.match(stderr, /^No 'fromImage' provided\nCreating layer 1 from paths: \['\/opt\/store\/words-1\.0'\]\n/);
  t.match(stderr, /\nwritten {2}.*told\.tar \(.* kB\)\n$/);
  const quiet = await rootlayerOk(['build', 'streamLayeredImage.json', '-o', 'told.tar', '--quiet'], { cwd: dir });
  t.match(quiet.stderr, /^written /);
});

t.test('build names the place of what is wrong in a recipe', async (t) => {
  const layered = { function: 'streamLayeredImage', name: 'x' };
  const image = { function: 'buildImage', name: 'x' };
  const drv = { name: 'x', builder: '/bin/sh' };
  const samples: [recipe: unknown, message: string][] = [
    [{ ...image, copyToRoots: [] }, '/copyToRoots: there is no such member, did you mean "copyToRoot"?'],
    [{ ...image, config: { Env: 'A=1' } }, '/config/Env: '],
    [
      { ...image, contents: 'files', copyToRoot: 'files' },
      '/contents: in docker image x: You can not specify both contents and copyToRoot.',
    ],
    [{ ...image, uid: 3, runAsRoot: 'true', fromImage: 'debian.tar' }, '/uid: it cannot be given together with runAsRoot'],
    [{ ...image, copyToRoot: ['files', 'no-such'] }, '/copyToRoot/1: '],
    [{ ...layered, contents: 'no-such' }, '/contents/0: '],
    [{ ...layered, closure: ['/opt/x'] }, '/closure/0: Expecting absolute paths from /nix/store, but got: "/opt/x"'],
    [{ ...layered, maxLayers: 1 }, '/maxLayers: the maxLayers argument'],
    [{ ...layered, fromImage: 'docker-image-hello.tar.gz', maxLayers: 2 }, '/maxLayers: Error: usedLayers 2 layers'],
    [{ function: 'streamNixShellImage', drv, command: 'x', run: 'y' }, "/run: streamNixShellImage: Can't specify both command and run"],
    [{ function: 'nothing' }, '/function: there is no function "nothing"'],
    [{ ...layered, fromImage: 'no-such.tar' }, '/fromImage: there is no file '],
    [{ function: 'exportImage', fromImage: 'no-such.tar' }, '/fromImage: there is no file '],
    [{ function: 'mergeImages', images: ['docker-image-hello.tar.gz', 'no-such.tar'] }, '/images/1: there is no file '],
    [{ function: 'mkPureLayer', name: 'x', baseJson: '/dev/null' }, '/baseJson: "/dev/null" is no file'],
    [{ ...layered, name: 'a b' }, '/name: Cannot read image name '],
    [{ ...layered, tag: 'a b' }, '/tag: Cannot read image name '],
    [[], 'want one JSON object'],
  ];
  const out = path.join(dir, 'wrong.tar');
  const file = path.join(dir, 'wrong.json');
  for (const [recipe, message] of samples) {
    writeFileSync(file, JSON.stringify(recipe));
    const outcome = { exitStatus: 0, statusOf: () => 0 };
    const error: unknown = await buildRecipe(file, { output: out, set: [] }, quietContext(), outcome).catch((thrown: unknown) => thrown);
    t.match(error, { code: 'E_RECIPE' }, message);
    t.ok(String(error).includes(`Cannot use wrong.json: ${message}`), `${message} in ${error}`);
    t.notOk(existsSync(out), message);
  }
  const { status, stdout } = await rootlayer(['build', 'wrong.json', '-o', 'wrong.tar', '--json'], { cwd: dir });
  t.equal(status, 125);
  t.match(JSON.parse(stdout), { error: { code: 'E_RECIPE', message: /^Cannot use wrong\.json: / } });
});

t.test('build lets no recipe choose where its result goes', async (t) => {
  const script = { function: 'shellScript', text: 'true' };
  const within = path.join(dir, 'files/outside');
  const samples: [recipe: object, fileName: string, args: string[]][] = [
    [{ ...script, name: '../outside' }, '../outside', []],
    [{ ...script, name: '../outside' }, '../outside', ['-o', './']],
    [{ ...script, name: within }, within, []],
    [{ ...script, name: '..' }, '..', []],
    [{ function: 'mkPureLayer', baseJson: {}, name: 'a/../outside' }, 'docker-layer-a/../outside', []],
  ];
  for (const [recipe, fileName, args] of samples) {
    writeFileSync(path.join(dir, 'outside.json'), JSON.stringify(recipe));
    const { status, stderr } = await rootlayer(['build', '--quiet', 'outside.json', ...args], { cwd: dir });
    t.equal(status, 125, fileName);
    t.ok(stderr.startsWith(`rootlayer: Cannot use outside.json: /name: the result would be called ${JSON.stringify(fileName)}`), stderr);
  }
  for (const name of ['../outside', 'outside', within]) t.notOk(existsSync(path.resolve(dir, name)), name);
});

t.test('build refuses what is no recipe at all', async (t) => {
  await failsWith(t, [], /^rootlayer: Cannot build without a recipe/);
  await failsWith(t, ['gone.json'], /^rootlayer: Cannot read recipe "gone\.json": ENOENT/);
  writeFileSync(path.join(dir, 'twice.json'), '{"function":"binSh","function":"fakeNss"}');
  await failsWith(t, ['twice.json'], /^rootlayer: Cannot read twice\.json: /);
  await failsWith(t, ['binSh.json', '--set', 'x'], /^rootlayer: Cannot use --set "x": want key=value/);
});

t.test('build ends with the status of the script that failed', async (t) => {
  const { status, stderr } = await rootlayer(
    [
      'build',
      'buildLayeredImage.json',
      '--set',
      'fakeRootCommands=echo told; exit 9',
      '-o',
      'no.tar',
      '--state-dir',
      path.join(dir, 'state'),
    ],
    { cwd: dir },
  );
  t.equal(status, 9);
  t.match(stderr, /^told$/m);
  t.match(stderr, /^rootlayer: .*status 9$/m);
  t.notOk(existsSync(path.join(dir, 'no.tar')));
});

t.test('build ends its script when it is interrupted', async (t) => {
  const set = 'fakeRootCommands=echo up; sleep 1000';
  const child = startCommand(['build', 'buildLayeredImage.json', '--set', set, '-o', 'no.tar', '--state-dir', path.join(dir, 'state')], {
    cwd: dir,
  });
  const closed = new Promise<number | null>((resolve) => child.once('close', resolve));
  let said = '';
  for await (const chunk of child.stderr) {
    if (!said.includes('up\n') && `${said}${chunk}`.includes('up\n')) child.kill('SIGINT');
    said += chunk;
  }
  t.equal(await closed, 130);
  t.match(said, /\nrootlayer: Cannot build buildLayeredImage\.json: it was cancelled\n$/);
  t.notOk(existsSync(path.join(dir, 'no.tar')));
});

t.test('build holds no image in memory', async (t) => {
  const big = path.join(dir, 'big/nix/store/aaaa-big');
  mkdirSync(path.dirname(big), { recursive: true });
  closeSync(openSync(big, 'w'));
  truncateSync(big, 1024 ** 3);
  const recipe = { function: 'streamLayeredImage', name: 'big', storeRoot: 'big', closure: ['/nix/store/aaaa-big'] };
  const report = "process.on('exit', () => process.stderr.write('maxRSS=' + process.resourceUsage().maxRSS))";
  const options = {
    cwd: dir,
    input: JSON.stringify(recipe),
    env: { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(report)}` },
  };
  const { stderr, stdout } = await rootlayerOk(['build', '-', '-o', '/dev/null', '--json'], options);
  t.ok(JSON.parse(stdout).output.sizeBytes > 1024 ** 3);
  const peakMiB = Number(/maxRSS=(\d+)/.exec(stderr)?.[1]) / 1024;
  t.ok(peakMiB < 200, `peak ${peakMiB} MiB`);
});

t.test('build --schema prints the published schema', async (t) => {
  const { stdout } = await rootlayerOk(['build', '--schema']);
  t.strictSame(JSON.parse(stdout), JSON.parse(readFileSync(path.join(repoRoot, 'schemas/recipe.schema.json'), 'utf8')));
});

async function failsWith(t: Test, args: string[], message: RegExp): Promise<void> {
  const { status, stderr } = await rootlayer(['build', ...args], { cwd: dir });
  t.equal(status, 125);
  t.match(stderr, message);
}
