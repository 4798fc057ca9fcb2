import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, statSync, utimesSync } from 'node:fs';
import path from 'node:path';
import { Readable } from 'node:stream';
import t from 'tap';
import type { Digest } from '../../../src/core/digest.ts';
import { hexOf } from '../../../src/core/digest.ts';
import { directoryStream } from '../../../src/image/directory-stream.ts';
import type { IngestSource } from '../../../src/store/ingest/ingest.ts';
import { storeUidBase } from '../../helpers/base-range.ts';
import { requires } from '../../helpers/requires.ts';
import { importFrom, LIVE, run, scratchFor, skopeoCopy, withStore } from './test-store.ts';
import { BOTTOM, layerTar, sha256, TOP, tinyImage, writeDocker25Archive, writeDockerArchive, writeTar } from './tiny-image.ts';

requires(t, 'root', 'launcher', 'skopeo', 'zstd', 'buildah');
t.setTimeout(300_000);

const IMAGE = tinyImage([BOTTOM, TOP]);
const DIFF_IDS = IMAGE.layers.map(sha256);

t.test('Store.importArchive() reads what docker, skopeo and buildah write', async (t) => {
  const dir = scratchFor(t);
  const classic = await writeDockerArchive(dir, IMAGE, ['tiny:1']);
  const file = (name: string): string => path.join(dir, name);
  skopeoCopy(`docker-archive:${classic}`, `docker-archive:${file('skopeo.tar')}:tiny:1`);
  skopeoCopy(`docker-archive:${classic}`, `oci-archive:${file('oci.tar')}:tiny:1`);
  skopeoCopy(`docker-archive:${classic}`, `oci-archive:${file('plain.tar')}:tiny:1`, '--dest-oci-accept-uncompressed-layers');
  skopeoCopy(`docker-archive:${classic}`, `oci-archive:${file('zstd.tar')}:tiny:1`, '--dest-compress-format', 'zstd');
  skopeoCopy(`docker-archive:${classic}`, `oci:${file('layout')}:tiny:1`);
  execFileSync('tar', ['-C', file('layout'), '-cf', file('dots.tar'), '.']);
  for (const tar of ['classic', 'oci']) {
    execFileSync('gzip', ['-k', file(`${tar}.tar`)]);
    execFileSync('zstd', ['-q', file(`${tar}.tar`)]);
  }
  const rows: [string, () => Promise<IngestSource | string>, string][] = [
    ['docker save before version 25', async () => classic, 'none'],
    ['docker save since version 25', async () => await writeDocker25Archive(dir, IMAGE, 'tiny:1'), 'none'],
    ['a docker-archive of skopeo', async () => file('skopeo.tar'), 'none'],
    ['an OCI archive of skopeo', async () => file('oci.tar'), 'gzip'],
    ['an OCI archive with plain layers', async () => file('plain.tar'), 'none'],
    ['an OCI archive with zstd layers', async () => file('zstd.tar'), 'zstd'],
    ['an OCI layout directory', async () => await directoryStream(file('layout')), 'gzip'],
    ['an OCI layout with ./ in front of names', async () => file('dots.tar'), 'gzip'],
    ['a docker-archive in gzip', async () => file('classic.tar.gz'), 'none'],
    ['a docker-archive in zstd', async () => file('classic.tar.zst'), 'none'],
    ['an OCI archive in gzip', async () => file('oci.tar.gz'), 'gzip'],
    ['an OCI archive in zstd', async () => file('oci.tar.zst'), 'gzip'],
  ];
  for (const [name, open, compression] of rows) {
    await withStore(t, dir, async (store) => {
      const image = await importFrom(store, await open());
      t.same(image.names, ['tiny:1'], name);
      t.same(
        image.layers.map((layer) => [layer.diffId, layer.compression]),
        DIFF_IDS.map((diffId) => [diffId, compression]),
        name,
      );
      t.match(store.readConfig(image).config, { Env: ['PATH=/bin'], Cmd: ['/bin/tool'] });
      t.same(await store.verifyBlobs(LIVE), [], 'every blob has its digest');
      store.removeImage(1000, image.id);
    });
    t.same(readdirSync(file('state/layers')), [], 'layers of a removed image are gone');
    t.same(readdirSync(file('state/blobs/sha256')), [], 'and so are blobs');
  }
});

t.test('Store.importArchive() reads a file by its descriptor, wherever that stands', async (t) => {
  const dir = scratchFor(t);
  const classic = await writeDockerArchive(dir, IMAGE, ['tiny:1']);
  execFileSync('gzip', ['-k', classic]);
  execFileSync('zstd', ['-q', classic]);
  for (const file of [classic, `${classic}.gz`, `${classic}.zst`]) {
    const fd = openSync(file, 'r');
    await withStore(t, dir, async (store) => {
      const image = await importFrom(store, { fd });
      t.equal(image.sourceDigest, sha256(readFileSync(file)));
      t.same(
        image.layers.map((layer) => layer.diffId),
        DIFF_IDS,
      );
      t.same(store.findImage(1000, sha256(readFileSync(file))), image, 'it is found by the digest of the archive');
    });
    closeSync(fd);
  }
});

t.test('Store.importArchive() refuses a file that changes while it is read', async (t) => {
  const dir = scratchFor(t);
  const file = await writeDockerArchive(dir, IMAGE, ['tiny:1']);
  await withStore(t, dir, async (store) => {
    const fd = openSync(file, 'r');
    const touch = (): void => utimesSync(file, 1, 1);
    await t.rejects(store.importArchive(1000, { fd }, { name: null, select: null, shared: false }, touch, LIVE), { code: 'E_CONFLICT' });
    t.same(store.listImages(0), []);
    closeSync(fd);
  });
});

t.test('Store.importArchive() takes what buildah commits', async (t) => {
  const dir = scratchFor(t);
  const storage = ['--root', path.join(dir, 'root'), '--runroot', path.join(dir, 'run'), '--storage-driver', 'vfs'];
  const env = { TMPDIR: dir };
  const container = run('buildah', [...storage, 'from', 'scratch'], env).trim();
  mkdirSync(path.join(dir, 'files'));
  execFileSync('tar', ['-C', path.join(dir, 'files'), '-xf', '-'], { input: BOTTOM });
  run('buildah', [...storage, 'copy', '-q', container, path.join(dir, 'files'), '/'], env);
  run('buildah', [...storage, 'config', '--env', 'A=1', '--cmd', 'sh', container], env);
  run('buildah', [...storage, 'commit', '-q', container, 'built'], env);
  for (const format of ['docker-archive', 'oci-archive']) {
    const file = path.join(dir, `${format}.tar`);
    run('buildah', [...storage, 'push', '-q', 'built', `${format}:${file}:built:2`], env);
    await withStore(t, dir, async (store) => {
      const image = await importFrom(store, file);
      t.ok(image.names.includes('built:2'), format);
      await using lease = await store.leaseImage(image, () => {}, LIVE);
      t.equal(readFileSync(path.join(lease.layers[0]?.path ?? '', 'etc/hello'), 'utf8'), 'one');
      t.match(store.readConfig(image).config?.Env, ['A=1']);
    });
  }
});

t.test('Store.importArchive() takes images without layers and with a layer twice', async (t) => {
  const dir = scratchFor(t);
  for (const layers of [[], [BOTTOM, TOP, BOTTOM]]) {
    const archive = await writeDockerArchive(dir, tinyImage(layers), ['x:1']);
    await withStore(t, dir, async (store) => {
      const image = await importFrom(store, archive);
      t.same(
        image.layers.map((layer) => layer.diffId),
        layers.map(sha256),
      );
      await using lease = await store.leaseImage(image, () => {}, LIVE);
      t.same(
        lease.layers.map((layer) => layer.diffId),
        layers.length === 0 ? [] : [sha256(TOP), sha256(BOTTOM)],
        'each once, where it stood last',
      );
    });
  }
});

t.test('Store.leaseImage() leaves out what a layer with an opaque root hides', async (t) => {
  const dir = scratchFor(t);
  const opaque = layerTar({ '.wh..wh..opq': {}, 'new': { body: 'x' } });
  const archive = await writeDockerArchive(dir, tinyImage([BOTTOM, opaque, TOP]), ['x:1']);
  await withStore(t, dir, async (store) => {
    await using lease = await store.leaseImage(await importFrom(store, archive), () => {}, LIVE);
    t.same(
      lease.layers.map((layer) => layer.diffId),
      [sha256(opaque), sha256(TOP)],
    );
  });
});

t.test('Store.importArchive() keeps no setuid file of host root, and lets nobody into its directories (A42)', async (t) => {
  const dir = scratchFor(t);
  const archive = await writeDockerArchive(dir, IMAGE, ['tiny:1']);
  await withStore(t, dir, async (store) => {
    const image = await importFrom(store, archive);
    const mode = (name: string): number => statSync(path.join(dir, 'state', name)).mode & 0o777;
    for (const name of ['.', 'blobs', 'blobs/sha256', 'layers', 'ingest', 'trash']) t.equal(mode(name), 0o700, name);
    await using lease = await store.leaseImage(image, () => {}, LIVE);
    const tool = statSync(path.join(lease.layers[0]?.path ?? '', 'bin/tool'));
    t.same([tool.mode & 0o7777, tool.uid, tool.gid], [0o4755, storeUidBase, storeUidBase]);
    const blob = statSync(path.join(dir, 'state/blobs/sha256', hexOf(image.id)));
    t.same([blob.mode & 0o7777, blob.uid, blob.nlink], [0o400, 0, 1]);
  });
});

t.test('Store.importArchive() makes nothing visible of what it refuses', async (t) => {
  const dir = scratchFor(t);
  const config = IMAGE.config;
  const manifest = (layers: string[], name = 'c.json'): Buffer =>
    Buffer.from(JSON.stringify([{ Config: name, RepoTags: ['x:1'], Layers: layers }]));
  const files = { 'a.tar': BOTTOM, 'b.tar': TOP, 'c.json': config };
  const whole = readFileSync(await writeDockerArchive(dir, IMAGE, ['x:1']));
  const tar = async (contents: Record<string, Buffer>): Promise<Buffer> =>
    readFileSync(await writeTar(path.join(dir, 'hostile.tar'), contents));
  const gzip = (bytes: Buffer): Buffer => execFileSync('gzip', ['-c'], { input: bytes, maxBuffer: 2 ** 30 });
  const zstd = (bytes: Buffer): Buffer => execFileSync('zstd', ['-q', '-c'], { input: bytes, maxBuffer: 2 ** 30 });
  const evil = layerTar({ '../x': { body: 'x' } });
  const flipped = Buffer.from(TOP);
  flipped[600] = (flipped[600] ?? 0) ^ 1;
  const rows: [string, Buffer, string][] = [
    ['A54 layers in the wrong order', await tar({ ...files, 'manifest.json': manifest(['b.tar', 'a.tar']) }), 'E_MANIFEST'],
    [
      'A54 a gzip layer with another diffID',
      await tar({ ...files, 'b.tar': gzip(BOTTOM), 'manifest.json': manifest(['a.tar', 'b.tar']) }),
      'E_MANIFEST',
    ],
    [
      'A54 a zstd layer with another diffID',
      await tar({ ...files, 'b.tar': zstd(BOTTOM), 'manifest.json': manifest(['a.tar', 'b.tar']) }),
      'E_MANIFEST',
    ],
    [
      'A53 a layer with one bit changed',
      await tar({ ...files, 'b.tar': flipped, 'manifest.json': manifest(['a.tar', 'b.tar']) }),
      'E_MANIFEST',
    ],
    [
      'A53 a layer cut short',
      await tar({ ...files, 'b.tar': TOP.subarray(0, 1024), 'manifest.json': manifest(['a.tar', 'b.tar']) }),
      'E_MANIFEST',
    ],
    [
      'A31 a layer in gzip in gzip',
      await tar({ ...files, 'b.tar': gzip(gzip(TOP)), 'manifest.json': manifest(['a.tar', 'b.tar']) }),
      'E_ARCHIVE_TRUNCATED',
    ],
    [
      'A01 a hostile layer',
      await tar({ 'a.tar': evil, 'c.json': tinyImage([evil]).config, 'manifest.json': manifest(['a.tar']) }),
      'E_ARCHIVE_PATH',
    ],
    [
      'A61 a layer that is no tar',
      await tar({
        'a.tar': Buffer.alloc(4096, 'E'),
        'c.json': tinyImage([Buffer.alloc(4096, 'E')]).config,
        'manifest.json': manifest(['a.tar']),
      }),
      'E_ARCHIVE_HEADER',
    ],
    ['A64 a member that is a path', layerTar({ '../../etc/shadow': { body: 'x' } }), 'E_ARCHIVE_PATH'],
    ['A64 an absolute member', layerTar({ '/etc/shadow': { body: 'x' } }), 'E_ARCHIVE_PATH'],
    ['A64 a device', layerTar({ dev: { type: 'block', devMajor: 8 } }), 'E_ARCHIVE_TYPE'],
    ['A64 a FIFO', layerTar({ fifo: { type: 'fifo' } }), 'E_ARCHIVE_TYPE'],
    ['A64 a link out of the archive', layerTar({ l: { type: 'symlink', linkName: '../../etc/shadow' } }), 'E_ARCHIVE_LINK'],
    ['A27 an archive cut short', whole.subarray(0, 5000), 'E_ARCHIVE_TRUNCATED'],
    ['A27 an archive cut at its end', whole.subarray(0, whole.length - 1024), 'E_ARCHIVE_TRUNCATED'],
    ['A27 a gzip archive cut short', gzip(whole).subarray(0, 300), 'E_COMPRESSION'],
    ['A27 a zstd archive cut short', zstd(whole).subarray(0, 300), 'E_COMPRESSION'],
    ['A28 data behind the end', Buffer.concat([whole, Buffer.alloc(2 * 1024 * 1024, 1)]), 'E_ARCHIVE_TRAILING'],
    ['A28 data behind gzip', Buffer.concat([gzip(whole), Buffer.from('garbage')]), 'E_COMPRESSION'],
    ['A23 no archive at all', Buffer.alloc(10_000, 'x'), 'E_ARCHIVE_HEADER'],
    ['A27 nothing', Buffer.alloc(0), 'E_ARCHIVE_TRUNCATED'],
    ['A31 a docker-archive in gzip in gzip', gzip(gzip(whole)), 'E_ARCHIVE_HEADER'],
    ['A30 damaged zstd', Buffer.concat([zstd(whole).subarray(0, 40), Buffer.alloc(100, 7)]), 'E_COMPRESSION'],
  ];
  await withStore(t, dir, async (store) => {
    for (const [name, bytes, code] of rows) {
      await t.rejects(importFrom(store, Readable.from([bytes])), { code }, name);
      t.same(store.listImages(0), [], name);
    }
  });
  for (const part of ['blobs/sha256', 'layers', 'ingest', 'trash']) t.same(readdirSync(path.join(dir, 'state', part)), [], part);
});

t.test('Store.importArchive() leaves the stream of an upload alone, also when it fails', async (t) => {
  const dir = scratchFor(t);
  await withStore(t, dir, async (store) => {
    const source = new Readable({
      read() {
        this.push(Buffer.alloc(65_536, 'x'));
      },
    });
    await t.rejects(importFrom(store, source), { code: 'E_ARCHIVE_HEADER' });
    t.equal(source.destroyed, false);
    source.destroy();
  });
});

t.test('Store.importArchive() fails with an upload that breaks off', async (t) => {
  const dir = scratchFor(t);
  const whole = readFileSync(await writeDockerArchive(dir, IMAGE, ['x:1']));
  await withStore(t, dir, async (store) => {
    const broken = breakingOff(whole.subarray(0, 3000), undefined);
    await t.rejects(importFrom(store, broken), { code: 'E_ARCHIVE_TRUNCATED', message: /upload/ });
    const failing = breakingOff(whole.subarray(0, 3000), new Error('connection reset'));
    await t.rejects(importFrom(store, failing), { message: 'connection reset' });
    t.same(store.listImages(0), []);
  });
});

/** A stream that gives these bytes and then, instead of an end, closes. */
function breakingOff(bytes: Buffer, error: Error | undefined): Readable {
  const stream = new Readable({ read() {} });
  stream.push(bytes);
  stream.once('data', () => setImmediate(() => stream.destroy(error)));
  return stream.pause();
}

t.test('Store.importArchive() stops when it is cancelled', async (t) => {
  const dir = scratchFor(t);
  const whole = readFileSync(await writeDockerArchive(dir, IMAGE, ['x:1']));
  await withStore(t, dir, async (store) => {
    const stalled = new Readable({ read() {} });
    stalled.push(whole.subarray(0, 3000));
    const stop = new AbortController();
    const importing = store.importArchive(
      1000,
      stalled,
      { name: null, select: null, shared: false },
      () => stop.abort(new Error('enough')),
      stop.signal,
    );
    await t.rejects(importing, { message: 'enough' });
    stalled.destroy();
  });
  t.same(readdirSync(path.join(dir, 'state/ingest')), []);
});

t.test('Store.importArchive() keeps to its limits', async (t) => {
  const dir = scratchFor(t);
  const file = await writeDockerArchive(dir, IMAGE, ['x:1']);
  const many = layerTar(Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`m${n}`, {}])));
  const bomb = execFileSync('gzip', ['-1', '-c'], {
    input: layerTar({ zeros: { body: '0'.repeat(80 * 1024 * 1024) } }),
    maxBuffer: 2 ** 30,
  });
  const size = statSync(file).size;
  const limited = async (ingestLimits: object, source: IngestSource, code: string): Promise<void> => {
    await withStore(t, dir, async (store) => void (await t.rejects(importFrom(store, source), { code })), { ingestLimits });
  };
  await limited({ maxSourceBytes: size - 1 }, Readable.from([readFileSync(file)]), 'E_LIMIT_INGEST');
  const fd = openSync(file, 'r');
  await limited({ maxSourceBytes: size - 1 }, { fd }, 'E_LIMIT_INGEST');
  closeSync(fd);
  await limited({ maxBytes: 1000 }, Readable.from([readFileSync(file)]), 'E_LIMIT_UNPACKED');
  await limited({ maxBytes: 1024 * 1024 }, Readable.from([bomb]), 'E_LIMIT_UNPACKED');
  await limited({}, Readable.from([bomb]), 'E_LIMIT_RATIO');
  const zeros = execFileSync('sh', ['-c', 'head -c 1000000000 /dev/zero | zstd -1 -q -c'], { maxBuffer: 2 ** 30 });
  const endlessFile = layerTar({ zeros: { size: 8_000_000_000 } }).subarray(0, 512);
  const zstdBomb = execFileSync('zstd', ['-q', '-c'], { input: endlessFile });
  await limited({}, Readable.from([zstdBomb, zeros]), 'E_LIMIT_RATIO');
  await limited({ maxMembers: 19 }, Readable.from([many]), 'E_LIMIT_ENTRIES');
});

t.test('Store.importArchive() asks for room before and after the upload', async (t) => {
  const dir = scratchFor(t);
  const file = await writeDockerArchive(dir, IMAGE, ['x:1']);
  const asked: { uid: number; bytes: number }[] = [];
  const admit = (request: { uid: number; bytes: number }): void => {
    asked.push(request);
    if (request.bytes > 0) throw new Error('full');
  };
  await withStore(t, dir, async (store) => void (await t.rejects(importFrom(store, file), { message: 'full' })), { admit });
  t.same(asked, [
    { uid: 1000, bytes: 0 },
    { uid: 1000, bytes: statSync(file).size },
  ]);
});

t.test('Store.importArchive() chooses by exact name, and adds the name it is given', async (t) => {
  const dir = scratchFor(t);
  const [one, two] = [tinyImage([BOTTOM]), tinyImage([TOP])];
  const archive = await writeTar(path.join(dir, 'two.tar'), {
    'a.tar': BOTTOM,
    'b.tar': TOP,
    'one.json': one.config,
    'two.json': two.config,
    'manifest.json': Buffer.from(
      JSON.stringify([
        { Config: 'one.json', RepoTags: ['foo:latest'], Layers: ['a.tar'] },
        { Config: 'two.json', RepoTags: ['foo:lat'], Layers: ['b.tar'] },
      ]),
    ),
  });
  await withStore(t, dir, async (store) => {
    await t.rejects(importFrom(store, archive), { code: 'E_IMAGE_AMBIGUOUS', message: /foo:latest; foo:lat/ });
    t.equal((await importFrom(store, archive, 'foo:lat')).id, sha256(two.config));
    const ids = new Set<Digest>([(await importFrom(store, archive, 'foo')).id, (await importFrom(store, archive, sha256(one.config))).id]);
    t.same(ids, new Set([sha256(one.config)]));
    const options = { name: 'mine', select: 'foo:lat', shared: true };
    const fd = openSync(archive, 'r');
    const image = await store.importArchive(1000, { fd }, options, () => {}, LIVE);
    closeSync(fd);
    t.same([image.names, image.shared], [['foo:lat', 'mine:latest'], true]);
  });
});
