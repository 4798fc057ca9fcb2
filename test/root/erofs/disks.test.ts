import { chmodSync, closeSync, existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { hexOf } from '../../../src/core/digest.ts';
import { chainIdOf, type DiskLayer, Disks } from '../../../src/erofs/disks.ts';
import { diskWorkerKind } from '../../../src/erofs/make-disk.ts';
import { openUserNamespace, RANGE_SIZE } from '../../../src/host/idmap.ts';
import { close } from '../../../src/host/libc.ts';
import { startWorker } from '../../../src/host/worker.ts';
import { closeLowers, openLowers, openLowerView } from '../../../src/overlay/lower.ts';
import { chooseMounter } from '../../../src/overlay/mounter.ts';
import type { ImageLease, Store } from '../../../src/store/store.ts';
import { storeUidBase } from '../../helpers/base-range.ts';
import { requires } from '../../helpers/requires.ts';
import { diffTrees, listTree, type TreeEntry } from '../../helpers/tree.ts';
import { until } from '../../helpers/until.ts';
import { importFrom, LIVE, scratchFor, withStore } from '../store/test-store.ts';
import { BOTTOM, layerTar, TOP, tinyImage, writeDockerArchive } from '../store/tiny-image.ts';
import { mountImage } from './harness.ts';

requires(t, 'root', 'overlay', 'erofs', 'loop', 'userns', 'launcher');

const mounter = await chooseMounter();
const plainFd = await openUserNamespace([[storeUidBase, 0, RANGE_SIZE]]);
t.teardown(() => close(plainFd));
const pid = process.pid;
// The helper that made the namespace ends by itself; each test's census should not meet it.
await until('the helper to end', () => readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8') === '');

/** Disks of a store, and how many workers they took. */
function openDisks(store: Store): { disks: Disks; workers: () => number } {
  let count = 0;
  const disks = new Disks({
    store: store.disks,
    mounter,
    takeWorker: async (signal) => {
      count += 1;
      return await startWorker(diskWorkerKind, [], signal);
    },
  });
  return { disks, workers: () => count };
}

function topmostFirst(lease: ImageLease): DiskLayer[] {
  return lease.layers.map(({ diffId, path }) => ({ diffId, path })).reverse();
}

/** What an overlay of disks shows. */
async function listDisks(fds: readonly number[]): Promise<TreeEntry[]> {
  const mounts = fds.map((fd) => mountImage(readlinkSync(`/proc/self/fd/${fd}`)));
  try {
    return await listMerged(mounts);
  } finally {
    for (const fd of mounts) close(fd);
  }
}

/** What the store's own overlay shows. */
async function listLayers(layers: readonly DiskLayer[]): Promise<TreeEntry[]> {
  const lowers = openLowers(
    layers.map((layer) => layer.path),
    plainFd,
  );
  try {
    return await listMerged(lowers);
  } finally {
    closeLowers(lowers);
  }
}

async function listMerged(mounts: number[]): Promise<TreeEntry[]> {
  const view = await openLowerView(mounter, mounts);
  try {
    return listTree(`/proc/self/fd/${view}/.`, { exact: true });
  } finally {
    close(view);
  }
}

const disksIn = (dir: string): string[] => readdirSync(path.join(dir, 'state/disks')).sort();

async function importLayers(store: Store, dir: string, name: string, layers: Buffer[]): Promise<ImageLease> {
  mkdirSync(path.join(dir, name));
  await importFrom(store, await writeDockerArchive(path.join(dir, name), tinyImage(layers), [`${name}:1`]));
  return await store.leaseImage(store.findImage(1000, `${name}:1`), () => {}, LIVE);
}

const manyLayers = (count: number): Buffer[] => [
  BOTTOM,
  TOP,
  ...Array.from({ length: count - 2 }, (_layer, n) => layerTar({ 'n/': {}, [`n/${n}`]: { body: `${n}`, uid: n }, [`n/.wh.${n - 3}`]: {} })),
];

t.test('Disks.open() gives an image for each layer, and their overlay is that of the layers', async (t) => {
  const dir = scratchFor(t);
  await withStore(t, dir, async (store) => {
    await using lease = await importLayers(store, dir, 'a', [BOTTOM, TOP]);
    const layers = topmostFirst(lease);
    const { disks, workers } = openDisks(store);
    const fds = await disks.open(layers, plainFd, null, LIVE);
    t.same(
      fds.map((fd) => readlinkSync(`/proc/self/fd/${fd}`)),
      layers.map(({ diffId }) => path.join(dir, 'state/disks', `${hexOf(diffId)}.erofs`)),
    );
    const expected = await listLayers(layers);
    t.ok(expected.some((entry) => entry.path === 'data/b') && !expected.some((entry) => entry.path === 'etc/gone'));
    t.same(diffTrees(expected, await listDisks(fds)), []);
    const { mode, uid } = statSync(path.join(dir, 'state/disks', disksIn(dir)[0] ?? ''));
    t.same({ mode: mode & 0o7777, uid }, { mode: 0o400, uid: 0 });
    const again = await disks.open(layers, plainFd, null, LIVE);
    t.equal(workers(), 2, 'the second time, they are there');
    for (const fd of [...fds, ...again]) closeSync(fd);
    t.same(await disks.open([], plainFd, null, LIVE), [], 'scratch has none');
  });
});

t.test('Disks.open() makes an image once for two callers, and again when the first one is cancelled', async (t) => {
  const dir = scratchFor(t);
  await withStore(t, dir, async (store) => {
    await using lease = await importLayers(store, dir, 'a', [BOTTOM]);
    const { disks, workers } = openDisks(store);
    const cancelled = new AbortController();
    const first = disks.open(topmostFirst(lease), plainFd, null, cancelled.signal);
    const [second, third] = [1, 2].map(() => disks.open(topmostFirst(lease), plainFd, null, LIVE));
    cancelled.abort(new Error('cancelled'));
    await t.rejects(first, { message: 'cancelled' });
    const fds = [...((await second) ?? []), ...((await third) ?? [])];
    t.equal(fds.length, 2);
    t.equal(workers(), 2);
    for (const fd of fds) closeSync(fd);
    t.same(readdirSync(path.join(dir, 'state/ingest')), [], 'nothing of the cancelled one is left');
  });
});

t.test('Disks.open() makes one image of more than sixteen layers, which goes with the first of them', async (t) => {
  const dir = scratchFor(t);
  let names: string[] = [];
  await withStore(t, dir, async (store) => {
    await using lease = await importLayers(store, dir, 'many', manyLayers(17));
    await using bottom = await importLayers(store, dir, 'small', [BOTTOM]);
    t.equal(bottom.layers[0]?.diffId, lease.layers[0]?.diffId);
    const layers = topmostFirst(lease);
    const fds = await openDisks(store).disks.open(layers, plainFd, null, LIVE);
    const chain = hexOf(chainIdOf(lease.layers.map(({ diffId }) => diffId)));
    names = [`${chain}.erofs`, `${chain}.layers`];
    t.same(disksIn(dir), names);
    t.same(diffTrees(await listLayers(layers), await listDisks(fds)), []);
    for (const fd of fds) closeSync(fd);
  });
  await withStore(t, dir, async (store) => {
    t.same(disksIn(dir), names, 'kept');
    store.removeImage(1000, 'many:1');
    await store.collect();
    t.same(disksIn(dir), [], 'although one of its layers is still there');
    t.equal(readdirSync(path.join(dir, 'state/layers')).length, 1);
  });
});

t.test('Store.collect() deletes the image of a layer with it, and not while it is leased', async (t) => {
  const dir = scratchFor(t);
  await withStore(t, dir, async (store) => {
    const lease = await importLayers(store, dir, 'small', [BOTTOM]);
    for (const fd of await openDisks(store).disks.open(topmostFirst(lease), plainFd, null, LIVE)) closeSync(fd);
    store.removeImage(1000, 'small:1');
    await store.collect();
    t.equal(disksIn(dir).length, 1, 'leased');
    await lease[Symbol.asyncDispose]();
    await store.collect();
    t.same(disksIn(dir), []);
  });
});

t.test('Store.recover() deletes disks that are unfinished or of no listed layer', async (t) => {
  const dir = scratchFor(t);
  const disk = (name: string): string => path.join(dir, 'state/disks', name);
  let kept = '';
  await withStore(t, dir, async (store) => {
    await using lease = await importLayers(store, dir, 'a', [BOTTOM]);
    for (const fd of await openDisks(store).disks.open(topmostFirst(lease), plainFd, null, LIVE)) closeSync(fd);
    kept = `${hexOf(lease.image.layers[0]?.diffId ?? lease.image.id)}.erofs`;
  });
  const before = readFileSync(disk(kept));
  const other = 'a'.repeat(64);
  writeFileSync(disk(`${'0'.repeat(64)}.erofs`), 'of no layer');
  writeFileSync(disk(`${other}.layers`), `${kept.slice(0, 64)}\n${kept.slice(0, 64)}\n`);
  writeFileSync(disk(`${'b'.repeat(64)}.layers`), 'no list');
  writeFileSync(disk(`${'b'.repeat(64)}.erofs`), 'with no list');
  writeFileSync(disk('half'), '');
  mkdirSync(path.join(dir, 'state/ingest/half'));
  writeFileSync(path.join(dir, 'state/ingest/half/.erofs'), before.subarray(0, 5000));
  await withStore(t, dir, async (store) => {
    t.same(disksIn(dir), [kept]);
    t.notOk(existsSync(path.join(dir, 'state/ingest/half')));
    t.same(await store.recover(), { deleted: 0, missing: [] });
  });
  t.ok(before.equals(readFileSync(disk(kept))));
});

t.test('Disks.open() makes an image anew that is damaged', async (t) => {
  const dir = scratchFor(t);
  const disk = (): string => path.join(dir, 'state/disks', disksIn(dir).find((name) => name.endsWith('.erofs')) ?? '');
  await withStore(t, dir, async (store) => {
    for (const layers of [[BOTTOM], manyLayers(17)]) {
      await using lease = await importLayers(store, dir, `i${layers.length}`, layers);
      const { disks, workers } = openDisks(store);
      const open = async (): Promise<void> => {
        for (const fd of await disks.open(topmostFirst(lease), plainFd, null, LIVE)) closeSync(fd);
      };
      await open();
      const whole = readFileSync(disk());
      const otherwise = Buffer.from(whole);
      otherwise.writeUInt8(0x55, 1024 + 100);
      for (const damaged of [Buffer.alloc(0), whole.subarray(0, -4096), Buffer.alloc(whole.length), otherwise]) {
        chmodSync(disk(), 0o600);
        writeFileSync(disk(), damaged);
        await open();
        t.ok(whole.equals(readFileSync(disk())));
      }
      t.equal(workers(), 5);
      store.removeImage(1000, `i${layers.length}:1`);
      await lease[Symbol.asyncDispose]();
      await store.collect();
      t.same(disksIn(dir), []);
    }
  });
});

t.test('Disks.open() gives up all images when one fails, and leaves nothing of that one', async (t) => {
  const dir = scratchFor(t);
  await withStore(t, dir, async (store) => {
    await using lease = await importLayers(store, dir, 'a', [layerTar({ a: {} }), BOTTOM, layerTar({ b: {} })]);
    const disks = new Disks({
      store: store.disks,
      mounter,
      takeWorker: (signal) => startWorker(diskWorkerKind, [], signal),
      limits: { maxInodes: 2 },
    });
    await t.rejects(disks.open(topmostFirst(lease), plainFd, null, LIVE), { code: 'E_LIMIT_ENTRIES' });
    t.notOk(disksIn(dir).includes(`${hexOf(lease.layers[1]?.diffId ?? lease.image.id)}.erofs`));
    t.same(readdirSync(path.join(dir, 'state/ingest')), []);
  });
});
