import { statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import t from 'tap';
import { digestOf } from '../../../src/core/digest.ts';
import type { ImageRecord } from '../../../src/core/image.ts';
import { checkFreeSpace, checkQuota, DEFAULT_ADMISSION } from '../../../src/job/admission.ts';

const image = (uid: number, sizeBytes: number): ImageRecord => ({
  id: digestOf('0'.repeat(64)),
  sourceDigest: null,
  names: [],
  layers: [],
  createdAt: '',
  sizeBytes,
  uid,
  shared: false,
});

t.test("C22 checkQuota() counts the caller's own images, and root's never", (t) => {
  const limits = { ...DEFAULT_ADMISSION, storeBytesPerUid: 100 };
  t.doesNotThrow(() => checkQuota(7, [image(7, 60), image(8, 1000)], 40, limits));
  t.throws(() => checkQuota(7, [image(7, 60)], 41, limits), { code: 'E_QUOTA' });
  t.doesNotThrow(() => checkQuota(0, [image(0, 1000)], 1000, limits));
  t.end();
});

t.test('O04 checkFreeSpace() refuses what would go below the floor', (t) => {
  const { bavail, bsize } = statfsSync(tmpdir());
  t.doesNotThrow(() => checkFreeSpace(tmpdir(), 0, { ...DEFAULT_ADMISSION, freeFloorBytes: 0 }));
  t.throws(() => checkFreeSpace(tmpdir(), bavail * bsize * 2, { ...DEFAULT_ADMISSION, freeFloorBytes: 0 }), {
    code: 'E_BUSY',
    message: /free/,
  });
  t.end();
});
