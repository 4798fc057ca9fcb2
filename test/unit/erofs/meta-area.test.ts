import t from 'tap';
import { MetaArea } from '../../../src/erofs/meta-area.ts';
import { seededRandom } from '../../helpers/random-ops.ts';

t.test('MetaArea.allocate() never gives 0, and fills blocks before it begins others', async (t) => {
  const area = new MetaArea();
  t.same([area.allocate(32), area.allocate(33), area.allocate(1)], [32, 64, 128]);
  t.equal(area.allocate(4096), 4096);
  t.equal(area.allocate(3936), 160, 'just what the first block has left');
  t.equal(area.allocate(32), 8192);
  t.equal(area.sizeBytes, 12_288);
});

t.test('MetaArea.allocate() parts nothing that fits into a block, and gives nothing twice', async (t) => {
  const random = seededRandom(7);
  const area = new MetaArea();
  const taken = Array.from({ length: 5000 }, () => {
    const bytes = 1 + Math.floor(random() * (random() < 0.02 ? 200_000 : 1500));
    return { offset: area.allocate(bytes), bytes };
  });
  for (const { offset, bytes } of taken) {
    if (offset % 32 !== 0) t.fail(`${offset} is no slot`);
    if (bytes <= 4096 && Math.floor(offset / 4096) !== Math.floor((offset + bytes - 1) / 4096)) t.fail(`${bytes} at ${offset} are parted`);
    if (area.at(offset).length < bytes) t.fail(`${bytes} at ${offset} are not in one piece`);
  }
  const sorted = taken.toSorted((a, b) => a.offset - b.offset);
  const overlaps = sorted.filter(({ offset }, n) => n > 0 && (sorted[n - 1]?.offset ?? 0) + (sorted[n - 1]?.bytes ?? 0) > offset);
  t.same(overlaps, []);
  const used = taken.reduce((sum, { bytes }) => sum + bytes, 0);
  t.ok(area.sizeBytes < used * 1.2, 'little is left free');
  t.equal(Buffer.concat(area.pieces()).length, area.sizeBytes);
});

t.test('MetaArea.at() is the memory of the pieces', async (t) => {
  const area = new MetaArea();
  const offsets = Array.from({ length: 600 }, () => area.allocate(4000));
  for (const [n, offset] of offsets.entries()) area.at(offset).writeUInt32LE(n, 0);
  const all = Buffer.concat(area.pieces());
  t.same(
    offsets.map((offset) => all.readUInt32LE(offset)),
    offsets.map((_offset, n) => n),
  );
});
