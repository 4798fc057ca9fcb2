import t from 'tap';
import { addLink, encodeDevice, encodeInode, type InodeFacts, inodeBytes, setLocation } from '../../../src/erofs/inode.ts';

const EPOCH = { sec: 1000, nsec: 5 };
const FILE: InodeFacts = { mode: 0o100644, uid: 1, gid: 2, mtimeSec: 1000, mtimeNsec: 5, size: 7, nlink: 1 };
const PLACE = { layout: 2, location: 9, xattrWords: 3, serial: 4 } as const;

function encoded(facts: InodeFacts): Buffer {
  const bytes = inodeBytes(facts, EPOCH);
  const target = Buffer.alloc(bytes);
  encodeInode(target, bytes, facts, PLACE);
  return target;
}

t.test('inodeBytes() takes the compact form where all fits', async (t) => {
  t.equal(inodeBytes(FILE, EPOCH), 32);
  t.equal(inodeBytes({ ...FILE, mode: 0o040755, nlink: 65_535 }, EPOCH), 32);
  const larger: Partial<InodeFacts>[] = [
    ...[{ uid: 65_536 }, { gid: 65_536 }, { size: 2 ** 32 }, { nlink: 2 }],
    ...[{ mtimeSec: 1001 }, { mtimeNsec: 6 }, { mode: 0o040755, nlink: 65_536 }],
  ];
  for (const change of larger) t.equal(inodeBytes({ ...FILE, ...change }, EPOCH), 64, JSON.stringify(change));
});

t.test('encodeInode() writes the compact form', async (t) => {
  t.same(encoded(FILE).toString('hex'), '040003 00a4810100070000000000000009000000040000000100020000000000'.replace(' ', ''));
});

t.test('encodeInode() writes the extended form, with times before 1970 and sizes beyond 32 bits', async (t) => {
  const bytes = encoded({ ...FILE, size: 2 ** 33 + 1, mtimeSec: -2, mtimeNsec: 999_999_999, uid: 4_294_967_294, gid: 65_536 });
  t.equal(bytes.readUInt16LE(0), 5);
  t.equal(bytes.readBigUInt64LE(8), 2n ** 33n + 1n);
  t.equal(bytes.readUInt32LE(24), 4_294_967_294);
  t.equal(bytes.readUInt32LE(28), 65_536);
  t.equal(bytes.readBigInt64LE(32), -2n);
  t.equal(bytes.readUInt32LE(40), 999_999_999);
  t.equal(encoded({ ...FILE, mtimeSec: 5_000_000_000 }).readBigInt64LE(32), 5_000_000_000n);
});

t.test('addLink() counts names from the first, and directories have what their facts say', async (t) => {
  const inode = encoded({ ...FILE, nlink: 3 });
  t.equal(inode.readUInt32LE(44), 1);
  addLink(inode);
  addLink(inode);
  t.equal(inode.readUInt32LE(44), 3);
  t.equal(encoded({ ...FILE, mode: 0o040755, nlink: 12 }).readUInt16LE(6), 12);
});

t.test('setLocation() sets the block', async (t) => {
  const inode = encoded(FILE);
  setLocation(inode, 0x01020304);
  t.equal(inode.readUInt32LE(16), 0x01020304);
});

t.test('encodeDevice() packs as the kernel does', async (t) => {
  t.equal(encodeDevice(0, 0), 0);
  t.equal(encodeDevice(1, 3), 0x103);
  t.equal(encodeDevice(4095, 1_048_575), 0xffff_ffff);
  t.equal(encodeDevice(7, 256), 0x0010_0700);
});
