import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import t from 'tap';
import { checkZstdFrames } from '../../../../src/store/unpack/zstd-frames.ts';
import { requires } from '../../../helpers/requires.ts';
import { seededRandom } from '../../../helpers/tar-builder.ts';

requires(t, 'zstd');

const scratch = mkdtempSync(path.join(os.tmpdir(), 'rootlayer-frames-'));
t.teardown(() => rmSync(scratch, { recursive: true }));

const limits = { maxFrames: 10, maxWindowBytes: 128 * 1024 * 1024 };

function check(bytes: Buffer): void {
  const file = path.join(scratch, 'f.zst');
  writeFileSync(file, bytes);
  const fd = openSync(file, 'r');
  try {
    checkZstdFrames(fd, bytes.length, limits);
  } finally {
    closeSync(fd);
  }
}

function compress(bytes: Buffer, ...args: string[]): Buffer {
  return execFileSync('zstd', ['-qc', ...args], { input: bytes, maxBuffer: 1 << 28 });
}

const random = seededRandom(3);
const noise = Buffer.from(Array.from({ length: 300_000 }, () => random() & 0xff));

t.test('checkZstdFrames() takes what zstd makes', async (t) => {
  const contents = [
    Buffer.alloc(0),
    Buffer.from('x'),
    noise,
    Buffer.alloc(5_000_000),
    Buffer.concat([noise, Buffer.alloc(200_000), noise]),
  ];
  const options = [[], ['-19'], ['--no-check'], ['--long=27'], ['--stream-size=1'], ['-1', '-B65536']];
  for (const args of options) {
    for (const content of contents) {
      if (args[0] === '--stream-size=1' && content.length !== 1) continue;
      t.doesNotThrow(() => check(compress(content, ...args)), `${args.join(' ')} ${content.length}`);
    }
  }
  const file = path.join(scratch, 'known-size');
  for (const content of contents) {
    writeFileSync(file, content);
    t.doesNotThrow(() => check(execFileSync('zstd', ['-qc', file])), `a file of ${content.length}`);
  }
  t.doesNotThrow(() => check(Buffer.concat(contents.map((content) => compress(content)))), 'frames one after the other');
});

t.test('checkZstdFrames() refuses every cut, and other bytes between frames', async (t) => {
  const frame = compress(Buffer.from('a short text'));
  for (let length = 1; length < frame.length; length += 1) {
    t.throws(() => check(frame.subarray(0, length)), { code: 'E_COMPRESSION' }, `${length} bytes`);
  }
  t.throws(() => check(Buffer.concat([frame, Buffer.of(0), frame])), { code: 'E_COMPRESSION' });
  t.throws(() => check(Buffer.concat(Array.from({ length: 11 }, () => frame))), { code: 'E_COMPRESSION', message: /more than 10 frames/ });
});
