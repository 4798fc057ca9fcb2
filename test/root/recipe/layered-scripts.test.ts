import { execFileSync } from 'node:child_process';
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import t, { type Test } from 'tap';
import { sessionOf } from '../../../src/api/embedded.ts';
import type { StreamLayeredImageArgs } from '../../../src/recipe/layered/args.ts';
import { streamLayeredImage } from '../../../src/recipe/layered/stream-layered-image.ts';
import { closeTestEngine, openTestEngine, ROOT, type TestEngine } from '../../helpers/engine.ts';
import { contextWith, JUDGES, type Judged, judgeArchive, writeImage } from '../../helpers/image-judges.ts';
import { requires } from '../../helpers/requires.ts';
import { makeTinyStore, PATHS, REFERENCES } from '../../helpers/tiny-store.ts';

// Other tests run at the same time, and the judges are programs of their own.
t.setTimeout(180_000);
requires(t, ...JUDGES);
const env = await openTestEngine(t);
if (env !== null) {
  scriptTests(env);
  closeTestEngine(t, env);
}

function scriptTests(env: TestEngine): void {
  const context = contextWith(sessionOf(env.engine, ROOT));
  const judged = async (t: Test, args: StreamLayeredImageArgs): Promise<Judged> => {
    await using image = await streamLayeredImage(args, context);
    return judgeArchive(t, await writeImage(t, image));
  };

  t.test('streamLayeredImage() keeps what extraCommands and fakeRootCommands do, owners too', async (t) => {
    const store = makeTinyStore(t);
    const { rootfs } = await judged(t, {
      ...{ name: 'scripts', tag: '1', storeRoot: store.root, references: REFERENCES, contents: [PATHS.app] },
      extraCommands: 'mkdir -p tmp; chmod 1777 tmp; echo "(it\'s)" > tmp/x; ln -s x tmp/y',
      fakeRootCommands: 'mkdir srv; echo a > srv/a; chown 12345:54 srv/a; chmod 4755 srv/a; chown -h 1000:1000 bin/app',
    });
    t.equal(readFileSync(`${rootfs}/tmp/x`, 'utf8'), "(it's)\n");
    t.equal(lstatSync(`${rootfs}/tmp`).mode & 0o7777, 0o1777);
    t.equal(readlinkSync(`${rootfs}/tmp/y`), 'x');
    const file = lstatSync(`${rootfs}/srv/a`);
    t.strictSame([file.uid, file.gid, file.mode & 0o7777, file.mtimeMs / 1000], [12345, 54, 0o4755, 315_532_800]);
    t.equal(lstatSync(`${rootfs}/bin/app`).uid, 1000);
    t.equal(readlinkSync(`${rootfs}/bin/app`), `${PATHS.app}/bin/app`);
  });

  t.test('streamLayeredImage() with enableFakechroot runs fakeRootCommands with the layer as its root', async (t) => {
    const store = makeTinyStore(t);
    const { rootfs } = await judged(t, {
      ...{ name: 'chroot', tag: '1', storeRoot: store.root, references: REFERENCES, contents: [PATHS.app, { function: 'fakeNss' }] },
      extraCommands: 'mkdir -p etc/keep proc sys; echo keep > etc/keep/file',
      fakeRootCommands: `cat /etc/keep/file; test -x ${PATHS.app}/bin/app; /bin/bash -n /bin/app; mkdir /made; chown 77:88 /made; rm /etc/empty; echo more >> /etc/passwd`,
      enableFakechroot: true,
    });
    t.strictSame(readdirSync(rootfs).sort(), ['bin', 'etc', 'made', 'nix', 'var']);
    t.strictSame([lstatSync(`${rootfs}/made`).uid, lstatSync(`${rootfs}/made`).gid], [77, 88]);
    t.strictSame(readdirSync(`${rootfs}/etc`).sort(), ['group', 'keep', 'nsswitch.conf', 'passwd']);
    t.match(readFileSync(`${rootfs}/etc/passwd`, 'utf8'), /^root:x:0:0:root user.*\n.*\nmore\n$/);
    t.equal(readFileSync(`${rootfs}${PATHS.data}/share/data.txt`, 'utf8'), 'data\n');
  });

  t.test('streamLayeredImage() takes in store paths that only a script left mentioned, with what they need', async (t) => {
    const store = makeTinyStore(t);
    const args = { name: 'mention', tag: '1', storeRoot: store.root, references: REFERENCES, contents: [] };
    const named = {
      ...args,
      fakeRootCommands: `ls ${PATHS.lib}/lib > /dev/null; ln -s ${PATHS.lib}/lib lib; echo "see ${PATHS.tool}." > note`,
    };
    await using image = await streamLayeredImage(named, context);
    const paths = image.layers.filter(({ kind }) => kind === 'store').flatMap((layer) => layer.paths);
    t.strictSame([...paths].sort(), [PATHS.data, PATHS.lib, PATHS.tool].sort());
  });

  t.test('streamLayeredImage() gives the same bytes when its scripts run again', async (t) => {
    const store = makeTinyStore(t);
    const args = {
      name: 'same',
      tag: null,
      storeRoot: store.root,
      references: REFERENCES,
      contents: [PATHS.app],
      extraCommands: 'date > /dev/null; echo x > x',
    };
    await using one = await streamLayeredImage(args, context);
    await using two = await streamLayeredImage(args, context);
    t.equal(one.imageTag, two.imageTag);
  });

  t.test('streamLayeredImage() fails with the status of a script that fails', async (t) => {
    const failing = streamLayeredImage({ name: 'bad', contents: [], extraCommands: 'echo before; exit 7' }, context);
    await t.rejects(failing, { code: 'E_SCRIPT', message: /status 7/ });
    t.ok(context.notes.includes('before'));
  });

  t.test('streamLayeredImage() with includeNixDB makes a database that Nix takes for its own', async (t) => {
    if (!requires(t, 'nix-store')) return;
    const store = makeTinyStore(t);
    const { rootfs } = await judged(t, {
      ...{ name: 'nix', tag: '1', storeRoot: store.root, references: REFERENCES, contents: [PATHS.app, PATHS.alias], includeNixDB: true },
    });
    const nix = (...args: string[]): string[] =>
      execFileSync('nix-store', ['--store', rootfs, ...args], { encoding: 'utf8' })
        .trim()
        .split('\n');
    t.strictSame(nix('-qR', PATHS.alias).sort(), [PATHS.alias, PATHS.app, PATHS.lib, PATHS.data].sort());
    t.doesNotThrow(() => nix('--verify', '--check-contents'));
    t.equal(readlinkSync(`${rootfs}/nix/var/nix/gcroots/docker/${PATHS.app.slice('/nix/store/'.length)}`), PATHS.app);
  });
}
