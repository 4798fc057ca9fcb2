import { createHash } from 'node:crypto';
import t from 'tap';
import { HashRing, SLOT_BYTES } from '../../../src/capture/hash-ring.ts';
import { encodeEntry, endOfArchive, padding } from '../../../src/core/tar/writer.ts';
import { tarsumOf } from '../../../src/core/tarsum.ts';

const ring = await HashRing.start();

/** A tar of one file of that size, with contents that no two slots share. */
function makeTar(size: number): Buffer {
  const body = Buffer.alloc(size);
  for (let at = 0; at + 4 <= size; at += 4) body.writeUInt32LE(at, at);
  const nothing = Buffer.alloc(0);
  const header = encodeEntry({
    ...{ name: Buffer.from('f'), type: 'file', mode: 0o644, uid: 0, gid: 0, size, mtimeSec: 0 },
    ...{ linkName: nothing, devMajor: 0, devMinor: 0, xattrs: [] },
  });
  return Buffer.concat([header, body, padding(size), endOfArchive]);
}

function publish(bytes: Buffer, chunk: number): void {
  for (let at = 0; at < bytes.length; at += chunk) ring.publish(bytes.copy(ring.slot(), 0, at, at + chunk));
}

t.test('HashRing sums streams of any length, one after the other', async (t) => {
  for (const [size, chunk] of [
    [0, SLOT_BYTES],
    [10, 1],
    [5000, 512],
    [SLOT_BYTES, SLOT_BYTES],
    [20 * SLOT_BYTES + 3, SLOT_BYTES],
  ] as const) {
    const tar = makeTar(size);
    publish(tar, chunk);
    const wanted = { diffid: `sha256:${createHash('sha256').update(tar).digest('hex')}`, tarsum: await tarsumOf([tar]) };
    t.strictSame(ring.finish(), wanted, `${size} bytes in pieces of ${chunk}`);
  }
});

t.test('HashRing.abort() forgets a stream', async (t) => {
  publish(makeTar(3 * SLOT_BYTES).subarray(0, 2 * SLOT_BYTES), SLOT_BYTES);
  ring.abort();
  const tar = makeTar(7);
  publish(tar, SLOT_BYTES);
  t.equal(ring.finish().tarsum, await tarsumOf([tar]));
});

t.test('HashRing.finish() throws E_CAPTURE for a tar that our own reader refuses, and goes on', async (t) => {
  for (const bytes of [Buffer.alloc(4096, 'x'), makeTar(5000).subarray(0, 2048)]) {
    publish(bytes, 512);
    t.throws(() => ring.finish(), { code: 'E_CAPTURE' });
  }
  const tar = makeTar(7);
  publish(tar, SLOT_BYTES);
  t.equal(ring.finish().tarsum, await tarsumOf([tar]));
});
