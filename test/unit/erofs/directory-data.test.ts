import t from 'tap';
import { DirectoryData, DOT, DOT_DOT } from '../../../src/erofs/directory-data.ts';

const packed = (name: string, type = 8): string => `${name}\0${String.fromCharCode(type)}`;

/** Name, inode and type of each entry, block by block. */
function decode(bytes: Buffer, sizeBytes: number): [string, number, number][][] {
  return Array.from({ length: Math.ceil(sizeBytes / 4096) }, (_block, n) => {
    const block = bytes.subarray(n * 4096, Math.min((n + 1) * 4096, sizeBytes));
    const count = block.readUInt16LE(8) / 12;
    return Array.from({ length: count }, (_entry, index): [string, number, number] => {
      const start = block.readUInt16LE(index * 12 + 8);
      const end = index + 1 < count ? block.readUInt16LE((index + 1) * 12 + 8) : block.length;
      const name = block.toString('latin1', start, end).replace(/\0+$/, '');
      return [name, block.readUInt32LE(index * 12), block.readUInt8(index * 12 + 10)];
    });
  });
}

t.test('DirectoryData sorts by bytes, the dots among the names', async (t) => {
  const data = new DirectoryData([packed('b', 4), packed('!'), packed('\xff', 10), packed('a', 2), packed('...', 1)]);
  const nids = data.names.map((_name, n) => 100 + n);
  t.same(decode(data.encode(nids), data.sizeBytes), [
    [
      ['!', 100, 1],
      ['.', 101, 2],
      ['..', 102, 2],
      ['...', 103, 5],
      ['a', 104, 3],
      ['b', 105, 2],
      ['\xff', 106, 7],
    ],
  ]);
  t.equal(data.sizeBytes, 7 * 12 + 10);
});

t.test('DirectoryData begins a block when the next entry does not fit, and keeps the order over all', async (t) => {
  const names = Array.from({ length: 1000 }, (_name, n) => packed(`name-${String(n).padStart(4, '0')}-${'x'.repeat(n % 40)}`));
  const data = new DirectoryData(names);
  const bytes = data.encode(data.names.map((_name, n) => n));
  t.equal(bytes.length, Math.ceil(data.sizeBytes / 4096) * 4096);
  const entries = decode(bytes, data.sizeBytes).flat();
  t.same(
    entries.map(([name]) => name),
    ['.', '..', ...names.map((name) => name.slice(0, -2))],
  );
  t.same(
    entries.map(([, nid]) => nid),
    entries.map((_entry, n) => n),
  );
});

t.test('DirectoryData fills a block to its last byte', async (t) => {
  // 12 + 1, 12 + 2 for the dots, 15 names of 255, and one of what is left.
  const names = Array.from({ length: 15 }, (_name, n) => packed(String.fromCharCode(0x61 + n).repeat(255)));
  const rest = 4096 - 13 - 14 - 15 * 267 - 12;
  t.equal(new DirectoryData([...names, packed('z'.repeat(rest))]).sizeBytes, 4096);
  t.equal(new DirectoryData([...names, packed('z'.repeat(rest + 1))]).sizeBytes, 4096 + 12 + rest + 1);
});

t.test('DirectoryData of nothing has the dots', async (t) => {
  t.same(new DirectoryData([]).names, [DOT, DOT_DOT]);
});

t.test('DirectoryData refuses names of more than 255 bytes', async (t) => {
  t.doesNotThrow(() => new DirectoryData([packed('a'.repeat(255))]));
  t.throws(() => new DirectoryData([packed('a'.repeat(256))]), { code: 'E_DISK_IMAGE', message: /has 256 bytes, want at most 255/ });
});
