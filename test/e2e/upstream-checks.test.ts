import { execFileSync } from 'node:child_process';
import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import { exportImage } from '../../src/recipe/archive/export-image.ts';
import { mergeImages } from '../../src/recipe/archive/merge-images.ts';
import { prefetchImage, pullImage } from '../../src/recipe/archive/pull-image.ts';
import { shadowSetup } from '../../src/recipe/helpers/shadow-setup.ts';
import { streamNixShellImage } from '../../src/recipe/nix/shell-image.ts';
import { closeTestEngine } from '../helpers/engine.ts';
import { JUDGES, judgeArchive, temporary, writeImage } from '../helpers/image-judges.ts';
import { startRegistry } from '../helpers/registry.ts';
import { requires } from '../helpers/requires.ts';
import { makeTinyStore, PATHS, REFERENCES, STORE } from '../helpers/tiny-store.ts';
import { toolsLayer, writeBase } from '../helpers/tools-base.ts';
import { filesIn, type Made, openUpstream, runIn, type Upstream } from '../helpers/upstream.ts';

// The subtests of nixos/tests/docker-tools.nix by their numbers in docs/seed-parity.md. Where these run a container, a program of the unpacked image is run.
t.setTimeout(280_000);
requires(t, 'root', 'docker-registry', 'nix-store', 'chroot', ...JUDGES);

const store = makeTinyStore(t);
const own = { storeRoot: store.root, references: REFERENCES };
const upstream = await openUpstream(t, store.dir);
if (upstream !== null) {
  layeredChecks(upstream);
  baseChecks(upstream);
  otherChecks(upstream);
  closeTestEngine(t, upstream.env);
}

function layeredChecks({ layered, build, bash, context, judge }: Upstream): void {
  t.test('check 1: includeStorePaths: true runs, false does not unless the store is mounted; likewise with fakechroot', async (t) => {
    for (const enableFakechroot of [false, true]) {
      const args = {
        ...own,
        fromImage: bash,
        contents: [PATHS.app],
        enableFakechroot,
        fakeRootCommands: enableFakechroot ? 'touch /made' : '',
      };
      t.strictSame(await runIn(await layered(t, args), ['/bin/app']), { status: 0, stdout: 'data\n', stderr: '' });
      const without = await layered(t, { ...args, includeStorePaths: false });
      t.equal((await runIn(without, ['/bin/app'])).status, 127);
      await using root = await exportImage({ fromImage: without.file }, context);
      t.notMatch(namesOf(await writeImage(t, root)), /nix\/store\//);
      execFileSync('cp', ['-a', `${store.root}/nix`, `${without.rootfs}/`]);
      t.equal((await runIn(without, ['/bin/app'])).stdout, 'data\n');
    }
  });

  t.test('check 2: created is the first second of 1970, unless it is to be now', async (t) => {
    const fixed = [await build(t, {}), await layered(t, {})];
    for (const { document } of fixed) t.equal(Date.parse(document.created), 1000);
    const now = [await build(t, { created: 'now' }), await layered(t, { created: 'now' })];
    for (const { document } of now) t.ok(Math.abs(Date.parse(document.created) - Date.now()) < 60_000);
  });

  t.test('check 3: imageTag is the tag that is loaded, with a tag given and without', async (t) => {
    for (const tag of ['given', null]) {
      for (const made of [await build(t, { tag }), await layered(t, { tag })]) {
        t.match(made.tag, tag ?? /^[0-9a-df-np-sv-z]{32}$/);
        t.match(made.judged.names, [new RegExp(`:${made.tag}$`)]);
      }
    }
  });

  t.test('check 4: the Nix database lists what the contents need', async (t) => {
    const made = [
      await layered(t, { ...own, contents: [PATHS.app], includeNixDB: true }),
      await build(t, { ...own, closure: [PATHS.app], includeNixDB: true }),
    ];
    for (const { rootfs } of made) {
      const listed = execFileSync('nix-store', ['--store', rootfs, '-qR', PATHS.app], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      t.strictSame(listed.trim().split('\n').sort(), [PATHS.data, PATHS.lib, PATHS.app].sort());
    }
  });

  t.test('check 5: /nix and /nix/store are for all to read, and a program starts as any user', async (t) => {
    const made = await layered(t, { ...own, fromImage: bash, contents: [PATHS.app] });
    for (const dir of ['/nix', '/nix/store']) t.equal(lstatSync(made.rootfs + dir).mode & 0o777, 0o755);
    t.equal((await runIn(made, ['/bin/app'], '1000:1000')).stdout, 'data\n');
  });

  t.test('check 6: links in the closure are as they were, plain and layered', async (t) => {
    for (const made of [await build(t, { ...own, closure: [PATHS.app] }), await layered(t, { ...own, contents: [PATHS.app] })]) {
      t.equal(readlinkSync(`${made.rootfs}${PATHS.lib}/lib/lib-current.so`), 'lib.so');
    }
  });

  t.test('check 10: layered images run, have their extraCommands, and stand on and below each other', async (t) => {
    const args = { ...own, fromImage: bash, contents: [PATHS.app], extraCommands: 'echo x > extraCommands' };
    const first = await layered(t, args);
    t.equal(readFileSync(`${first.rootfs}/extraCommands`, 'utf8'), 'x\n');
    const plain = await build(t, { fromImage: first.file, copyToRoot: filesIn(temporary(t), { more: 'm' }) });
    const second = await layered(t, { ...args, fromImage: first.file, contents: [PATHS.tool], extraCommands: '' });
    for (const made of [first, plain, second]) t.equal((await runIn(made, ['/bin/app'])).stdout, 'data\n');
    t.ok(existsSync(`${plain.rootfs}/more`));
  });

  t.test('check 11: two layered images share layers', async (t) => {
    const one = await layered(t, { ...own, contents: [PATHS.app] });
    const two = await layered(t, { ...own, contents: [PATHS.lib] });
    const shared = one.document.rootfs.diff_ids.filter((id) => two.document.rootfs.diff_ids.includes(id));
    t.equal(shared.length, 2);
  });

  t.test('check 15: Env: of base and image together, the last one of a name', async (t) => {
    const parent = ['FROM_PARENT=true', 'LAST_LAYER=parent'];
    const child = { config: { Env: ['FROM_CHILD=true', 'LAST_LAYER=child'] } };
    for (const make of [build, layered]) {
      const base = await make(t, { fromImage: bash, config: { Env: parent } });
      const made = await make(t, { fromImage: base.file, ...child });
      const { stdout } = await runIn(made, ['/bin/env']);
      for (const entry of ['FROM_PARENT=true', 'FROM_CHILD=true', 'LAST_LAYER=child']) t.match(stdout, new RegExp(`^${entry}$`, 'm'));
      t.equal(made.document.config.Env?.filter((entry) => entry.startsWith('LAST_LAYER=')).length, 1);
    }
  });

  t.test('check 16: maxLayers is kept, and the layer of the rest misses nothing', async (t) => {
    const two = await layered(t, { ...own, contents: [PATHS.app], maxLayers: 2 });
    t.equal(two.document.rootfs.diff_ids.length, 2);
    sameStore(t, two, [PATHS.data, PATHS.lib, PATHS.app]);
    const four = await layered(t, { ...own, fromImage: bash, contents: [PATHS.app, PATHS.tool], maxLayers: 4 });
    t.equal(four.document.rootfs.diff_ids.length, 4);
    sameStore(t, four, [PATHS.data, PATHS.lib, PATHS.app, PATHS.tool]);
  });

  t.test('check 17: there are no needless store paths, and those there are unchanged', async (t) => {
    const made = await layered(t, { ...own, contents: [PATHS.lib], includeNixDB: true });
    t.strictSame(readdirSync(`${made.rootfs}${STORE}`).sort(), [PATHS.data, PATHS.lib].map((name) => path.basename(name)).sort());
    t.doesNotThrow(() => execFileSync('nix-store', ['--store', made.rootfs, '--verify', '--check-contents'], { stdio: 'pipe' }));
  });

  t.test('check 18: architecture is what was asked for', async (t) => {
    for (const make of [build, layered]) t.equal((await make(t, { architecture: 'arm64' })).document.architecture, 'arm64');
  });

  t.test('check 19: a store path that is a link stays one', async (t) => {
    const { rootfs } = await layered(t, { ...own, closure: [PATHS.alias] });
    t.equal(readlinkSync(rootfs + PATHS.alias), PATHS.app);
  });

  t.test('check 20: a name may begin with a registry', async (t) => {
    for (const make of [build, layered]) {
      t.strictSame((await make(t, { name: 'registry-1.docker.io/image', tag: '1' })).judged.names, ['registry-1.docker.io/image:1']);
    }
  });

  t.test('check 21: owners of fakeRootCommands hold, also with fakechroot; what their files mention is taken in', async (t) => {
    const made = await layered(t, {
      ...own,
      fakeRootCommands: `mkdir -p ./home/alice; chown 1000 ./home/alice; ln -s ${PATHS.tool} ./tool`,
    });
    t.equal(lstatSync(`${made.rootfs}/home/alice`).uid, 1000);
    t.equal(readFileSync(made.rootfs + PATHS.tool, 'utf8'), 'a bare file\n');
    const chrooted = await layered(t, {
      ...own,
      enableFakechroot: true,
      fakeRootCommands: 'mkdir /owned; chown 12345 /owned; test "$(pwd)" = /',
    });
    t.equal(lstatSync(`${chrooted.rootfs}/owned`).uid, 12345);
  });

  t.test('check 22: mergeImages has all images, with tags and without, and their owners', async (t) => {
    const one = await build(t, { name: 'one', tag: '1', copyToRoot: filesIn(temporary(t), { a: 'a' }), uid: 1000, gid: 1000 });
    const two = await build(t, { name: 'two', copyToRoot: filesIn(temporary(t), { b: 'b' }) });
    await using merged = await mergeImages({ images: [one.file, two.file], compressor: 'none' }, context);
    const file = await writeImage(t, merged);
    const judged = judgeArchive(t, file, 'one:1');
    t.strictSame([...judged.names].sort(), ['one:1', `two:${two.tag}`]);
    t.equal(lstatSync(`${judged.rootfs}/a`).uid, 1000);
  });

  t.test('check 26: shell images build, set variables, run their hook and command, at home or not', async (t) => {
    const drv = {
      name: 'shell',
      builder: '/bin/bash',
      args: ['-c', 'cat $notePath > $out; id -u >> $out'],
      env: { greeting: 'good day', note: 'a note\n', shellHook: 'echo hooked', out: '/build/out' },
      passAsFile: ['note'],
    };
    const shell = async (args: object): Promise<Made> => {
      await using image = await streamNixShellImage({ drv, fromImage: bash, ...args }, context);
      return await judge(t, image);
    };
    const made = await shell({ run: 'echo "$greeting"; buildDerivation; cat $out' });
    const inside = await runIn(made, made.document.config.Cmd ?? [], '1000:1000');
    t.strictSame(inside, { status: 0, stdout: 'good day\na note\n1000\n', stderr: '' });
    t.match(readFileSync(`${made.rootfs}/etc/passwd`, 'utf8'), /\nnixbld:x:1000:1000:/);
    const homeless = await shell({ run: 'echo "$HOME"; touch /nix/store/x /etc/nix/y', homeDirectory: '/doesnt-exist' });
    t.equal((await runIn(homeless, homeless.document.config.Cmd ?? [], '1000:1000')).stdout, '/doesnt-exist\n');
    const stdenv = filesIn(temporary(t), { 'stdenv/setup': 'runHook() { eval "${!1}"; }\n' });
    const hooked = await shell({ command: 'echo "$note-"', contents: stdenv, drv: { ...drv, env: { ...drv.env, stdenv: '/stdenv' } } });
    t.equal((await runIn(hooked, [...(hooked.document.config.Cmd ?? []), '-i'], '1000:1000')).stdout, 'hooked\n-\n');
  });

  t.test('check 27: files of the store may belong to another user, by number and name', async (t) => {
    const { rootfs, file } = await layered(t, { ...own, contents: [PATHS.app], uid: 1000, gid: 1001, uname: 'user', gname: 'group' });
    const found = lstatSync(`${rootfs}${PATHS.app}/bin/app`);
    t.strictSame([found.uid, found.gid], [1000, 1001]);
    const [layer = ''] = namesOf(file).split('\n');
    const listing = execFileSync('sh', ['-c', 'tar -xOf "$1" "$2" | tar -tvf -', 'sh', file, layer], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    t.match(listing, /^\S+ user\/group .*\/nix\/store/m);
  });
}

function baseChecks({ build, layered, bash }: Upstream): void {
  t.test('check 8: runAsRoot makes accounts and directories; entry point and ports are in the config', async (t) => {
    const { rootfs, document } = await build(t, {
      fromImage: bash,
      runAsRoot: `${shadowSetup()}\necho 'nginx:x:33:33::/:/bin/false' >> /etc/passwd\ninstall -d -o 33 /var/log/nginx`,
      config: { Cmd: ['nginx'], ExposedPorts: { '80/tcp': {} } },
    });
    t.match(readFileSync(`${rootfs}/etc/passwd`, 'utf8'), /\nnginx:x:33/);
    t.equal(lstatSync(`${rootfs}/var/log/nginx`).uid, 33);
    t.match(document.config, { Cmd: ['nginx'], ExposedPorts: { '80/tcp': {} } });
  });

  t.test('check 9: parentheses and quotes in scripts stay what they are (nixpkgs #34779)', async (t) => {
    const text = (name: string): string => `echo '(runAsRoot)' "it's" > ${name}`;
    const { rootfs } = await build(t, { fromImage: bash, runAsRoot: text('/runAsRoot'), extraCommands: text('extraCommands') });
    for (const name of ['runAsRoot', 'extraCommands']) t.equal(readFileSync(`${rootfs}/${name}`, 'utf8'), "(runAsRoot) it's\n");
  });

  t.test('check 12: of files in several layers the newest one counts', async (t) => {
    const files: Record<string, string> = { 'tmp/layer1': 'layer1', 'tmp/layer2': 'layer1', 'tmp/layer3': 'layer1' };
    let made = await build(t, { fromImage: bash, copyToRoot: filesIn(temporary(t), files) });
    made = await build(t, { fromImage: made.file, copyToRoot: filesIn(temporary(t), { 'tmp/layer2': 'layer2', 'tmp/layer3': 'layer2' }) });
    made = await build(t, { fromImage: made.file, extraCommands: 'mkdir -p tmp; printf layer3 > tmp/layer3' });
    const { stdout } = await runIn(made, ['/bin/sh', '-c', 'for n in 1 2 3; do cat /tmp/layer$n; done']);
    t.equal(stdout, 'layer1layer2layer3');
  });

  t.test('check 13: layers are unpacked in their order before runAsRoot', async (t) => {
    let file = bash;
    for (const letter of ['a', 'b', 'c']) file = (await build(t, { fromImage: file, runAsRoot: `printf ${letter} >> /layer-order` })).file;
    const made = await build(t, { fromImage: file, runAsRoot: 'cat /layer-order > /seen' });
    t.equal(readFileSync(`${made.rootfs}/seen`, 'utf8'), 'abc');
  });

  t.test('check 14: a base may list a layer twice (nixpkgs #214434)', async (t) => {
    const dir = temporary(t);
    const small = execFileSync('tar', ['-C', filesIn(path.join(dir, 'small'), { one: '1' }), '-cf', '-', '.']);
    const file = writeBase(dir, 'twice:1', [small, await toolsLayer(), small]);
    const made = await build(t, { fromImage: file, runAsRoot: 'cat /one > /two' });
    t.equal(readFileSync(`${made.rootfs}/two`, 'utf8'), '1');
  });

  t.test('check 24: contents may be a bare path', async (t) => {
    const dir = filesIn(temporary(t), { 'hello.txt': 'hello\n' });
    for (const made of [await build(t, { copyToRoot: dir }), await layered(t, { contents: dir })]) {
      t.equal(readFileSync(`${made.rootfs}/hello.txt`, 'utf8'), 'hello\n');
    }
  });

  t.test('check 25: files such as /etc/hosts, and the three places of certificates, can be read', async (t) => {
    const hosts = filesIn(temporary(t), { 'etc/hosts': '127.0.0.1 localhost\n' });
    const made = await layered(t, { fromImage: bash, contents: [hosts, { function: 'caCertificates' }] });
    t.equal(readFileSync(`${made.rootfs}/etc/hosts`, 'utf8'), '127.0.0.1 localhost\n');
    for (const place of ['etc/ssl/certs/ca-bundle.crt', 'etc/ssl/certs/ca-certificates.crt', 'etc/pki/tls/certs/ca-bundle.crt']) {
      t.match((await runIn(made, ['/bin/cat', `/${place}`])).stdout, /BEGIN CERTIFICATE/, place);
    }
  });
}

function otherChecks({ build, bash, context }: Upstream): void {
  t.test('check 7: a pulled image loads and runs, and serves as a base', async (t) => {
    const registry = await startRegistry(t, path.join(temporary(t), 'registry'));
    await registry.push(`docker-archive:${bash}`, 'bash:1');
    const found = await prefetchImage(
      { imageName: `${registry.address}/bash`, imageTag: '1', tlsVerify: false, finalImageName: 'pulled' },
      context,
    );
    await using pulled = await pullImage(found, context);
    const file = await writeImage(t, pulled);
    const judged = judgeArchive(t, file);
    t.match(judged.names, [/\bpulled:1$/]);
    t.equal((await runIn({ rootfs: judged.rootfs, document: judged.config }, ['/bin/echo', 'hello'])).stdout, 'hello\n');
    const made = await build(t, { fromImage: file, runAsRoot: 'echo made > /made' });
    t.ok(existsSync(`${made.rootfs}/made`));
  });

  t.test('check 23: exportImage has the files of the image', async (t) => {
    await using root = await exportImage({ fromImage: bash, name: 'export.tar' }, context);
    t.match(namesOf(await writeImage(t, root)), /^\.\/bin\/bash$/m);
  });
}

function namesOf(file: string): string {
  return execFileSync('tar', ['-tf', file], { encoding: 'utf8', maxBuffer: 64 * 1024 * 1024, stdio: ['ignore', 'pipe', 'ignore'] });
}

/** Each file of these store paths, byte for byte. */
function sameStore(t: Test, { rootfs }: Made, paths: readonly string[]): void {
  for (const name of paths) {
    t.doesNotThrow(() => execFileSync('diff', ['-r', '--no-dereference', store.root + name, rootfs + name], { stdio: 'pipe' }), name);
  }
}
