/** Hostile gzip and zstd, through the real worker. The ids are those of spec/threats.md, A. */
import { execFileSync } from 'node:child_process';
import { chmodSync, closeSync, existsSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import { startZstd } from '../../src/store/unpack/zstd-process.ts';
import { storeUidBase } from '../helpers/base-range.ts';
import { requires } from '../helpers/requires.ts';
import { archive, base256, header, member } from '../helpers/tar-builder.ts';
import {
  census,
  childrenOf,
  codeOf,
  makeScratch,
  readOrEmpty,
  removeScratch,
  sketch,
  type UnpackOptions,
  unpackTo,
  WorkerShare,
} from '../root/unpack/staging.ts';

requires(t, 'root', 'userns', 'launcher', 'zstd');
t.setTimeout(300_000);

const MIB = 1024 * 1024;
const scratch = makeScratch('compression');
const stage = path.join(scratch, 'stage');
t.teardown(() => removeScratch(scratch));

const tar = archive(member({ name: 'f' }, 'content'));
const gz = gzipSync(tar);
const zst = zstd(tar);
/** A tar that begins with a file of 100 GiB, then zeros. */
const bomb = Buffer.concat([header({ name: 'zeros', size: base256(100n * 1024n ** 3n) }), Buffer.alloc(64 * MIB)]);

function zstd(bytes: Buffer, ...args: string[]): Buffer {
  return execFileSync('zstd', ['-qc', ...args], { input: bytes, maxBuffer: 1024 * MIB });
}

/** A zstd frame with one raw, empty block, and the window that the byte says; content sizes and checksums are left out. */
function emptyFrame(windowByte: number): Buffer {
  return Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, windowByte, 0x01, 0x00, 0x00]);
}

function skippableFrame(content: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt32LE(0x184d2a53, 0);
  head.writeUInt32LE(content.length, 4);
  return Buffer.concat([head, content]);
}

function repeat(bytes: Buffer, times: number): Buffer {
  return Buffer.concat(Array.from({ length: times }, () => bytes));
}

type Row = { id: string; what: string; blob: Buffer; options: UnpackOptions; want: string | string[] };
const gzip = (limits: UnpackOptions['limits'] = {}): UnpackOptions => ({ compression: 'gzip', limits });
const zst1 = (limits: UnpackOptions['limits'] = {}): UnpackOptions => ({ compression: 'zstd', limits });
const flipped = (bytes: Buffer, at: number): Buffer => {
  const copy = Buffer.from(bytes);
  copy[at] = (copy[at] ?? 0) ^ 0xff;
  return copy;
};

const rows: Row[] = [
  {
    id: 'A29',
    what: 'gzip above the absolute cap',
    blob: gzipSync(bomb),
    options: gzip({ maxUnpackedBytes: 8 * MIB }),
    want: 'E_LIMIT_UNPACKED',
  },
  { id: 'A29', what: 'gzip above the ratio', blob: gzipSync(bomb), options: gzip({ ratioFloorBytes: MIB }), want: 'E_LIMIT_RATIO' },
  {
    id: 'A29',
    what: 'gzip above the ratio, below the floor',
    blob: gzipSync(bomb),
    options: gzip({ ratioFloorBytes: 128 * MIB }),
    want: 'E_ARCHIVE_TRUNCATED',
  },
  {
    id: 'A30',
    what: 'zstd above the absolute cap',
    blob: zstd(bomb),
    options: zst1({ maxUnpackedBytes: 8 * MIB }),
    want: 'E_LIMIT_UNPACKED',
  },
  { id: 'A30', what: 'zstd above the ratio', blob: zstd(bomb), options: zst1({ ratioFloorBytes: MIB }), want: 'E_LIMIT_RATIO' },
  { id: 'A30', what: 'a window of 128 MiB', blob: Buffer.concat([emptyFrame(17 << 3), zst]), options: zst1(), want: ['f=content'] },
  { id: 'A30', what: 'a window of 144 MiB', blob: Buffer.concat([emptyFrame((17 << 3) | 1), zst]), options: zst1(), want: 'E_COMPRESSION' },
  { id: 'A30', what: 'a window of 2 GiB', blob: Buffer.concat([emptyFrame(21 << 3), zst]), options: zst1(), want: 'E_COMPRESSION' },
  {
    id: 'A30',
    what: 'skippable frames within the cap',
    blob: Buffer.concat([repeat(skippableFrame(), 999), zst]),
    options: zst1({ maxMembers: 1000 }),
    want: ['f=content'],
  },
  {
    id: 'A30',
    what: 'too many skippable frames',
    blob: Buffer.concat([repeat(skippableFrame(), 1000), zst]),
    options: zst1({ maxMembers: 1000 }),
    want: 'E_COMPRESSION',
  },
  {
    id: 'A30',
    what: 'too many empty frames',
    blob: Buffer.concat([repeat(emptyFrame(0), 1000), zst]),
    options: zst1({ maxMembers: 1000 }),
    want: 'E_COMPRESSION',
  },
  {
    id: 'A30',
    what: 'a skippable frame that ends behind the file',
    blob: Buffer.concat([zst, skippableFrame(Buffer.alloc(9)).subarray(0, -1)]),
    options: zst1(),
    want: 'E_COMPRESSION',
  },
  { id: 'A31', what: 'gzip in gzip', blob: gzipSync(gz), options: gzip(), want: 'E_ARCHIVE_TRUNCATED' },
  {
    id: 'A31',
    what: 'gzip in gzip, longer than a header',
    blob: gzipSync(Buffer.concat([gz, Buffer.alloc(1024, 1)])),
    options: gzip(),
    want: 'E_ARCHIVE_HEADER',
  },
  { id: 'A31', what: 'gzip in zstd', blob: zstd(Buffer.concat([gz, Buffer.alloc(1024, 1)])), options: zst1(), want: 'E_ARCHIVE_HEADER' },
  { id: 'A31', what: 'zstd in zstd', blob: zstd(Buffer.concat([zst, Buffer.alloc(1024, 1)])), options: zst1(), want: 'E_ARCHIVE_HEADER' },
  { id: 'A31', what: 'gzip that is said to be zstd', blob: gz, options: zst1(), want: 'E_COMPRESSION' },
  { id: 'A31', what: 'a gzip member behind a zstd frame', blob: Buffer.concat([zst, gz]), options: zst1(), want: 'E_COMPRESSION' },
  { id: 'A31', what: 'zstd that is said to be gzip', blob: zst, options: gzip(), want: 'E_COMPRESSION' },
  { id: 'A31', what: 'a plain tar that is said to be gzip', blob: tar, options: gzip(), want: 'E_COMPRESSION' },
  {
    id: 'A31',
    what: 'gzip that is said to be plain',
    blob: Buffer.concat([gz, Buffer.alloc(1024, 1)]),
    options: {},
    want: 'E_ARCHIVE_HEADER',
  },
  {
    id: 'A32',
    what: 'a tar in two members',
    blob: Buffer.concat([gzipSync(tar.subarray(0, 700)), gzipSync(tar.subarray(700))]),
    options: gzip(),
    want: ['f=content'],
  },
  {
    id: 'A32',
    what: 'empty members within the cap',
    blob: Buffer.concat([repeat(gzipSync(''), 999), gz]),
    options: gzip({ maxMembers: 1000 }),
    want: ['f=content'],
  },
  {
    id: 'A32',
    what: 'too many empty members',
    blob: Buffer.concat([repeat(gzipSync(''), 1_000_000), gz]),
    options: gzip(),
    want: 'E_COMPRESSION',
  },
  {
    id: 'A32',
    what: 'garbage behind the last member',
    blob: Buffer.concat([gz, Buffer.from('garbage')]),
    options: gzip(),
    want: 'E_COMPRESSION',
  },
  {
    id: 'A32',
    what: 'half a member behind the last one',
    blob: Buffer.concat([gz, gz.subarray(0, 12)]),
    options: gzip(),
    want: 'E_COMPRESSION',
  },
  { id: 'A32', what: 'zeros behind the last member', blob: Buffer.concat([gz, Buffer.alloc(10)]), options: gzip(), want: 'E_COMPRESSION' },
  {
    id: 'A32',
    what: 'a megabyte of zeros behind the last member',
    blob: Buffer.concat([gz, Buffer.alloc(MIB)]),
    options: gzip(),
    want: 'E_COMPRESSION',
  },
  { id: 'A32', what: 'a gzip stream that is cut', blob: gz.subarray(0, -9), options: gzip(), want: 'E_COMPRESSION' },
  { id: 'A32', what: 'a gzip stream without its last byte', blob: gz.subarray(0, -1), options: gzip(), want: 'E_COMPRESSION' },
  { id: 'A32', what: 'a wrong gzip checksum', blob: flipped(gz, gz.length - 7), options: gzip(), want: 'E_COMPRESSION' },
  { id: 'A32', what: 'a zstd stream that is cut', blob: zst.subarray(0, -5), options: zst1(), want: 'E_COMPRESSION' },
  { id: 'A32', what: 'a wrong zstd checksum', blob: flipped(zst, zst.length - 1), options: zst1(), want: 'E_COMPRESSION' },
  { id: 'A32', what: 'damage inside a zstd block', blob: flipped(zst, 16), options: zst1(), want: 'E_COMPRESSION' },
  { id: 'A32', what: 'no gzip at all', blob: Buffer.alloc(0), options: gzip(), want: 'E_COMPRESSION' },
  { id: 'A32', what: 'no zstd at all', blob: Buffer.alloc(0), options: zst1(), want: 'E_COMPRESSION' },
  {
    id: 'A31',
    what: 'an error in the middle of a zstd stream',
    blob: zstd(Buffer.concat([header({ name: 'f', checksum: '1' }), Buffer.alloc(4 * MIB, 7)])),
    options: zst1(),
    want: 'E_ARCHIVE_HEADER',
  },
  {
    id: 'A31',
    what: 'an extended header without a member in the middle of a zstd stream',
    blob: zstd(Buffer.concat([member({ name: 'x', type: 'x' }, '9 path=a\n'), Buffer.alloc(1024), Buffer.alloc(4 * MIB, 7)])),
    options: zst1(),
    want: 'E_ARCHIVE_TRUNCATED',
  },
];

t.test('unpackLayer() takes exactly one level of sound compression', async (t) => {
  await unpackTo(stage, tar);
  removeScratch(stage);
  const before = await census();
  {
    await using workers = new WorkerShare(10);
    for (const { id, what, blob, options, want } of rows) {
      const code = await codeOf(() => unpackTo(stage, blob, { takeWorker: workers.take, ...options }));
      t.same(code === 'none' ? sketch(stage) : code, want, `${id}: ${what}`);
      removeScratch(stage);
    }
  }
  t.same(await census(), before, 'no process and no descriptor is left');
});

t.test('A29: a bomb of 8 GiB is stopped soon, by a worker of bounded size', async (t) => {
  const file = path.join(scratch, 'bomb.gz');
  writeBomb(file, 8192);
  const watch = watchPeakRss();
  const started = performance.now();
  t.equal(
    await codeOf(() => unpackTo(stage, file, { compression: 'gzip', limits: { maxUnpackedBytes: 256 * MIB, maxRatio: 2000 } })),
    'E_LIMIT_UNPACKED',
  );
  const elapsedMs = performance.now() - started;
  removeScratch(stage);
  const peakKib = watch.stop();
  t.ok(peakKib > 10 * 1024 && peakKib < 300 * 1024, `the largest process of the worker had ${peakKib} KiB`);
  t.ok(elapsedMs < 20_000, `it took ${Math.round(elapsedMs)} ms`);
});

t.test('A33: no program is found by PATH, nor in the layer', async (t) => {
  const evil = path.join(scratch, 'evil');
  const witness = path.join(scratch, 'witness');
  mkdirSync(evil);
  for (const name of ['zstd', 'gzip', 'unpigz', 'tar']) {
    writeFileSync(path.join(evil, name), `#!/bin/sh\n: > ${witness}\n`);
    chmodSync(path.join(evil, name), 0o755);
  }
  const layer = archive(
    ...['usr/bin/zstd', 'usr/bin/gzip', 'zstd'].map((name) => member({ name, mode: 0o755 }, `#!/bin/sh\n: > ${witness}\n`)),
  );
  const compressed = zstd(layer);
  const searchPath = process.env['PATH'];
  process.env['PATH'] = `${evil}:${searchPath}`;
  try {
    await unpackTo(stage, compressed, { compression: 'zstd' });
    removeScratch(stage);
    t.notOk(existsSync(witness));
    execFileSync('zstd', ['--version']);
    t.ok(existsSync(witness), 'control: a search by PATH would have found it');
  } finally {
    process.env['PATH'] = searchPath;
  }
});

t.test('startZstd() throws E_TOOL naming the package when the program is missing', async (t) => {
  const file = path.join(scratch, 'blob.zst');
  writeFileSync(file, zst);
  const fd = openSync(file, 'r');
  await using process = startZstd(fd, storeUidBase, [], '/nonexistent/zstd');
  closeSync(fd);
  t.match(await process.ended, { code: 'E_TOOL', hint: /package zstd/ });
});

t.test('startZstd() ends with its disposal', async (t) => {
  const file = path.join(scratch, 'long.zst');
  writeFileSync(file, zstd(Buffer.alloc(64 * MIB)));
  const fd = openSync(file, 'r');
  {
    await using process = startZstd(fd, storeUidBase, []);
    t.ok(process.outputFd > 2);
    t.not(childrenOf('self').length, 0, 'it waits for a reader');
  }
  closeSync(fd);
  t.same((await census()).children, []);
});

/**
 * A gzip file of a tar with so many MiB of zeros: one member of 64 MiB again and again, since making the bomb must not take longer than
 * defusing it.
 */
function writeBomb(file: string, mebibytes: number): void {
  const zeros = gzipSync(Buffer.alloc(64 * MIB));
  const fd = openSync(file, 'w');
  writeSync(fd, gzipSync(bomb.subarray(0, 512)));
  for (let written = 0; written < mebibytes; written += 64) writeSync(fd, zeros);
  closeSync(fd);
}

/** Watches the peak memory of all descendants of this process. */
function watchPeakRss(): { stop(): number } {
  let peakKib = 0;
  const look = (): void => {
    for (const pid of descendants(String(process.pid))) {
      const match = /VmHWM:\s+(\d+) kB/.exec(readOrEmpty(`/proc/${pid}/status`));
      peakKib = Math.max(peakKib, Number(match?.[1] ?? 0));
    }
  };
  const timer = setInterval(look, 5);
  return {
    stop: () => {
      clearInterval(timer);
      return peakKib;
    },
  };
}

function descendants(pid: string): string[] {
  return childrenOf(pid).flatMap((child) => [child, ...descendants(child)]);
}
