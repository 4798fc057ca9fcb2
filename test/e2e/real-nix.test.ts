import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import { streamLayeredImage } from '../../src/recipe/layered/stream-layered-image.ts';
import { streamNixShellImage } from '../../src/recipe/nix/shell-image.ts';
import { JUDGES, judgeArchive, temporary, writeImage } from '../helpers/image-judges.ts';
import { requires } from '../helpers/requires.ts';
import { quietContext } from '../helpers/tiny-store.ts';

t.setTimeout(180_000);
requires(t, 'root', 'nix', 'nix-build', ...JUDGES);

/** A closure of three, built by Nix: `app` needs `lib` and `data`, `lib` needs `data` and itself. */
const EXPRESSION = `
let
  make = name: text: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" ("PATH=/bin:/usr/bin; mkdir -p $out/bin;" + text) ];
  };
  data = make "data-1.0" "echo data > $out/bin/data; ln -s data $out/bin/link";
  lib = make "lib-1.0" "echo \${data} $out > $out/bin/lib; chmod 755 $out/bin/lib";
in make "app-1.0" "echo \${lib}/bin/lib > $out/bin/app; ln -s \${data}/bin/data $out/bin/data"
`;

/** Nix with a store of its own, without daemon, network and sandbox. */
class PrivateNix {
  readonly dir: string;
  readonly storeDir: string;

  constructor(t: Test) {
    this.dir = temporary(t);
    this.storeDir = path.join(this.dir, 'store');
    mkdirSync(this.storeDir);
    // Nix makes its store paths read-only, and root deletes them all the same.
    writeFileSync(path.join(this.dir, 'app.nix'), EXPRESSION);
  }

  run(program: string, ...args: string[]): string {
    const config = 'build-users-group =\nsandbox = false\nsubstitute = false\nexperimental-features = nix-command\n';
    const places = {
      NIX_STORE_DIR: this.storeDir,
      NIX_STATE_DIR: `${this.dir}/state`,
      NIX_LOG_DIR: `${this.dir}/log`,
      NIX_CONF_DIR: `${this.dir}/conf`,
    };
    const env = { PATH: process.env['PATH'], HOME: this.dir, NIX_CONFIG: config, NIX_REMOTE: '', ...places };
    return execFileSync(program, args, { env, encoding: 'utf8', cwd: this.dir, stdio: ['ignore', 'pipe', 'pipe'] }).trim();
  }
}

t.test('streamLayeredImage() takes a closure that Nix built, by the output of nix path-info as it is', async (t) => {
  const nix = new PrivateNix(t);
  const { storeDir } = nix;
  const app = nix.run('nix-build', 'app.nix', '--no-out-link');
  const references: unknown = JSON.parse(nix.run('nix', 'path-info', '--json', '--recursive', app));
  const args = { name: 'nix', tag: '1', storeDir, contents: [app], references: references as [], config: { Cmd: [`${app}/bin/app`] } };
  await using image = await streamLayeredImage(args, quietContext());
  const stores = image.layers.filter(({ kind }) => kind === 'store');
  t.strictSame(
    stores.flatMap(({ paths }) => paths).map((name) => path.basename(name).slice(33)),
    ['data-1.0', 'lib-1.0', 'app-1.0'],
  );
  const { rootfs } = judgeArchive(t, await writeImage(t, image));
  t.strictSame(
    readdirSync(rootfs + storeDir).sort(),
    nix
      .run('nix-store', '-qR', app)
      .split('\n')
      .map((name) => path.basename(name))
      .sort(),
  );
  t.equal(readlinkSync(`${rootfs}/bin/app`), `${app}/bin/app`);
  t.equal(readFileSync(`${rootfs}${app}/bin/app`, 'utf8'), readFileSync(`${app}/bin/app`, 'utf8'));
  t.equal(statSync(`${rootfs}${app}/bin`).mode & 0o777, 0o555);
});

t.test('streamLayeredImage() splits what Nix built by the sizes that it knows', async (t) => {
  const nix = new PrivateNix(t);
  const app = nix.run('nix-build', 'app.nix', '--no-out-link');
  const references = JSON.parse(nix.run('nix', 'path-info', '--json', '--recursive', app)) as [];
  const args = { name: 'nix', tag: '1', storeDir: nix.storeDir, contents: app, references, layering: 'size', maxLayers: 3 } as const;
  await using image = await streamLayeredImage(args, quietContext());
  const groups = image.layers.filter(({ kind }) => kind === 'store').map(({ paths }) => paths.length);
  t.equal(groups.length, 2);
  t.equal(
    groups.reduce((sum, count) => sum + count, 0),
    3,
  );
});

t.test('streamNixShellImage() takes what nix show-derivation prints', async (t) => {
  const nix = new PrivateNix(t);
  const drv = nix.run('nix-instantiate', 'app.nix');
  const app = nix.run('nix-build', 'app.nix', '--no-out-link');
  const shown = JSON.parse(nix.run('nix', 'show-derivation', drv));
  const references = JSON.parse(nix.run('nix', 'path-info', '--json', '--recursive', app)) as [];
  await using image = await streamNixShellImage(
    { drv: shown, storeDir: nix.storeDir, references, tag: '1', shell: '/bin/sh-of-ours' },
    quietContext(),
  );
  t.equal(image.imageName, 'app-1.0-env');
  const names = image.layers
    .filter(({ kind }) => kind === 'store')
    .flatMap(({ paths }) => paths.map((name) => path.basename(name).slice(33)));
  t.strictSame(names, ['data-1.0', 'lib-1.0'], 'what it is built from, and not what it makes');
  t.ok(JSON.parse(image.configText).config.Env.includes(`out=${app}`));
});
