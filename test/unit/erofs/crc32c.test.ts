import t from 'tap';
import { crc32c } from '../../../src/erofs/crc32c.ts';

// RFC 3720, B.4: the vectors there are inverted at the end.
const inverted = (bytes: Buffer): string => ((~crc32c(bytes) >>> 0) + 0).toString(16).padStart(8, '0');

t.test('crc32c() gives the sums of RFC 3720, without the final inversion', async (t) => {
  t.equal(inverted(Buffer.alloc(32)), '8a9136aa');
  t.equal(inverted(Buffer.alloc(32, 0xff)), '62a8ab43');
  t.equal(inverted(Buffer.from(Array.from({ length: 32 }, (_byte, n) => n))), '46dd794e');
  t.equal(inverted(Buffer.from('123456789')), 'e3069283');
  t.equal(crc32c(Buffer.alloc(0)), 0xffff_ffff);
});
