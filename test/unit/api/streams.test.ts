import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import t from 'tap';
import { DigestStream, formatLegacyDigest, formatReprDigest, parseReprDigest } from '../../../src/api/digest-stream.ts';
import { parseLines } from '../../../src/api/ndjson.ts';
import { withProgress } from '../../../src/api/progress.ts';
import { digestOf } from '../../../src/core/digest.ts';

const digest = digestOf(createHash('sha256').update('hello').digest());

t.test('formatReprDigest() and parseReprDigest() are inverse', async (t) => {
  t.equal(formatReprDigest(digest), 'sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:');
  t.equal(parseReprDigest(formatReprDigest(digest)), digest);
  t.equal(parseReprDigest(`md5=:AAAA:, ${formatReprDigest(digest)}`), digest);
  t.equal(formatLegacyDigest(digest), 'sha-256=LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=');
});

t.test('parseReprDigest() gives null for what holds no sha-256', async (t) => {
  for (const value of ['', 'sha-512=:AAAA:', 'sha-256=:AAAA:', formatLegacyDigest(digest)]) t.equal(parseReprDigest(value), null, value);
});

t.test('DigestStream gives the digest of what passed, and fails on another', async (t) => {
  const good = Readable.from([Buffer.from('hel'), Buffer.from('lo')]).pipe(new DigestStream(() => digest));
  t.equal(Buffer.concat(await good.toArray()).toString(), 'hello');
  t.equal(await good.digest, digest);
  const bad = Readable.from([Buffer.from('hell')]).pipe(new DigestStream(() => digest));
  await t.rejects(bad.toArray(), { code: 'E_DIGEST' });
  await t.rejects(bad.digest, { code: 'E_DIGEST' });
});

t.test('DigestStream that is given up has no digest', async (t) => {
  const stream = new DigestStream();
  stream.destroy();
  await t.rejects(stream.digest, { code: 'E_CANCELLED' });
});

async function all(chunks: (string | Buffer)[]): Promise<unknown[]> {
  const values: unknown[] = [];
  for await (const value of parseLines(Readable.from(chunks.map((chunk) => Buffer.from(chunk))))) values.push(value);
  return values;
}

t.test('parseLines() puts lines and characters together that come in pieces', async (t) => {
  const bytes = Buffer.from('{"a":"\u00e9"}\n{"b":2}\n');
  t.same(await all([...bytes].map((byte) => Buffer.of(byte))), [{ a: '\u00e9' }, { b: 2 }]);
  t.same(await all([]), []);
});

t.test('parseLines() refuses a last line without its end', async (t) => {
  await t.rejects(all(['{"a":1}\n{"b"']), { code: 'E_PROTOCOL' });
  await t.rejects(all(['{"a":1}\nx\n']), SyntaxError);
});

t.test('withProgress() drops progress that nobody has taken', async (t) => {
  const steps: unknown[] = [];
  const run = withProgress(async (progress) => {
    for (let done = 0; done < 10_000; done += 1) progress({ stage: 'x', done, total: null, unit: 'bytes' });
    await new Promise((resolve) => setTimeout(resolve, 5));
    return 'result';
  });
  for await (const step of run) steps.push(step.type === 'progress' ? step.progress.done : step.result);
  t.same(steps, [9999, 'result']);
});

t.test('withProgress() gives the error of the work', async (t) => {
  const run = withProgress(async () => {
    throw new Error('broken');
  });
  await t.rejects(run.next(), { message: 'broken' });
});
