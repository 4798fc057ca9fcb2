import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';
import t, { type Test } from 'tap';
import { DigestStream } from '../../../src/api/digest-stream.ts';
import type { Fetched } from '../../../src/api/session.ts';
import { unpackOciArchive } from '../../../src/cli/oci-dir.ts';
import { saveDirectory, saveStream } from '../../../src/cli/save.ts';
import { digestOf } from '../../../src/core/digest.ts';
import { tarOf } from '../../helpers/fake-engine.ts';

const never = new AbortController().signal;

async function makeDir(t: Test): Promise<string> {
  const dir = await mkdtemp('/dev/shm/rootlayer-save-');
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

function fetchedFrom(chunks: Iterable<Buffer>): Fetched {
  const stream = new DigestStream();
  Readable.from(chunks)
    .on('error', (error) => stream.destroy(error))
    .pipe(stream);
  return { stream, sizeBytes: null, fileName: 'x', digest: stream.digest };
}

t.test('saveStream() gives size and digest, and replaces a file', async (t) => {
  const file = path.join(await makeDir(t), 'out.tar');
  writeFileSync(file, 'old');
  const saved = await saveStream(fetchedFrom([Buffer.from('he'), Buffer.from('llo')]), { kind: 'file', path: file }, () => {}, never);
  t.same(saved, { digest: digestOf(createHash('sha256').update('hello').digest()), sizeBytes: 5 });
  t.equal(readFileSync(file, 'utf8'), 'hello');
  t.same(readdirSync(path.dirname(file)), ['out.tar']);
  t.equal(lstatSync(file).mode & 0o777, 0o666 & ~process.umask());
});

t.test('saveStream() leaves the old file, and nothing else, when the stream breaks', async (t) => {
  const file = path.join(await makeDir(t), 'out.tar');
  writeFileSync(file, 'old');
  const broken = function* (): Generator<Buffer> {
    yield Buffer.from('half');
    throw new Error('broken');
  };
  await t.rejects(
    saveStream(fetchedFrom(broken()), { kind: 'file', path: file }, () => {}, never),
    { message: 'broken' },
  );
  t.equal(readFileSync(file, 'utf8'), 'old');
  t.same(readdirSync(path.dirname(file)), ['out.tar']);
});

t.test('saveStream() writes to a device as it is', async (t) => {
  const before = lstatSync('/dev/null');
  await saveStream(fetchedFrom([Buffer.from('x')]), { kind: 'device', path: '/dev/null' }, () => {}, never);
  const after = lstatSync('/dev/null');
  t.same({ ino: after.ino, mode: after.mode, rdev: after.rdev }, { ino: before.ino, mode: before.mode, rdev: before.rdev });
});

t.test('saveDirectory() shows the directory when it is whole', async (t) => {
  const dir = await makeDir(t);
  await saveDirectory(path.join(dir, 'out'), async (draft) => {
    writeFileSync(path.join(draft, 'a'), '');
    t.notOk(readdirSync(dir).includes('out'));
  });
  t.same(readdirSync(path.join(dir, 'out')), ['a']);
  await t.rejects(
    saveDirectory(path.join(dir, 'other'), async () => {
      throw new Error('broken');
    }),
    { message: 'broken' },
  );
  t.same(readdirSync(dir), ['out']);
});

const blob = Buffer.from('blob');
const blobName = `blobs/sha256/${createHash('sha256').update(blob).digest('hex')}`;

t.test('unpackOciArchive() writes blobs, index and layout', async (t) => {
  const dir = await makeDir(t);
  const archive = tarOf({ 'oci-layout': Buffer.from('{}'), 'index.json': Buffer.from('[]'), [blobName]: blob });
  await unpackOciArchive(Readable.from([archive.subarray(0, 700), archive.subarray(700)]), dir);
  t.same(readdirSync(dir).sort(), ['blobs', 'index.json', 'oci-layout']);
  t.equal(readFileSync(path.join(dir, blobName), 'utf8'), 'blob');
});

t.test('unpackOciArchive() refuses all else', async (t) => {
  const refused: [name: string, code: string][] = [
    ['../escape', 'E_IMAGE_FORMAT'],
    ['/etc/passwd', 'E_IMAGE_FORMAT'],
    ['blobs/sha256/../x', 'E_IMAGE_FORMAT'],
    ['manifest.json', 'E_IMAGE_FORMAT'],
    [`blobs/sha512/${'0'.repeat(64)}`, 'E_IMAGE_FORMAT'],
    [`blobs/sha256/${'0'.repeat(64)}`, 'E_DIGEST'],
  ];
  for (const [name, code] of refused) {
    const dir = await makeDir(t);
    await t.rejects(unpackOciArchive(Readable.from([tarOf({ [name]: blob })]), dir), { code }, name);
  }
  const twice = Buffer.concat([tarOf({ 'index.json': blob }).subarray(0, 1024), tarOf({ 'index.json': blob })]);
  await t.rejects(unpackOciArchive(Readable.from([twice]), await makeDir(t)), { code: 'E_IMAGE_FORMAT', message: /twice/ });
  await t.rejects(unpackOciArchive(Readable.from([twice.subarray(0, 600)]), await makeDir(t)), { code: 'E_ARCHIVE_TRUNCATED' });
});
