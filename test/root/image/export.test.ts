import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createWriteStream, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { gunzipSync } from 'node:zlib';
import t from 'tap';
import { hexOf } from '../../../src/core/digest.ts';
import type { Compression, ImageRecord } from '../../../src/core/image.ts';
import { directoryStream } from '../../../src/image/directory-stream.ts';
import { dockerArchive } from '../../../src/image/docker-archive.ts';
import type { ImageSource } from '../../../src/image/image-source.ts';
import { layerStream } from '../../../src/image/layer-stream.ts';
import { ociArchive } from '../../../src/image/oci-archive.ts';
import type { Store } from '../../../src/store/store.ts';
import { storeUidBase } from '../../helpers/base-range.ts';
import { requires } from '../../helpers/requires.ts';
import { diffTrees, listTree } from '../../helpers/tree.ts';
import { UmociLayout } from '../../helpers/umoci.ts';
import { importFrom, LIVE, run, scratchFor, skopeoCopy, withStore } from '../store/test-store.ts';
import { BOTTOM, sha256, TOP, tinyImage, writeDockerArchive } from '../store/tiny-image.ts';

requires(t, 'root', 'launcher', 'skopeo', 'umoci', 'buildah', 'podman', 'zstd');
t.setTimeout(300_000);

const IMAGE = tinyImage([BOTTOM, TOP, BOTTOM]);

function sourceOf(store: Store, image: ImageRecord): ImageSource {
  return {
    config: { digest: image.id, text: store.readConfigText(image) },
    layers: image.layers.map((layer) => ({ ...layer, tarBytes: store.getTarBytes(layer.blobDigest) })),
    names: image.names,
    openBlob: (digest) => store.openBlob(digest),
    uidBase: store.uidBase,
  };
}

/** Archives of the image with its layers stored in each way. */
async function archives(dir: string): Promise<[Compression, string][]> {
  const none = await writeDockerArchive(dir, IMAGE, ['tiny:1']);
  const [gzip, zstd] = [path.join(dir, 'gzip.tar'), path.join(dir, 'zstd.tar')];
  skopeoCopy(`docker-archive:${none}`, `oci-archive:${gzip}:tiny:1`);
  skopeoCopy(`docker-archive:${none}`, `oci-archive:${zstd}:tiny:1`, '--dest-compress-format', 'zstd');
  return [
    ['none', none],
    ['gzip', gzip],
    ['zstd', zstd],
  ];
}

function extract(archive: string, to: string): string {
  mkdirSync(to);
  execFileSync('tar', ['-C', to, '-xf', archive]);
  return to;
}

t.test('ociArchive() is read by skopeo and unpacked by umoci to the tree that the layers make', async (t) => {
  const dir = scratchFor(t);
  const judge = new UmociLayout(path.join(dir, 'judge'));
  const files = IMAGE.layers.map((layer, n) => {
    writeFileSync(path.join(dir, `layer-${n}`), layer);
    return path.join(dir, `layer-${n}`);
  });
  judge.addImage('want', files);
  judge.unpack('want', path.join(dir, 'want'));
  for (const [compression, archive] of await archives(dir)) {
    const file = path.join(dir, `exported-${compression}.tar`);
    await withStore(t, dir, async (store) => {
      const image = await importFrom(store, archive);
      t.ok(
        image.layers.every((layer) => layer.compression === compression),
        compression,
      );
      await pipeline(ociArchive(sourceOf(store, image), LIVE), createWriteStream(file));
      t.equal(sha256(await buffer(ociArchive(sourceOf(store, image), LIVE))), sha256(readFileSync(file)), 'the same bytes again');
    });
    const facts = JSON.parse(run('skopeo', ['inspect', '--config', `oci-archive:${file}:1`])) as { rootfs: { diff_ids: string[] } };
    t.same(facts.rootfs.diff_ids, IMAGE.layers.map(sha256));
    const layout = extract(file, path.join(dir, `layout-${compression}`));
    if (compression !== 'zstd') {
      // umoci 0.4.7 knows no zstd.
      run('umoci', ['raw', 'unpack', '--image', `${layout}:1`, path.join(dir, `got-${compression}`)]);
      t.same(diffTrees(listTree(path.join(dir, 'want')), listTree(path.join(dir, `got-${compression}`))), []);
    }
    skopeoCopy(`oci:${layout}:1`, `oci:${path.join(dir, `copied-${compression}`)}:tiny:1`);
    await withStore(t, dir, async (store) => {
      store.removeImage(0, 'tiny:1');
      const back = await importFrom(store, await directoryStream(layout));
      t.same([back.names, back.layers.map((layer) => layer.diffId)], [['tiny:1'], IMAGE.layers.map(sha256)], 'and is read back');
      store.removeImage(0, 'tiny:1');
    });
  }
});

/** Podman keeps its locks and its state in /dev/shm and /run, unless told otherwise. */
function podmanEnv(dir: string): Record<string, string> {
  const file = path.join(dir, 'containers.conf');
  mkdirSync(path.join(dir, 'podman'));
  const paths = ['tmp_dir', 'static_dir', 'volume_path'].map((key) => `${key}="${path.join(dir, 'podman', key)}"`);
  writeFileSync(file, ['[engine]', 'lock_type="file"', ...paths, ''].join('\n'));
  return { TMPDIR: dir, CONTAINERS_CONF: file };
}

t.test('dockerArchive() is read by skopeo, buildah and podman', async (t) => {
  const dir = scratchFor(t);
  const storage = ['--root', path.join(dir, 'root'), '--runroot', path.join(dir, 'run'), '--storage-driver', 'vfs'];
  const env = podmanEnv(dir);
  for (const [compression, archive] of await archives(dir)) {
    const file = path.join(dir, `exported-${compression}.tar`);
    await withStore(t, dir, async (store) => {
      const image = await importFrom(store, archive);
      await pipeline(dockerArchive(sourceOf(store, image), LIVE), createWriteStream(file));
      store.removeImage(0, image.id);
      t.same(JSON.parse(run('tar', ['-xOf', file, 'manifest.json'])), [
        {
          Config: `${hexOf(image.id)}.json`,
          RepoTags: ['tiny:1'],
          Layers: IMAGE.layers.map((layer) => `${hexOf(sha256(layer))}/layer.tar`),
        },
      ]);
    });
    const facts = JSON.parse(run('skopeo', ['inspect', '--config', `docker-archive:${file}`])) as { rootfs: { diff_ids: string[] } };
    t.same(facts.rootfs.diff_ids, IMAGE.layers.map(sha256), compression);
    skopeoCopy(`docker-archive:${file}`, `oci:${path.join(dir, `oci-${compression}`)}:x`);
    await withStore(t, dir, async (store) => {
      const back = await importFrom(store, file);
      t.same([back.names, back.layers.map((layer) => layer.diffId)], [['tiny:1'], IMAGE.layers.map(sha256)], 'and is read back');
      store.removeImage(0, 'tiny:1');
    });
    if (compression !== 'none') continue;
    t.match(run('podman', [...storage, 'load', '-q', '-i', file], env), /tiny:1/);
    run('podman', [...storage, 'rmi', '-a', '-f'], env);
    const id = run('buildah', [...storage, 'pull', '-q', `docker-archive:${file}`], env).trim();
    const container = run('buildah', [...storage, 'from', id], env).trim();
    const mounted = run('buildah', [...storage, 'mount', container], env).trim();
    t.equal(readFileSync(path.join(mounted, 'etc/hello'), 'utf8'), 'one');
    t.same(readdirSync(path.join(mounted, 'data')).sort(), ['a', 'b', 'c']);
    run('buildah', [...storage, 'rm', '-a'], env);
    run('buildah', [...storage, 'rmi', '-a'], env);
  }
});

t.test('dockerArchive() and ociArchive() write images without layers and without names', async (t) => {
  const dir = scratchFor(t);
  const archive = await writeDockerArchive(dir, tinyImage([]), []);
  await withStore(t, dir, async (store) => {
    const image = await importFrom(store, archive);
    for (const exporter of [dockerArchive, ociArchive]) {
      const file = path.join(dir, `${exporter.name}.tar`);
      await pipeline(exporter(sourceOf(store, image), LIVE), createWriteStream(file));
      t.same((await importFrom(store, file)).id, image.id, exporter.name);
    }
    t.match(run('skopeo', ['inspect', '--config', `oci-archive:${path.join(dir, 'ociArchive.tar')}:latest`]), /"rootfs"/);
  });
});

t.test('ociArchive() gives an entry for each name', async (t) => {
  const dir = scratchFor(t);
  const archive = await writeDockerArchive(dir, IMAGE, ['tiny:1', 'registry.example/tiny:2']);
  await withStore(t, dir, async (store) => {
    const file = path.join(dir, 'named.tar');
    await pipeline(ociArchive(sourceOf(store, await importFrom(store, archive)), LIVE), createWriteStream(file));
    const { manifests } = JSON.parse(run('tar', ['-xOf', file, 'index.json'])) as { manifests: { annotations: object }[] };
    t.same(
      manifests.map((entry) => entry.annotations),
      [
        { 'io.containerd.image.name': 'registry.example/tiny:2', 'org.opencontainers.image.ref.name': '2' },
        { 'io.containerd.image.name': 'docker.io/library/tiny:1', 'org.opencontainers.image.ref.name': '1' },
      ],
    );
  });
});

t.test('layerStream() gives a layer in each compression, the same each time', async (t) => {
  const dir = scratchFor(t);
  for (const [stored, archive] of await archives(dir)) {
    await withStore(t, dir, async (store) => {
      const image = await importFrom(store, archive);
      const layer = image.layers[1];
      if (layer === undefined) throw new Error('the image has no second layer');
      const tarBytes = store.getTarBytes(layer.blobDigest);
      const read = async (wanted: Compression): Promise<Buffer> => {
        const open = { fd: store.openBlob(layer.blobDigest), compression: stored, tarBytes };
        return await buffer(layerStream(open, wanted, storeUidBase, LIVE));
      };
      t.same(await read('none'), TOP, `${stored} to none`);
      const gzip = await read('gzip');
      t.same(gunzipSync(gzip), TOP, `${stored} to gzip`);
      t.same(await read('gzip'), gzip);
      if (stored === 'gzip') return;
      t.same(gzip.subarray(3, 8), Buffer.alloc(5), 'no name and no time');
      const zstd = await read('zstd');
      t.same(execFileSync('zstd', ['-dcq'], { input: zstd }), TOP, `${stored} to zstd`);
      t.same(await read('zstd'), zstd);
      store.removeImage(0, image.id);
    });
  }
});

t.test('layerStream() fails when the tar has another size, and when the blob is damaged', async (t) => {
  const dir = scratchFor(t);
  const before = createHash('sha256').update(TOP).digest('hex');
  const gzip = execFileSync('gzip', ['-c'], { input: TOP });
  await withStore(t, dir, async (store) => {
    const file = path.join(dir, 'state/x');
    for (const [bytes, tarBytes, code] of [
      [gzip, TOP.length - 1, 'E_STORE_CORRUPT'],
      [gzip, TOP.length + 1, 'E_STORE_CORRUPT'],
      [gzip.subarray(0, gzip.length - 20), TOP.length, 'E_COMPRESSION'],
    ] as const) {
      writeFileSync(file, bytes);
      await store.addBlob('job 1', { path: file, digest: sha256(bytes), sizeBytes: bytes.length });
      const open = { fd: store.openBlob(sha256(bytes)), compression: 'gzip', tarBytes } as const;
      await t.rejects(buffer(layerStream(open, 'none', storeUidBase, LIVE)), { code });
    }
  });
  t.equal(createHash('sha256').update(TOP).digest('hex'), before);
});

t.test('dockerArchive() ends its decompressor when the reader goes away', async (t) => {
  const dir = scratchFor(t);
  const [, [, archive] = ['none', '']] = await archives(dir);
  await withStore(t, dir, async (store) => {
    const stream = dockerArchive(sourceOf(store, await importFrom(store, archive)), LIVE);
    await new Promise((resolve) => stream.once('data', resolve));
    stream.destroy();
    await new Promise((resolve) => stream.once('close', resolve));
    t.ok(statSync(archive).size > 0);
  });
});
