import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { DIRECT_BYTES, DiskOutput } from '../../../src/erofs/disk-output.ts';

const directory = mkdtempSync(path.join(tmpdir(), 'rootlayer-output-'));
t.teardown(() => rmSync(directory, { recursive: true }));
const at = (): Buffer => Buffer.from('file');

/** What is in the output after the work, from its second block on. */
async function written(work: (output: DiskOutput) => void | Promise<void>, maxBytes = 2 ** 30): Promise<Buffer> {
  const file = path.join(directory, 'output');
  const fd = openSync(file, 'w');
  try {
    const output = new DiskOutput(fd, maxBytes, () => {});
    await work(output);
    await output.drain();
    await output.writeFirst(Buffer.alloc(4096));
    return readFileSync(file).subarray(4096);
  } finally {
    closeSync(fd);
  }
}

let count = 0;

/** A new file, open: what is copied in the background must not change meanwhile. */
function fileOf(bytes: Buffer): number {
  count += 1;
  const file = path.join(directory, `input-${count}`);
  writeFileSync(file, bytes);
  return openSync(file, 'r');
}

const NO_TAIL = Buffer.alloc(0);

/** Adds a file of any size as the image's writer does. */
function appendFile(output: DiskOutput, bytes: Buffer): void {
  const fd = fileOf(bytes);
  if (bytes.length >= DIRECT_BYTES) {
    output.appendLargeFile(fd, bytes.length, false, at());
  } else {
    output.appendSmallFile(fd, bytes.length, NO_TAIL, at);
    closeSync(fd);
  }
}

const noise = (length: number): Buffer => Buffer.from(Array.from({ length }, (_byte, n) => (n * 7 + (n >> 8)) & 0xff));

t.test('DiskOutput begins each thing at a block', async (t) => {
  const bytes = await written((output) => {
    t.equal(output.nextBlock, 1);
    output.append(Buffer.from('one'));
    t.equal(output.nextBlock, 2);
    appendFile(output, Buffer.from('two'));
    output.append(Buffer.alloc(4097, 'x'));
    t.equal(output.nextBlock, 5);
  });
  const expected = Buffer.alloc(4 * 4096);
  expected.write('one', 0);
  expected.write('two', 4096);
  expected.fill('x', 8192, 8192 + 4097);
  t.ok(bytes.equals(expected));
});

t.test('DiskOutput keeps what is larger than its buffer, and many things in a row', async (t) => {
  const pieces = [5_000_000, 1, 300_000, 1_048_576, 70_000, 131_072, 131_071].map(noise);
  const bytes = await written(async (output) => {
    for (const [n, piece] of pieces.entries()) {
      if (n % 2 === 0) output.append(piece);
      else appendFile(output, piece);
      await output.room();
    }
    output.append(Buffer.from('end'));
  });
  let offset = 0;
  for (const piece of pieces) {
    t.ok(bytes.subarray(offset, offset + piece.length).equals(piece), `${piece.length}`);
    offset += Math.ceil(piece.length / 4096) * 4096;
  }
  t.equal(bytes.toString('latin1', offset, offset + 3), 'end');
});

t.test('DiskOutput copies from another kind of filesystem too', async (t) => {
  const size = readFileSync(process.execPath).length;
  const bytes = await written((output) => output.appendLargeFile(openSync(process.execPath, 'r'), size, false, at()));
  t.ok(bytes.subarray(0, size).equals(readFileSync(process.execPath)));
});

t.test('DiskOutput tells of files that are shorter than they should be', async (t) => {
  const short = Buffer.alloc(50, 'x');
  await t.rejects(
    written((output) => output.appendLargeFile(fileOf(short), 200_000, false, at())),
    { code: 'E_DISK_IMAGE', message: /"file".*shorter/ },
  );
  const fd = fileOf(short);
  await t.rejects(
    written((output) => output.appendSmallFile(fd, 51, NO_TAIL, at)),
    { code: 'E_DISK_IMAGE', message: /"file".*shorter/ },
  );
  closeSync(fd);
});

t.test('DiskOutput.appendSmallFile() gives what is behind the blocks, and does not write it', async (t) => {
  const tail = Buffer.alloc(10);
  const input = noise(4096 + 10);
  const bytes = await written((output) => {
    const fd = fileOf(input);
    output.appendSmallFile(fd, 4096, tail, at);
    closeSync(fd);
    output.append(Buffer.from('n'));
  });
  t.ok(tail.equals(input.subarray(4096)));
  t.ok(bytes.equals(Buffer.concat([input.subarray(0, 4096), Buffer.from('n'), Buffer.alloc(4095)])));
});

t.test('DiskOutput keeps holes', async (t) => {
  const fd = openSync(path.join(directory, 'holes'), 'w+');
  writeSync(fd, 'data', 65_536);
  ftruncateSync(fd, 300_001);
  const bytes = await written((output) => {
    output.appendLargeFile(fd, 300_001, true, at());
    output.append(Buffer.from('end'));
  });
  const expected = Buffer.alloc(Math.ceil(300_001 / 4096) * 4096 + 4096);
  expected.write('data', 65_536);
  expected.write('end', expected.length - 4096);
  t.ok(bytes.equals(expected));
});

t.test('DiskOutput holds its limit before it writes', async (t) => {
  await t.rejects(
    written((output) => output.append(Buffer.alloc(4097)), 3 * 4096 - 1),
    { code: 'E_LIMIT_UNPACKED' },
  );
  await t.resolves(written((output) => output.append(Buffer.alloc(4097)), 3 * 4096));
  await t.rejects(
    written((output) => output.appendLargeFile(fileOf(Buffer.alloc(1)), 2 ** 40, true, at())),
    { code: 'E_LIMIT_UNPACKED' },
  );
});
