import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import { TARSUM_HASHES, type TarsumVersion } from '../../../src/core/tarsum.ts';
import { tarsum } from '../../../src/recipe/archive/tarsum-stream.ts';
import { rootlayer } from '../../helpers/command.ts';
import { repoRoot } from '../../helpers/repo.ts';
import { requires } from '../../helpers/requires.ts';

const fixtures = path.join(repoRoot, 'test/fixtures/tarsum');

/** Rows of the reference whose input is a file and that hash nothing before it. */
const rows = readFileSync(path.join(fixtures, 'expected-sums.tsv'), 'utf8')
  .split('\n')
  .map((line) => line.split('\t'))
  .filter(([layer = '', extra]) => layer.endsWith('.tar') && extra === '-');

t.ok(rows.length >= 4, 'the reference has files');

function chunksOf(bytes: Buffer, size: number): Readable {
  const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, n) => bytes.subarray(n * size, (n + 1) * size));
  return Readable.from(chunks, { objectMode: false });
}

for (const [layer = '', , version = '', , expected = ''] of rows) {
  t.test(`tarsum() gives ${expected.slice(0, 32)}... for ${layer}, plain, gzip and zstd`, async (t) => {
    const plain = readFileSync(path.join(fixtures, layer));
    const zstd = requires(t, 'zstd') ? execFileSync('zstd', ['-q', '-c'], { input: plain }) : Buffer.alloc(0);
    for (const bytes of [plain, gzipSync(plain), zstd]) {
      for (const size of [1, 1000]) t.equal(await tarsum(chunksOf(bytes, size), { version: version as TarsumVersion }), expected);
    }
  });
}

t.test('tarsum() of nothing is that of an archive without members', async (t) => {
  t.match(await tarsum(Readable.from([])), /^tarsum\.v1\+sha256:e3b0c442/);
});

t.test('rootlayer layer tarsum takes a file or standard input, any version and any hash', async (t) => {
  const [layer = '', , version = '', , expected = ''] = rows[0] ?? [];
  const file = path.join(fixtures, layer);
  const byFile = await rootlayer(['layer', 'tarsum', '--label', `${version}+sha256`, file]);
  t.equal(byFile.stdout, `${expected}\n`);
  for (const hash of TARSUM_HASHES) {
    const sum = await tarsum(Readable.from([readFileSync(file)], { objectMode: false }), { version: 'tarsum', hash });
    t.equal((await rootlayer(['layer', 'tarsum', '--label', 'tarsum', '--hash', hash, file])).stdout, `${sum}\n`, hash);
  }
  const piped = execFileSync('bash', [
    '-c',
    '"$0" "$1" layer tarsum - < "$2"',
    process.execPath,
    path.join(import.meta.dirname, '../../../src/cli/main.js'),
    file,
  ]);
  t.match(piped.toString(), /^tarsum\.v1\+sha256:[0-9a-f]{64}\n$/);
  const wrong = await rootlayer(['layer', 'tarsum', '--hash', 'crc32', file]);
  t.match(wrong.stderr, /Cannot use --hash "crc32": want one of sha256, sha512/);
});
