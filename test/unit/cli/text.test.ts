import t from 'tap';
import { exitStatusOf } from '../../../src/cli/exit-status.ts';
import { formatBytes, formatTable } from '../../../src/cli/output.ts';
import { PrintableStream, printable } from '../../../src/cli/printable.ts';
import { RootlayerError } from '../../../src/core/errors.ts';
import type { JobRecord } from '../../../src/core/job.ts';

t.test('S19 printable() replaces what could command a terminal', async (t) => {
  t.equal(printable('a\tb\r\nc'), 'a\tb\r\nc');
  t.equal(printable('\u001b]52;c;AAAA\u0007'), '\ufffd]52;c;AAAA\ufffd', 'clipboard');
  t.equal(printable('\u001b[2J\u009b2J\u007f\0\b'), '\ufffd[2J\ufffd2J\ufffd\ufffd\ufffd', 'C0, C1 and delete');
  t.equal(printable('a\u202eb\u2066c\u200fd'), 'a\ufffdb\ufffdc\ufffdd', 'direction of text');
  t.equal(printable('gr\u00fc\u00df \u65e5\u672c'), 'gr\u00fc\u00df \u65e5\u672c', 'letters stay');
});

t.test('S19 PrintableStream puts characters together that come in pieces', async (t) => {
  const stream = new PrintableStream();
  const bytes = Buffer.from('\u00fc\u009b!');
  const text = [...bytes].map((byte) => stream.write(Buffer.of(byte))).join('') + stream.end();
  t.equal(text, '\u00fc\ufffd!');
  t.equal(new PrintableStream().write(Buffer.of(0x9b, 0x32)), '\ufffd2', 'a raw C1 byte is no character');
});

t.test('formatBytes() has three digits at most', async (t) => {
  const samples: [number, string][] = [
    [0, '0 bytes'],
    [999, '999 bytes'],
    [1000, '1.0 kB'],
    [99_949, '99.9 kB'],
    [170_536_960, '171 MB'],
    [999_600, '1.0 MB'],
    [5e12, '5.0 TB'],
    [5e15, '5000 TB'],
  ];
  for (const [bytes, text] of samples) t.equal(formatBytes(bytes), text);
});

t.test('formatTable() makes columns', async (t) => {
  t.equal(
    formatTable([
      ['A', 'LONG', 'C'],
      ['aaa', 'b', 'c'],
    ]),
    'A    LONG  C\naaa  b     c',
  );
  t.equal(formatTable([]), '');
});

function jobWith(fields: Partial<JobRecord>): JobRecord {
  return { state: 'failed', exitStatus: null, error: null, ...fields } as JobRecord;
}

t.test("exitStatusOf() is the script's own, else says who ended the job", async (t) => {
  const failed = (code: ConstructorParameters<typeof RootlayerError>[0], exitStatus: number | null = null): number =>
    exitStatusOf(jobWith({ error: new RootlayerError(code, 'x').toBody(), exitStatus }));
  t.equal(exitStatusOf(jobWith({ state: 'done', exitStatus: 0 })), 0);
  t.equal(failed('E_SCRIPT', 3), 3);
  t.equal(failed('E_SCRIPT', 143), 143);
  t.equal(failed('E_LIMIT_TIME', 137), 124);
  t.equal(failed('E_LIMIT_SILENCE'), 124);
  t.equal(failed('E_LIMIT_MEMORY', 1), 137);
  t.equal(failed('E_LIMIT_DISK', 28), 28);
  t.equal(failed('E_LIMIT_OUTPUT'), 125);
  t.equal(failed('E_CAPTURE', 0), 125);
  t.equal(exitStatusOf(jobWith({ state: 'cancelled' })), 130);
  t.equal(exitStatusOf(jobWith({ state: 'lost' })), 125);
});
