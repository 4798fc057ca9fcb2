import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import t from 'tap';
import type { LayeredImage } from '../../../src/recipe/layered/image.ts';
import { streamLayeredImage } from '../../../src/recipe/layered/stream-layered-image.ts';
import { type StreamNixShellImageArgs, streamNixShellImage } from '../../../src/recipe/nix/shell-image.ts';
import { quoted } from '../../../src/recipe/nix/shell-rc.ts';
import { readTar } from '../../helpers/engine.ts';
import { makeTinyStore, PATHS, quietContext, REFERENCES } from '../../helpers/tiny-store.ts';

const DRV = {
  name: 'hello',
  builder: '/bin/bash',
  args: ['-c', "echo 'it is' > $out"],
  env: { greeting: 'good day', note: 'long', out: '/nix/store/x-hello' },
};

t.test('streamNixShellImage() sets the environment that a build has, the person and the place', async (t) => {
  await using image = await shellImage({ drv: DRV, homeDirectory: '/home/me', uid: 1234, gid: 567 });
  const { config } = JSON.parse(image.configText);
  t.equal(config.User, '1234:567');
  t.equal(config.WorkingDir, '/build');
  t.strictSame(config.Cmd, ['/bin/bash', '--rcfile', '/etc/nix-shell/rc']);
  t.strictSame(config.Env, [
    'HOME=/home/me',
    'NIX_BUILD_CORES=1',
    'NIX_BUILD_TOP=/build',
    'NIX_SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt',
    'NIX_STORE=/nix/store',
    'PATH=/bin:/etc/nix-shell/bin',
    'PWD=/build',
    'SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt',
    'TEMP=/build',
    'TEMPDIR=/build',
    'TERM=xterm-256color',
    'TMP=/build',
    'TMPDIR=/build',
    'greeting=good day',
    'note=long',
    'out=/nix/store/x-hello',
  ]);
  t.equal(image.imageName, 'hello-env');
});

t.test('streamNixShellImage() gives the person a user, the store, a place to build and buildDerivation', async (t) => {
  await using image = await shellImage({ drv: DRV });
  const files = await topLayer(image);
  t.match(files.get('./etc/passwd')?.text, /^root:.*\nnixbld:x:1000:1000:Build user:\/build:\/noshell\nnobody:/);
  t.match(files.get('./etc/group')?.text, /\nnixbld:!:1000:\n/);
  t.equal(files.get('./etc/nix-shell/bin/buildDerivation')?.text, "#!/bin/bash\nexec /bin/bash -c 'echo '\\''it is'\\'' > $out'\n");
  t.equal(files.get('./bin/sh')?.link, '/bin/bash');
  t.equal(files.get('./usr/bin/env')?.link, '/bin/env');
  for (const dir of ['./nix/', './nix/store/', './nix/var/nix/', './etc/nix/', './build/'])
    t.strictSame(files.get(dir)?.owner, [1000, 1000], dir);
  t.strictSame(files.get('./etc/')?.owner, [0, 0]);
});

t.test('streamNixShellImage() puts variables of passAsFile into files', async (t) => {
  await using image = await shellImage({ drv: { ...DRV, passAsFile: ['note'] } });
  const env: string[] = JSON.parse(image.configText).config.Env;
  t.ok(env.includes('notePath=/etc/nix-shell/pass-as-text-note'));
  t.notOk(env.some((entry) => entry.startsWith('note=')));
  t.equal((await topLayer(image)).get('./etc/nix-shell/pass-as-text-note')?.text, 'long');
});

t.test('streamNixShellImage() ends its shell with command or run, and refuses both', async (t) => {
  await using forPeople = await shellImage({ drv: DRV, command: 'make check' });
  t.match((await topLayer(forPeople)).get('./etc/nix-shell/rc')?.text, /\nshopt -s execfail\nmake check\nexit\n$/);
  t.strictSame(JSON.parse(forPeople.configText).config.Cmd, ['/bin/bash', '--rcfile', '/etc/nix-shell/rc']);
  await using alone = await shellImage({ drv: DRV, run: 'make' });
  t.strictSame(JSON.parse(alone.configText).config.Cmd, ['/bin/bash', '/etc/nix-shell/rc']);
  await t.rejects(shellImage({ drv: DRV, run: 'make', command: 'make' }), {
    code: 'E_RECIPE',
    message: "Cannot use recipe: /run: streamNixShellImage: Can't specify both command and run",
  });
});

t.test('streamNixShellImage() takes what nix show-derivation prints, with the store paths it needs but for its own outputs', async (t) => {
  const store = makeTinyStore(t);
  const shown = {
    '/nix/store/q-hello-2.drv': {
      outputs: { out: { path: PATHS.tool } },
      inputSrcs: [PATHS.data],
      inputDrvs: {},
      system: 'x86_64-linux',
      builder: `${PATHS.app}/bin/app`,
      args: ['-e', `${PATHS.data}/share/data.txt`],
      env: { name: 'hello-2', out: PATHS.tool, script: 'x', passAsFile: 'script ' },
    },
  };
  await using image = await shellImage({ drv: shown, storeRoot: store.root, references: REFERENCES, shell: `${PATHS.app}/bin/app` });
  t.equal(image.imageName, 'hello-2-env');
  t.strictSame(
    image.layers.filter(({ kind }) => kind === 'store').flatMap(({ paths }) => paths),
    [PATHS.data, PATHS.lib, PATHS.app],
  );
  t.ok(JSON.parse(image.configText).config.Env.includes('scriptPath=/etc/nix-shell/pass-as-text-script'));
});

t.test('streamNixShellImage() refuses structured attributes, and several derivations', async (t) => {
  const one = { outputs: {}, builder: '/b', args: [], env: { name: 'x', __json: '{}' } };
  await t.rejects(shellImage({ drv: { '/nix/store/a-x.drv': one } }), {
    message: 'Cannot use recipe: /drv: streamNixShellImage: Does not work with the derivation x because it uses __structuredAttrs',
  });
  await t.rejects(shellImage({ drv: { '/nix/store/a-x.drv': one, '/nix/store/b-x.drv': one } }), {
    message: /want exactly one derivation/,
  });
});

t.test('streamNixShellImage() on a base adds the user to the users of the base, and leaves its programs alone', async (t) => {
  const store = makeTinyStore(t);
  const base = path.join(store.dir, 'base.tar');
  const contents = [{ function: 'fakeNss' as const, extraPasswdLines: ['me:x:7:7::/:/bin/sh'] }];
  await using made = await streamLayeredImage(
    { name: 'base', tag: '1', contents, config: { Entrypoint: ['/old'], Env: ['LANG=C'] } },
    quietContext(),
  );
  writeFileSync(base, await buffer(made.open(new AbortController().signal)));
  await using image = await shellImage({ drv: DRV, fromImage: base });
  const files = await topLayer(image);
  t.match(files.get('./etc/passwd')?.text, /\nme:x:7:7.*\nnobody:.*\nnixbld:x:1000:/);
  t.notOk(files.has('./bin/sh'));
  const { config } = JSON.parse(image.configText);
  t.notOk('Entrypoint' in config);
  t.ok(config.Env.includes('LANG=C'));
});

t.test('quoted() makes one word of any text', async (t) => {
  t.strictSame(['a/b', '', 'a b', "it's", '$x'].map(quoted), ['a/b', "''", "'a b'", "'it'\\''s'", "'$x'"]);
});

function shellImage(args: StreamNixShellImageArgs): Promise<LayeredImage> {
  return streamNixShellImage(args, quietContext());
}

type Found = { text: string; link: string; owner: [uid: number, gid: number] };

async function topLayer(image: LayeredImage): Promise<Map<string, Found>> {
  const layer = image.layers.at(-1);
  const chunks: Buffer[] = [];
  for await (const chunk of layer?.tar.open(new AbortController().signal) ?? []) chunks.push(chunk);
  const members = readTar(Buffer.concat(chunks));
  return new Map(
    members.map(({ header, body }): [string, Found] => [
      header.name.toString(),
      { text: body.toString(), link: header.linkName.toString(), owner: [header.uid, header.gid] },
    ]),
  );
}
