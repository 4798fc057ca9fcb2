import t, { type Test } from 'tap';
import { type Digest, digestOf, parseDiffId } from '../../../src/core/digest.ts';
import type { ImageLayer } from '../../../src/core/image.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { ImageTable, type NewImage, type NewLayer } from '../../../src/state/images.ts';

function digest(digit: string): Digest {
  return digestOf(digit.repeat(64));
}

function layer(digit: string): NewLayer {
  return { ...listedLayer(digit), tarBytes: 100 };
}

function listedLayer(digit: string): ImageLayer {
  const diffId = parseDiffId(digest(digit));
  return { diffId, blobDigest: diffId, blobSizeBytes: 100, compression: 'none' };
}

function newImage(uid: number, config: string, more: Partial<NewImage> = {}): NewImage {
  return {
    uid,
    config: { digest: digest(config), sizeBytes: 7 },
    layers: [layer('1'), layer('2'), layer('1')],
    names: [],
    sourceDigest: null,
    shared: false,
    ...more,
  };
}

function tableFor(t: Test): ImageTable {
  const database = openDatabase(':memory:');
  t.teardown(() => database.close());
  return new ImageTable(database);
}

t.test('ImageTable.add() lists an image with its layers in order', async (t) => {
  const table = tableFor(t);
  const { createdAt, ...image } = table.add(newImage(1000, 'c', { names: ['b:1', 'a:1'], sourceDigest: digest('5') }));
  t.same(image, {
    id: digest('c'),
    sourceDigest: digest('5'),
    names: ['a:1', 'b:1'],
    layers: [listedLayer('1'), listedLayer('2'), listedLayer('1')],
    sizeBytes: 207,
    uid: 1000,
    shared: false,
  });
  t.match(createdAt, /^\d{4}-\d\d-\d\dT.*Z$/);
});

t.test('ImageTable.add() moves a name within a user, and only there', async (t) => {
  const table = tableFor(t);
  table.add(newImage(1000, 'c', { names: ['a:1'] }));
  table.add(newImage(1001, 'c', { names: ['a:1'] }));
  table.add(newImage(1000, 'd', { names: ['a:1'] }));
  t.equal(table.findByName(1000, 'a:1')?.id, digest('d'));
  t.equal(table.findByName(1001, 'a:1')?.id, digest('c'));
  t.same(table.findByDigest(1000, digest('c'))?.names, []);
});

t.test('ImageTable.add() adds names to an image that the user has, and frees blobs that it does not need', async (t) => {
  const table = tableFor(t);
  table.add(newImage(1000, 'c', { layers: [layer('1')], names: ['a:1'] }));
  const again = { ...layer('1'), blobDigest: digest('9'), compression: 'gzip' as const };
  const image = table.add(newImage(1000, 'c', { layers: [again], names: ['a:2'], shared: true }));
  t.same(image.names, ['a:1', 'a:2']);
  t.equal(image.shared, true);
  t.equal(image.layers[0]?.blobDigest, digest('1'));
  t.same(table.unusedBlobs(), [digest('9')]);
});

t.test("ImageTable shows nobody else's images (A63)", async (t) => {
  const table = tableFor(t);
  const image = table.add(newImage(1000, 'c', { names: ['a:1'], sourceDigest: digest('5') }));
  t.same(table.list(1001), []);
  t.equal(table.findByName(1001, 'a:1'), null);
  t.equal(table.findByDigest(1001, digest('c')), null, 'by the digest of the config');
  t.equal(table.findByDigest(1001, digest('5')), null, 'by the digest of the archive');
  t.equal(table.findByDigest(1001, digest('1')), null, 'by the digest of a layer');
  t.same(table.findByDigest(1000, digest('5')), image);
});

t.test('ImageTable shows shared images to all, and all images to root', async (t) => {
  const table = tableFor(t);
  const shared = table.add(newImage(1000, 'c', { names: ['a:1'], shared: true }));
  const own = table.add(newImage(1001, 'd', { names: ['a:1'] }));
  t.same(table.list(1002), [shared]);
  t.same(table.list(0), [shared, own]);
  t.same(table.findByName(1002, 'a:1'), shared);
  t.same(table.findByName(1001, 'a:1'), own, 'their own comes first');
  t.same(table.findByName(0, 'a:1'), shared, 'then shared ones');
  t.same(table.findByDigest(0, digest('d')), own);
});

t.test('ImageTable.unusedBlobs() leaves out what images and owners have', async (t) => {
  const table = tableFor(t);
  const image = table.add(newImage(1000, 'c'));
  table.addBlob(digest('7'), 1);
  table.hold('job 1', digest('7'));
  table.hold('job 1', digest('1'));
  t.same(table.unusedBlobs(), []);
  table.remove(image);
  t.same(table.unusedBlobs(), [digest('2'), digest('c')]);
  table.release('job 1');
  t.same(table.unusedBlobs(), [digest('1'), digest('2'), digest('7'), digest('c')]);
});

t.test('ImageTable.removeName() tells how many names are left', async (t) => {
  const table = tableFor(t);
  const image = table.add(newImage(1000, 'c', { names: ['a:1', 'a:2'] }));
  t.equal(table.removeName(image, 'a:1'), 1);
  t.equal(table.removeName(image, 'a:2'), 0);
});

t.test('ImageTable.removeBlob() refuses what an image needs', async (t) => {
  const table = tableFor(t);
  table.add(newImage(1000, 'c'));
  t.throws(() => table.removeBlob(digest('1')), /FOREIGN KEY/);
  t.throws(() => table.removeBlob(digest('c')), /FOREIGN KEY/);
});

t.test('ImageTable.addLayer() keeps what is known about an unpacked layer', async (t) => {
  const table = tableFor(t);
  const listed = { diffId: parseDiffId(digest('1')), entries: 3, tarBytes: 5, isOpaqueRoot: true, warnings: ['a', 'b'] };
  table.addLayer(listed);
  table.addLayer(listed);
  t.same(table.getLayer(listed.diffId), listed);
  t.same(table.unusedLayers(), [listed.diffId]);
  table.add(newImage(1000, 'c'));
  t.same(table.unusedLayers(), []);
  table.removeLayer(listed.diffId);
  t.equal(table.getLayer(listed.diffId), null);
});
