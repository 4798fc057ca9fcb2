import t from 'tap';
import { digestOf } from '../../../src/core/digest.ts';
import { type LeaseKey, LeaseTable } from '../../../src/store/leases.ts';

const BLOB: LeaseKey = `blob ${digestOf('a'.repeat(64))}`;
const LAYER: LeaseKey = `layer ${digestOf('a'.repeat(64))}`;

t.test('LeaseTable.acquire() holds until everyone has released', async (t) => {
  const leases = new LeaseTable();
  const first = leases.acquire([BLOB, BLOB]);
  const second = leases.acquire([BLOB]);
  first();
  t.equal(leases.isHeld(BLOB), true);
  second();
  t.equal(leases.isHeld(BLOB), false);
});

t.test('LeaseTable.acquire() gives a release that counts once', async (t) => {
  const leases = new LeaseTable();
  const first = leases.acquire([BLOB]);
  leases.acquire([BLOB]);
  first();
  first();
  t.equal(leases.isHeld(BLOB), true);
});

t.test('LeaseTable.acquire() tells a blob from the layer with its digest', async (t) => {
  const leases = new LeaseTable();
  leases.acquire([LAYER]);
  t.equal(leases.isHeld(BLOB), false);
  t.equal(leases.isHeld(LAYER), true);
});
