import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { type DiffId, hexOf, parseDiffId } from '../../../src/core/digest.ts';
import { deriveConfig } from '../../../src/core/image-config.ts';
import { AT_FDCWD, close, mkdirAt, O_DIRECTORY, O_RDONLY, openAt } from '../../../src/host/libc.ts';
import { Store } from '../../../src/store/store.ts';
import { storeUidBase } from '../../helpers/base-range.ts';
import { requires } from '../../helpers/requires.ts';
import { importFrom, LIVE, scratchFor, withStore } from './test-store.ts';
import { BOTTOM, sha256, TOP, tinyImage, writeDockerArchive } from './tiny-image.ts';

requires(t, 'root', 'launcher');
t.setTimeout(300_000);

const IMAGE = tinyImage([BOTTOM, TOP]);
const HEXES = IMAGE.layers.map((layer) => hexOf(sha256(layer))).sort();

t.test("Store.findImage() finds nobody else's image, by whatever digest (A63)", async (t) => {
  const dir = scratchFor(t);
  const archive = await writeDockerArchive(dir, IMAGE, ['tiny:1']);
  await withStore(t, dir, async (store) => {
    const image = await importFrom(store, archive, null, 1000);
    for (const ref of ['tiny:1', image.id, sha256(readFileSync(archive)), sha256(BOTTOM), sha256(TOP)]) {
      t.throws(
        () => store.findImage(1001, ref),
        { code: 'E_NOT_FOUND', message: `Cannot find image "${ref}": there is no such image` },
        ref,
      );
      t.throws(() => store.removeImage(1001, ref), { code: 'E_NOT_FOUND' }, ref);
    }
    t.same(store.listImages(1001), []);
    t.same(store.listImages(0), [image]);
    const proven = await importFrom(store, archive, null, 1001);
    t.equal(proven.uid, 1001, 'bringing the content is proof of having it');
    store.removeImage(1001, proven.id);
    t.same(store.findImage(1000, 'tiny:1'), image, 'and each removes only their own');
    t.throws(() => store.findImage(1000, 'scratch'), { code: 'E_REF' });
    t.throws(() => store.findImage(1000, 'Tiny:1'), { code: 'E_REF' });
  });
});

t.test('Store.removeImage() takes names one by one, then the image', async (t) => {
  const dir = scratchFor(t);
  const archive = await writeDockerArchive(dir, IMAGE, ['a:1', 'a:2']);
  await withStore(t, dir, async (store) => {
    const image = await importFrom(store, archive);
    store.removeImage(1000, 'a:1');
    t.same(store.findImage(1000, image.id).names, ['a:2']);
    store.removeImage(1000, 'docker.io/library/a:2');
    t.throws(() => store.findImage(1000, image.id), { code: 'E_NOT_FOUND' });
  });
  t.same(readdirSync(path.join(dir, 'state/blobs/sha256')), []);
});

t.test('Store.removeImage() leaves shared images to their owner and to root', async (t) => {
  const dir = scratchFor(t);
  const archive = await writeDockerArchive(dir, IMAGE, ['a:1']);
  await withStore(t, dir, async (store) => {
    const options = { name: null, select: null, shared: true };
    const image = await store.importArchive(1000, Readable.from([readFileSync(archive)]), options, () => {}, LIVE);
    t.same(store.findImage(1001, 'a:1'), image);
    t.throws(() => store.removeImage(1001, 'a:1'), { code: 'E_FORBIDDEN' });
    store.removeImage(0, 'a:1');
    t.same(store.listImages(0), []);
  });
});

t.test('Store.leaseImage() keeps blobs and layers of a removed image until it is released', async (t) => {
  const dir = scratchFor(t);
  const archive = await writeDockerArchive(dir, IMAGE, ['a:1']);
  await withStore(t, dir, async (store) => {
    const image = await importFrom(store, archive);
    const lease = await store.leaseImage(image, () => {}, LIVE);
    store.removeImage(1000, 'a:1');
    await store.collect();
    t.same(readdirSync(path.join(dir, 'state/layers')).sort(), HEXES);
    t.equal(readFileSync(path.join(lease.layers[0]?.path ?? '', 'etc/gone'), 'utf8'), 'gone');
    t.equal(store.readConfigText(image), IMAGE.config.toString());
    await lease[Symbol.asyncDispose]();
    await lease[Symbol.asyncDispose]();
    await store.collect();
    t.same(readdirSync(path.join(dir, 'state/layers')), []);
  });
});

t.test('Store.importArchive() unpacks a layer once for all who bring it at once, also when some give up (A62)', async (t) => {
  const dir = scratchFor(t);
  const archive = readFileSync(await writeDockerArchive(dir, IMAGE, ['a:1']));
  await withStore(t, dir, async (store) => {
    const outcomes = await Promise.allSettled(
      Array.from({ length: 12 }, async (_, n) => {
        const stop = new AbortController();
        const abortAt = n % 3 === 0 ? 'unpack' : 'never';
        const progress = ({ stage }: { stage: string }): void => (stage === abortAt ? stop.abort(new Error('gave up')) : undefined);
        const options = { name: null, select: null, shared: false };
        return await store.importArchive(1000 + n, Readable.from([archive]), options, progress, stop.signal);
      }),
    );
    for (const [n, outcome] of outcomes.entries()) {
      if (n % 3 !== 0) t.equal(outcome.status, 'fulfilled', `import ${n}`);
    }
    const images = outcomes.filter((outcome) => outcome.status === 'fulfilled').length;
    t.equal(store.listImages(0).length, images);
    t.same(readdirSync(path.join(dir, 'state/layers')).sort(), HEXES);
    t.same(await store.verifyBlobs(LIVE), []);
  });
});

t.test('Store.createImage() puts a layer on a base', async (t) => {
  const dir = scratchFor(t);
  const archive = await writeDockerArchive(dir, tinyImage([BOTTOM]), ['base:1']);
  await withStore(t, dir, async (store) => {
    const base = await importFrom(store, archive);
    const file = path.join(dir, 'state/layer.tar');
    writeFileSync(file, TOP);
    const diffId: DiffId = parseDiffId(sha256(TOP));
    await store.addLayerBlob('job 1', { path: file, digest: diffId, sizeBytes: TOP.length });
    t.notOk(existsSync(file));
    const step = { created: '2024-01-01T00:00:00Z', createdBy: 'test', override: { User: 'app' } };
    const { json } = deriveConfig(store.readConfig(base), diffId, step);
    const image = await store.createImage(1000, { base, layer: diffId, config: json, names: ['made'] });
    store.release('job 1');
    store.removeImage(1000, 'base:1');
    await store.collect();
    t.same([image.id, image.names, image.sourceDigest], [sha256(json), ['made:latest'], null]);
    t.equal(store.readConfig(image).config?.User, 'app');
    await using lease = await store.leaseImage(image, () => {}, LIVE);
    t.same(
      lease.layers.map((layer) => layer.diffId),
      [sha256(BOTTOM), sha256(TOP)],
      'the new layer is unpacked when it is wanted',
    );
    t.equal(store.getTarBytes(diffId), TOP.length);
    await t.rejects(store.createImage(1000, { base: image, layer: null, config: json.replace(diffId, sha256('x')), names: [] }), {
      code: 'E_MANIFEST',
    });
    await t.rejects(store.createImage(1000, { base: image, layer: parseDiffId(sha256('x')), config: json, names: [] }), {
      code: 'E_NOT_FOUND',
    });
    await t.rejects(store.createImage(1000, { base: image, layer: null, config: json, names: ['BAD'] }), { code: 'E_REF' });
  });
});

t.test('Store.addBlob() keeps a file for its owner, and refuses one of another size', async (t) => {
  const dir = scratchFor(t);
  await withStore(t, dir, async (store) => {
    const file = path.join(dir, 'state/x');
    const bytes = Buffer.from('some bytes');
    writeFileSync(file, bytes);
    await t.rejects(store.addBlob('job 1', { path: file, digest: sha256(bytes), sizeBytes: 5 }), { code: 'E_SIZE' });
    await store.addBlob('job 1', { path: file, digest: sha256(bytes), sizeBytes: bytes.length });
    await store.collect();
    const fd = store.openBlob(sha256(bytes));
    t.same(readFileSync(fd), bytes);
    close(fd);
    store.release('job 1');
    await store.collect();
    t.throws(() => store.openBlob(sha256(bytes)), { code: 'E_STORE_CORRUPT' });
  });
});

t.test('Store.holdImage() keeps the blobs of a removed image', async (t) => {
  const dir = scratchFor(t);
  const archive = await writeDockerArchive(dir, IMAGE, ['a:1']);
  await withStore(t, dir, async (store) => {
    const image = await importFrom(store, archive);
    store.holdImage('job 1', image);
    store.removeImage(1000, image.id);
    await store.collect();
    t.equal(readdirSync(path.join(dir, 'state/blobs/sha256')).length, 3);
    await using lease = await store.leaseImage(image, () => {}, LIVE);
    t.equal(lease.layers.length, 2);
  });
});

t.test('Store.open() refuses a state directory that is in use, and one that is none', async (t) => {
  const dir = scratchFor(t);
  await withStore(t, dir, async () => {
    t.throws(() => Store.open(path.join(dir, 'state'), storeUidBase), { code: 'E_STATE', message: /another rootlayer/ });
  });
  writeFileSync(path.join(dir, 'file'), '');
  t.throws(() => Store.open(path.join(dir, 'file'), storeUidBase), { code: 'E_STATE' });
  symlinkSync(dir, path.join(dir, 'link'));
  t.throws(() => Store.open(path.join(dir, 'link'), storeUidBase), { code: 'E_STATE' });
  mkdirSync(path.join(dir, 'planted'));
  symlinkSync('/etc', path.join(dir, 'planted/blobs'));
  t.throws(() => Store.open(path.join(dir, 'planted'), storeUidBase), { code: 'E_STATE' }, 'a symlink in place of a directory');
});

t.test('Store.recover() deletes what the database does not list, and reports what is missing', async (t) => {
  const dir = scratchFor(t);
  const archive = await writeDockerArchive(dir, IMAGE, ['a:1']);
  const state = (name: string): string => path.join(dir, 'state', name);
  const canary = path.join(dir, 'canary');
  mkdirSync(canary);
  writeFileSync(path.join(canary, 'file'), 'x');
  await withStore(t, dir, async (store) => void (await importFrom(store, archive)));
  writeFileSync(state(`blobs/sha256/${'0'.repeat(64)}`), 'unlisted');
  for (const part of ['layers/unlisted', 'ingest/half', 'trash/old']) {
    mkdirSync(state(part));
    symlinkSync(canary, state(`${part}/link`));
    mkdirSync(state(`${part}/sub`));
    writeFileSync(state(`${part}/sub/file`), 'x');
  }
  rmSync(state(`layers/${hexOf(sha256(TOP))}`), { recursive: true });
  rmSync(state(`blobs/sha256/${hexOf(sha256(TOP))}`));
  const store = Store.open(path.join(dir, 'state'), storeUidBase);
  t.same(await store.recover(), { deleted: 4, missing: [sha256(TOP)] });
  await t.rejects(
    store.leaseImage(store.findImage(1000, 'a:1'), () => {}, LIVE),
    { code: 'E_STORE_CORRUPT' },
  );
  await store[Symbol.asyncDispose]();
  t.same(readdirSync(state('layers')), [hexOf(sha256(BOTTOM))]);
  for (const part of ['ingest', 'trash']) t.same(readdirSync(state(part)), []);
  t.same(readdirSync(canary), ['file'], 'a symlink was not followed');
});

t.test('Store.recover() deletes trees that are deeper than a path can be long', async (t) => {
  const dir = scratchFor(t);
  await withStore(t, dir, async () => {});
  let fd = openAt(AT_FDCWD, path.join(dir, 'state/trash'), O_RDONLY | O_DIRECTORY);
  for (let depth = 0; depth < 3000; depth += 1) {
    mkdirAt(fd, Buffer.from([0xff, 0xfe, 0x0a, 0x61]), 0o700);
    const below = openAt(fd, Buffer.from([0xff, 0xfe, 0x0a, 0x61]), O_RDONLY | O_DIRECTORY);
    close(fd);
    fd = below;
  }
  close(fd);
  await withStore(t, dir, async () => {});
  t.same(readdirSync(path.join(dir, 'state/trash')), []);
});

t.test('Store.verifyBlobs() finds a blob that was changed on disk', async (t) => {
  const dir = scratchFor(t);
  const archive = await writeDockerArchive(dir, IMAGE, ['a:1']);
  await withStore(t, dir, async (store) => {
    const image = await importFrom(store, archive);
    t.same(await store.verifyBlobs(LIVE), []);
    writeFileSync(path.join(dir, 'state/blobs/sha256', hexOf(image.id)), '{}');
    t.same(await store.verifyBlobs(LIVE), [image.id]);
    t.throws(() => store.readConfig(image), { code: 'E_STORE_CORRUPT' });
  });
});

t.test('Store with keepWarm has its workers ready, and ends them', async (t) => {
  const dir = scratchFor(t);
  const archive = await writeDockerArchive(dir, IMAGE, ['a:1']);
  await withStore(
    t,
    dir,
    async (store) => {
      await sleep(1);
      await importFrom(store, archive);
      await importFrom(store, archive, null, 1001);
      t.equal(store.listImages(0).length, 2);
    },
    { keepWarm: true },
  );
});
