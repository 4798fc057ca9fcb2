import { statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import t from 'tap';
import { digestOf } from '../../../src/core/digest.ts';
import type { ImageRecord } from '../../../src/core/image.ts';
import { limitsSchema } from '../../../src/core/limits.ts';
import { checkFreeSpace, checkKeptJobs, checkLimits, checkQuota, DEFAULT_ADMISSION } from '../../../src/job/admission.ts';

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

t.test("checkLimits() holds callers to the administrator's maximum, and root to none", (t) => {
  const asked = limitsSchema.parse({ cpus: 1000, pids: 3_000_000 });
  t.throws(() => checkLimits(7, asked, DEFAULT_ADMISSION), { code: 'E_FORBIDDEN', message: /cpus/ });
  t.doesNotThrow(() => checkLimits(0, asked, DEFAULT_ADMISSION));
  t.doesNotThrow(() => checkLimits(7, limitsSchema.parse({}), DEFAULT_ADMISSION));
  t.end();
});

t.test('checkKeptJobs() counts jobs and the bytes of their layers', (t) => {
  const limits = { ...DEFAULT_ADMISSION, jobsPerUid: 2, storeBytesPerUid: 100 };
  t.doesNotThrow(() => checkKeptJobs(7, { jobs: 1, layerBytes: 99 }, limits));
  t.throws(() => checkKeptJobs(7, { jobs: 2, layerBytes: 0 }, limits), { code: 'E_QUOTA' });
  t.throws(() => checkKeptJobs(7, { jobs: 1, layerBytes: 100 }, limits), { code: 'E_QUOTA' });
  t.doesNotThrow(() => checkKeptJobs(0, { jobs: 9, layerBytes: 900 }, limits));
  t.end();
});
