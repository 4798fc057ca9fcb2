import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { SparseFile } from '../../../../src/store/unpack/sparse-file.ts';
import { seededRandom } from '../../../helpers/tar-builder.ts';

const directory = mkdtempSync(join(tmpdir(), 'sparse-'));
t.teardown(() => rmSync(directory, { recursive: true }));

/** Writes pieces to a new file and gives its contents and how much room it takes. */
function write(pieces: Iterable<Buffer>): { content: Buffer; blocks: number } {
  const file = join(directory, 'file');
  const fd = openSync(file, 'w');
  const sparse = new SparseFile(fd);
  for (const piece of pieces) sparse.write(piece);
  sparse.finish();
  closeSync(fd);
  return { content: readFileSync(file), blocks: statSync(file).blocks };
}

t.test('SparseFile.write() keeps every byte, however the bytes are cut', async (t) => {
  const random = seededRandom(5);
  for (let round = 0; round < 200; round += 1) {
    const content = Buffer.alloc(random() % 60_000);
    for (let at = random() % 9000; at < content.length; at += random() % 20_000)
      content.fill(1 + (random() % 255), at, Math.min(content.length, at + (random() % 6000)));
    const pieces: Buffer[] = [];
    for (let at = 0; at < content.length; ) {
      const length = 1 + (random() % 13_000);
      pieces.push(content.subarray(at, at + length));
      at += length;
    }
    t.ok(write(pieces).content.equals(content), `round ${round}: ${content.length} bytes in ${pieces.length} pieces`);
  }
});

t.test('SparseFile.write() allocates nothing for zeros', async (t) => {
  const zeros = Buffer.alloc(1024 * 1024);
  const { content, blocks } = write([zeros, Buffer.from('x'), zeros]);
  t.same([content.length, content.indexOf('x')], [2 * zeros.length + 1, zeros.length]);
  t.ok(blocks <= 8, `${blocks} blocks of 512 bytes`);
  t.same(write([Buffer.alloc(10)]), { content: Buffer.alloc(10), blocks: 0 });
  t.same(write([]), { content: Buffer.alloc(0), blocks: 0 });
});
