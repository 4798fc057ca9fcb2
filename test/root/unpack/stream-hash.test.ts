import { createHash } from 'node:crypto';
import t from 'tap';
import { StreamHash } from '../../../src/store/unpack/stream-hash.ts';
import { seededRandom } from '../../helpers/tar-builder.ts';

const hash = await StreamHash.start();

function give(bytes: Buffer): void {
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.copy(hash.take(), 0, at);
    hash.give(length);
    at += length;
  }
}

t.test('StreamHash.finish() gives the sha256 of all bytes given, however they were cut', async (t) => {
  const random = seededRandom(1);
  for (const size of [0, 1, 65_536, 5_000_000, 9_999_999]) {
    const bytes = Buffer.alloc(size);
    for (let at = 0; at + 4 <= size; at += 4) bytes.writeUInt32LE(random(), at);
    for (let at = 0; at < size; ) {
      const length = 1 + (random() % 2_000_000);
      give(bytes.subarray(at, at + length));
      at += length;
    }
    t.equal(hash.finish(), createHash('sha256').update(bytes).digest('hex'), `${size} bytes`);
  }
});

t.test('StreamHash.reset() forgets what was given', async (t) => {
  give(Buffer.from('forgotten'));
  hash.reset();
  give(Buffer.from('kept'));
  t.equal(hash.finish(), createHash('sha256').update('kept').digest('hex'));
});
