import { spawnSync } from 'node:child_process';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { gunzipSync } from 'node:zlib';
import t from 'tap';
import { compressed, compressors } from '../../../src/recipe/tree/compressors.ts';
import { requires } from '../../helpers/requires.ts';

const signal = new AbortController().signal;
const text = Buffer.from(Array.from({ length: 200_000 }, (_, n) => `${(n * 2654435761) % 4294967296}\n`).join(''));

function pack(compressor: keyof typeof compressors): Promise<Buffer> {
  return buffer(compressed(Readable.from([text.subarray(0, 1000), text.subarray(1000)]), compressor, signal));
}

t.test('compressed() with none hands the bytes on', async (t) => {
  t.ok((await pack('none')).equals(text));
});

t.test('compressed() with gz gives pigz’s bytes, without a name and a time, whatever the number of cores', async (t) => {
  if (!requires(t, 'pigz')) return;
  const bytes = await pack('gz');
  t.ok(gunzipSync(bytes).equals(text));
  t.equal(bytes.subarray(3, 8).toString('hex'), '0000000000', 'no flags, no time');
  for (const cores of [1, 2, 5]) t.ok(spawnSync('pigz', [`-p${cores}`, '-nTR'], { input: text, maxBuffer: 2 ** 28 }).stdout.equals(bytes));
});

t.test('compressed() with zstd gives the same bytes, whatever the number of cores', async (t) => {
  if (!requires(t, 'zstd')) return;
  const bytes = await pack('zstd');
  t.ok(spawnSync('zstd', ['-dcq'], { input: bytes, maxBuffer: 2 ** 28 }).stdout.equals(text));
  for (const cores of [1, 2, 5]) t.ok(spawnSync('zstd', ['-q', `-T${cores}`], { input: text, maxBuffer: 2 ** 28 }).stdout.equals(bytes));
});

t.test('compressors have the endings of dockerTools', async (t) => {
  t.same(
    Object.entries(compressors).map(([name, { ext }]) => [name, ext]),
    [
      ['none', ''],
      ['gz', '.gz'],
      ['zstd', '.zst'],
    ],
  );
});
