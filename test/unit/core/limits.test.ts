import t from 'tap';
import { limitsSchema } from '../../../src/core/limits.ts';
import { parseDuration, parseSize } from '../../../src/core/units.ts';

t.test('parseSize() reads numbers with units of 1024', (t) => {
  const sizes: Record<string, number> = {
    '4096': 4096,
    '1k': 1024,
    '512m': 512 * 1024 ** 2,
    '2g': 2 * 1024 ** 3,
    '2G': 2 * 1024 ** 3,
    '2GiB': 2 * 1024 ** 3,
    '2gb': 2 * 1024 ** 3,
    '1.5g': 1.5 * 1024 ** 3,
    '1t': 1024 ** 4,
    ' 7 m ': 7 * 1024 ** 2,
  };
  for (const [text, bytes] of Object.entries(sizes)) t.equal(parseSize(text), bytes, text);
  t.end();
});

t.test('parseSize() refuses what is no size, naming the value', (t) => {
  for (const text of ['', 'g', '-1g', '1x', '1gg', '0x10', '1e3', '1 2', 'NaN', '99999999t']) {
    t.throws(() => parseSize(text), { code: 'E_USAGE', message: new RegExp(JSON.stringify(text).replace(/[+.]/g, '\\$&')) }, text);
  }
  t.end();
});

t.test('parseDuration() reads times, a bare number as seconds', (t) => {
  const times: Record<string, number> = {
    '90': 90_000,
    '90s': 90_000,
    '15m': 900_000,
    '1h30m': 5_400_000,
    '1.5h': 5_400_000,
    '250ms': 250,
    '2d': 172_800_000,
  };
  for (const [text, ms] of Object.entries(times)) t.equal(parseDuration(text), ms, text);
  t.end();
});

t.test('parseDuration() refuses what is no time', (t) => {
  for (const text of ['', 'm', '-5s', '5 s', '5x', '1h-30m', 'soon']) t.throws(() => parseDuration(text), { code: 'E_USAGE' }, text);
  t.end();
});

t.test('limitsSchema fills in the defaults and refuses unknown and impossible limits', (t) => {
  t.same(limitsSchema.parse({}), {
    memoryBytes: 2 * 1024 ** 3,
    cpus: 1,
    pids: 1024,
    diskBytes: 8 * 1024 ** 3,
    inodes: 500_000,
    timeMs: 900_000,
    silenceMs: 0,
    outputBytes: 256 * 1024 ** 2,
  });
  for (const wrong of [
    { memory: 1 },
    { memoryBytes: 1 },
    { cpus: 0 },
    { pids: 1.5 },
    { timeMs: Number.NaN },
    { diskBytes: 2 ** 60 },
    { cpus: '1' },
  ]) {
    t.notOk(limitsSchema.safeParse(wrong).success, JSON.stringify(wrong));
  }
  t.end();
});
