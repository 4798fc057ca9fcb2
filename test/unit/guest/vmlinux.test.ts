import { readFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import t from 'tap';
import { decodeLz4Legacy } from '../../../src/guest/lz4.ts';
import { extractVmlinux, readRelease } from '../../../src/guest/vmlinux.ts';
import { requires } from '../../helpers/requires.ts';

/** A legacy frame of blocks that are compressed already. */
function frame(...blocks: number[][]): Buffer {
  const parts = blocks.map((block) => {
    const size = Buffer.alloc(4);
    size.writeUInt32LE(block.length);
    return Buffer.concat([size, Buffer.from(block)]);
  });
  return Buffer.concat([Buffer.from([0x02, 0x21, 0x4c, 0x18]), ...parts]);
}

const ABC = [0x61, 0x62, 0x63];

t.test('decodeLz4Legacy() copies literals', (t) => {
  t.equal(decodeLz4Legacy(frame([0x30, ...ABC]))?.toString(), 'abc');
  const many = Array.from({ length: 300 }, (_, index) => index & 0xff);
  t.strictSame([...(decodeLz4Legacy(frame([0xf0, 255, 30, ...many])) ?? [])], many, 'a length of 15 + 255 + 30');
  t.end();
});

t.test('decodeLz4Legacy() copies matches, also into themselves', (t) => {
  t.equal(decodeLz4Legacy(frame([0x32, ...ABC, 3, 0, 0x10, 0x64]))?.toString(), 'abcabcabcd');
  t.equal(decodeLz4Legacy(frame([0x1f, 0x61, 1, 0, 0, 0x10, 0x62]))?.toString(), `${'a'.repeat(1 + 15 + 4)}b`);
  t.end();
});

t.test('decodeLz4Legacy() refuses what no encoder writes', (t) => {
  t.equal(decodeLz4Legacy(frame([0x32, ...ABC, 4, 0, 0x10, 0x64])), null, 'a match before the beginning');
  t.equal(decodeLz4Legacy(frame([0x32, ...ABC, 0, 0, 0x10, 0x64])), null, 'a distance of nothing');
  t.equal(decodeLz4Legacy(frame([0x50, ...ABC])), null, 'more literals than there are');
  t.equal(decodeLz4Legacy(frame([0x30, ...ABC]).subarray(0, 9)), null, 'a block that ends too early');
  const bomb = [0x1f, 0x61, 1, 0, ...new Array(33_000).fill(255), 0, 0x10, 0x62];
  t.equal(decodeLz4Legacy(frame(bomb)), null, 'more than a block can hold');
  t.end();
});

t.test('extractVmlinux() gives the ELF file of a bzImage with lz4', (t) => {
  if (!requires(t, 'vm-kernel')) return;
  const image = readFileSync(path.join(process.env['ROOTLAYER_VM_KERNEL'] ?? '', 'vmlinuz'));
  const kernel = extractVmlinux(image);
  t.equal(kernel.toString('latin1', 0, 4), '\x7fELF');
  // The kernel's build puts the length behind the compressed bytes.
  const payload = ((image[0x1f1] ?? 0) + 1) * 512 + image.readUInt32LE(0x248);
  t.equal(kernel.length, image.readUInt32LE(payload + image.readUInt32LE(0x24c) - 4));
  t.match(readRelease(image), /^\d+\.\d+\.\d+-\S+$/);
  t.end();
});

t.test('extractVmlinux() gives what it cannot unpack as it is', (t) => {
  const image = Buffer.alloc(8192);
  t.equal(extractVmlinux(image), image, 'no bzImage');
  t.equal(readRelease(image), null);
  image.write('HdrS', 0x202);
  image.writeUInt16LE(0x20f, 0x206);
  image.writeUInt32LE(100, 0x24c);
  image.writeUInt32LE(0xfd2fb528, 5 * 512);
  t.equal(extractVmlinux(image), image, 'another compression');
  image.writeUInt32LE(0x184c2102, 5 * 512);
  t.equal(extractVmlinux(image), image, 'damaged lz4');
  t.end();
});
