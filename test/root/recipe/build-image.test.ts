import { execFileSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import { sessionOf } from '../../../src/api/embedded.ts';
import type { TarEntry } from '../../../src/core/tar/entry.ts';
import { type BuildImageArgs, buildImage } from '../../../src/recipe/build/build-image.ts';
import { mkRootLayer } from '../../../src/recipe/build/root-layer.ts';
import { closeTestEngine, openTestEngine, ROOT, readTar, type TestEngine } from '../../helpers/engine.ts';
import { contextWith, JUDGES, type Judged, judgeArchive, temporary, writeImage } from '../../helpers/image-judges.ts';
import { requires } from '../../helpers/requires.ts';
import { toolsLayer, writeBase } from '../../helpers/tools-base.ts';
import { layerTar, sha256 } from '../store/tiny-image.ts';

t.setTimeout(180_000);
requires(t, ...JUDGES);
const env = await openTestEngine(t);
if (env !== null) {
  await buildTests(env);
  closeTestEngine(t, env);
}

async function buildTests(env: TestEngine): Promise<void> {
  const context = contextWith(sessionOf(env.engine, ROOT));
  const { signal } = context;
  const bases = temporary(t);
  const tools = await toolsLayer();
  const base = writeBase(bases, 'tools:1', [tools], { Env: ['PATH=/bin'], Cmd: ['/bin/bash'] });

  // Uncompressed: skopeo and podman up to 2022 cannot read a gzip archive of some size (klauspost/pgzip, pull request 50).
  const judged = async (t: Test, args: BuildImageArgs): Promise<Judged> => {
    await using image = await buildImage({ ...args, compressor: 'none' }, context);
    return judgeArchive(t, await writeImage(t, image));
  };
  const layerOf = async (args: Omit<Parameters<typeof mkRootLayer>[0], 'baseJson'>): Promise<{ header: TarEntry; body: Buffer }[]> => {
    await using made = await mkRootLayer({ ...args, baseJson: {} }, context);
    return readTar(await buffer(made.layer.open(signal)));
  };
  const namesOf = (members: { header: TarEntry }[]): string[] => members.map(({ header }) => header.name.toString());
  const item = (t: Test, files: Record<string, string>): string => {
    const root = path.join(temporary(t), 'item');
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(path.dirname(path.join(root, name)), { recursive: true });
      writeFileSync(path.join(root, name), text);
    }
    return root;
  };

  t.test('buildImage() runs runAsRoot on a base; podman, skopeo and umoci read the image (seed check 8)', async (t) => {
    const { config, names, rootfs } = await judged(t, {
      name: 'service',
      tag: '1',
      fromImage: base,
      copyToRoot: item(t, { 'srv/index.html': 'hello\n' }),
      runAsRoot: 'echo web:x:99:98::/:/bin/sh >> /etc/passwd; mkdir -p /var/log/web; chown web:98 /var/log/web',
      config: { Cmd: ['/usr/sbin/service'], ExposedPorts: { '80/tcp': {} } },
    });
    t.same(names, ['service:1']);
    t.same(config.config.Cmd, ['/usr/sbin/service']);
    t.match(readFileSync(`${rootfs}/etc/passwd`, 'utf8'), /^web:/m);
    t.same([lstatSync(`${rootfs}/var/log/web`).uid, lstatSync(`${rootfs}/var/log/web`).gid], [99, 98], 'owners are kept');
    t.equal(readFileSync(`${rootfs}/srv/index.html`, 'utf8'), 'hello\n');
    t.ok(existsSync(`${rootfs}/bin/bash`), 'the base is below');
  });

  t.test('buildImage() hands scripts on as they are, quotes and parentheses too (seed check 9)', async (t) => {
    const { rootfs } = await judged(t, {
      name: 'quotes',
      tag: '1',
      fromImage: base,
      runAsRoot: 'echo "(\'runAsRoot\' $((1+1)))" > /from-root',
      extraCommands: 'echo "(\'extraCommands\' $(basename "$PWD"))" > from-extra',
    });
    t.equal(readFileSync(`${rootfs}/from-root`, 'utf8'), "('runAsRoot' 2)\n");
    t.equal(readFileSync(`${rootfs}/from-extra`, 'utf8'), "('extraCommands' layer)\n");
  });

  t.test('buildImage() runs extraCommands without runAsRoot, and without a base in tools of this machine', async (t) => {
    const { rootfs } = await judged(t, {
      name: 'pure',
      tag: '1',
      copyToRoot: item(t, { 'bin/x': 'x', 'etc/y': 'y' }),
      extraCommands: 'set -o pipefail; find . -type f | sort | tar -cf list.tar -T -; rm etc/y; ln bin/x bin/z; chown 5:6 bin/x',
      uid: 1000,
      gid: 100,
    });
    t.same(readdirSync(rootfs).sort(), ['bin', 'etc', 'list.tar']);
    t.same(readdirSync(`${rootfs}/etc`), []);
    t.equal(lstatSync(`${rootfs}/bin/x`).ino, lstatSync(`${rootfs}/bin/z`).ino, 'hard links are links');
    t.same([lstatSync(`${rootfs}/bin/x`).uid, lstatSync(`${rootfs}/bin/x`).gid], [1000, 100], 'all files have the owner that was told');
    const paths = execFileSync('tar', ['-tf', `${rootfs}/list.tar`], { encoding: 'utf8' });
    t.equal(paths, './bin/x\n./etc/y\n');
  });

  t.test('buildImage() runs extraCommands in the tools that are named, in the base, or in tools of this machine', async (t) => {
    const noShell = writeBase(bases, 'no-shell:1', [layerTar({ 'data/': {}, 'data/x': { body: 'x' } })]);
    const marked = writeBase(bases, 'marked:1', [tools, layerTar({ 'etc/': {}, 'etc/mark': { body: 'of the base' } })]);
    const which = async (args: Omit<BuildImageArgs, 'name'>): Promise<string | undefined> => {
      const extraCommands =
        'if [ -e /etc/mark ]; then cat /etc/mark; elif [ -e /etc/debian_version ]; then echo debian; else echo host; fi > which';
      await using image = await buildImage({ name: 'n', compressor: 'none', extraCommands, ...args }, context);
      const archive = readTar(await buffer(image.open(signal)));
      const layer = archive.find(({ body }) => sha256(body) === image.layer.diffId)?.body ?? Buffer.alloc(0);
      return readTar(layer)
        .find(({ header }) => header.name.toString() === 'which')
        ?.body.toString()
        .trim();
    };
    t.equal(await which({ fromImage: noShell }), 'host');
    t.equal(await which({ fromImage: marked }), 'of the base');
    t.equal(await which({ fromImage: noShell, tools: marked }), 'of the base');
    t.equal(await which({ fromImage: marked, tools: 'debian:bookworm' }), 'debian', 'a name in the engine');
  });

  t.test('buildImage() lets extraCommands see what the script left, and whiteouts survive it', async (t) => {
    const members = await layerOf({
      name: 'n',
      fromImage: base,
      runAsRoot: 'rm /bin/yes; mkdir /made; echo 1 > /made/file; rm -r /etc; mkdir /etc',
      extraCommands: 'cat made/file; rm -r made; mkdir -p bin; echo again > bin/yes; ls -A > listed',
    });
    const names = namesOf(members);
    t.ok(names.includes('bin/yes') && !names.includes('bin/.wh.yes'), 'what is there again is not deleted');
    t.ok(names.includes('etc/.wh..wh..opq'), 'a directory made anew hides the old one');
    t.notOk(names.includes('made/'));
    const listed = members.find(({ header }) => header.name.toString() === 'listed')?.body.toString();
    t.equal(listed, 'bin\netc\nlisted\n', 'marks of deletion are not shown');
  });

  t.test('mkRootLayer() leaves nothing of its own in the layer: no /tmp, no deletions of /dev, /proc and /sys', async (t) => {
    const bare = writeBase(bases, 'bare:1', [await toolsLayer(['tmp'])]);
    t.same(namesOf(await layerOf({ name: 'n', fromImage: base, runAsRoot: 'true' })), []);
    t.same(namesOf(await layerOf({ name: 'n', fromImage: bare, runAsRoot: 'echo x > /x' })), ['./', 'x']);
  });

  t.test('mkRootLayer() shows the layers of the base in their order, repeated ones too (seed checks 12, 13, 14)', async (t) => {
    const one = layerTar({ 'order/': {}, 'order/a': { body: '1' }, 'order/b': { body: '1' }, 'order/c': { body: '1' } });
    const two = layerTar({ 'order/': {}, 'order/b': { body: '2' }, 'order/c': { body: '2' } });
    const three = layerTar({ 'order/': {}, 'order/c': { body: '3' } });
    const read = 'cat /order/a /order/b /order/c > /seen';
    const seen = async (layers: Buffer[]): Promise<string | undefined> => {
      const fromImage = writeBase(bases, 'order:1', [tools, ...layers]);
      return (await layerOf({ name: 'n', fromImage, runAsRoot: read }))
        .find(({ header }) => header.name.toString() === 'seen')
        ?.body.toString();
    };
    t.equal(await seen([one, two, three]), '123');
    t.equal(await seen([one, two, three, one]), '111', 'the last of a repeated layer counts');
  });

  t.test('mkRootLayer() puts contents where the script finds them, with their modes, as root’s', async (t) => {
    const copied = item(t, { 'opt/data': 'contents', 'bin/yes': 'replaced' });
    execFileSync('chmod', ['4755', path.join(copied, 'opt/data')]);
    const members = await layerOf({ name: 'n', fromImage: base, copyToRoot: copied, runAsRoot: 'cat /opt/data /bin/yes > /seen' });
    t.same(namesOf(members), ['./', 'bin/', 'bin/yes', 'opt/', 'opt/data', 'seen']);
    const byName = new Map(members.map(({ header, body }) => [header.name.toString(), { header, body }]));
    t.equal(byName.get('seen')?.body.toString(), 'contentsreplaced');
    t.match(byName.get('opt/data')?.header, { uid: 0, gid: 0, mode: 0o4755 });
  });

  t.test('mkRootLayer() needs no base when the contents bring a shell', async (t) => {
    const root = path.join(temporary(t), 'root');
    mkdirSync(root);
    execFileSync('tar', ['-xf', '-', '-C', root], { input: tools });
    const names = namesOf(await layerOf({ name: 'n', copyToRoot: root, runAsRoot: 'echo x > /x' }));
    t.ok(names.includes('x') && names.includes('bin/bash'));
  });

  t.test('buildImage() fails with the script’s own failure, and gives no image', async (t) => {
    const failing = { name: 'n', fromImage: base, runAsRoot: 'echo before; false; echo behind' };
    await t.rejects(buildImage(failing, context), { code: 'E_SCRIPT', cause: { exitStatus: 1 } });
    t.ok(context.notes.includes('before') && !context.notes.includes('behind'));
    await t.rejects(buildImage({ name: 'n', extraCommands: 'exit 7' }, context), { code: 'E_SCRIPT', cause: { exitStatus: 7 } });
    const kept = env.engine.listJobs(ROOT);
    t.same(
      kept.map(({ state }) => state),
      ['failed', 'failed'],
      'with their logs, and no other job',
    );
    for (const { id } of kept) t.ok(context.notes.includes(`Job ${id} has failed and is kept: "rootlayer job logs ${id}" shows its log.`));
  });

  t.test('buildImage() holds diskSize and buildVMMemorySize, in MiB', async (t) => {
    const full = { name: 'n', fromImage: base, runAsRoot: 'head -c 40000000 /dev/zero > /large', diskSize: 24 };
    await t.rejects(buildImage(full, context), { code: 'E_LIMIT_DISK' });
    const hungry = 'x=$(head -c 100000000 /dev/zero | tr "\\0" x); echo ${#x}';
    await t.rejects(buildImage({ name: 'n', fromImage: base, runAsRoot: hungry, buildVMMemorySize: 48 }, context), {
      code: 'E_LIMIT_MEMORY',
    });
  });

  t.test('buildImage() gives the same bytes when its scripts run again', async (t) => {
    const args = { name: 'n', fromImage: base, runAsRoot: 'date > /dev/null; echo x > /x', extraCommands: 'echo y > y' };
    const bytes = [0, 1].map(async () => {
      await using image = await buildImage(args, context);
      return await buffer(image.open(signal));
    });
    const [first, second] = await Promise.all(bytes);
    t.ok(first?.equals(second ?? Buffer.alloc(0)));
  });

  t.test('buildImage() ends its job when the signal aborts', async (t) => {
    const controller = new AbortController();
    const notes: string[] = [];
    const note = (line: string): void => {
      notes.push(line);
      if (line === 'started') controller.abort();
    };
    const stopped = { ...context, note, signal: controller.signal };
    const args = { name: 'n', fromImage: base, runAsRoot: 'echo started; sleep 60' };
    const before = env.engine.listJobs(ROOT).length;
    await t.rejects(buildImage(args, stopped), { code: 'E_CANCELLED' });
    t.equal(env.engine.listJobs(ROOT).length, before, 'a cancelled job is removed');
  });

  t.test('buildImage() builds on what it built, links and deletions included (seed check 10)', async (t) => {
    await using lower = await buildImage(
      { name: 'lower', tag: '1', fromImage: base, runAsRoot: 'mkdir /d; echo 1 > /d/a; ln -s a /d/b' },
      context,
    );
    const fromImage = await writeImage(t, lower);
    const { rootfs } = await judged(t, { name: 'upper', tag: '1', fromImage, runAsRoot: 'cat /d/b > /copy; rm /d/a' });
    t.same(readdirSync(`${rootfs}/d`), ['b']);
    t.equal(readlinkSync(`${rootfs}/d/b`), 'a');
    t.equal(readFileSync(`${rootfs}/copy`, 'utf8'), '1\n');
  });
}
