import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import { TarReader } from '../../../src/core/tar/reader.ts';
import { directoryStream } from '../../../src/image/directory-stream.ts';

const BLOB = 'ab'.repeat(32);

function layoutFor(t: Test): string {
  const dir = mkdtempSync(path.join(tmpdir(), 'rootlayer-layout-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  mkdirSync(path.join(dir, 'blobs/sha256'), { recursive: true });
  writeFileSync(path.join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(path.join(dir, 'index.json'), '{"schemaVersion":2,"manifests":[]}');
  writeFileSync(path.join(dir, 'blobs/sha256', BLOB), 'blob');
  return dir;
}

async function namesOf(dir: string): Promise<string[]> {
  const names: string[] = [];
  const reader = new TarReader({ entry: (entry) => void names.push(entry.name.toString()), data: () => {}, entryEnd: () => {} });
  reader.write(await buffer(await directoryStream(dir)));
  reader.end();
  return names;
}

t.test('directoryStream() sends the files of a layout and nothing else', async (t) => {
  const dir = layoutFor(t);
  writeFileSync(path.join(dir, 'secret'), 'x');
  writeFileSync(path.join(dir, 'blobs/sha256/.tmp-1'), 'x');
  t.same(await namesOf(dir), [`blobs/sha256/${BLOB}`, 'index.json', 'oci-layout']);
});

t.test('directoryStream() gives the same bytes for the same files', async (t) => {
  const read = async (dir: string): Promise<Buffer> => await buffer(await directoryStream(dir));
  t.same(await read(layoutFor(t)), await read(layoutFor(t)));
});

t.test('directoryStream() follows no symlink', async (t) => {
  for (const name of ['index.json', `blobs/sha256/${BLOB}`, 'blobs']) {
    const dir = layoutFor(t);
    rmSync(path.join(dir, name), { recursive: true });
    symlinkSync('/etc', path.join(dir, name));
    await t.rejects(directoryStream(dir), { code: 'E_IMAGE_FORMAT', message: /symlink/ }, name);
  }
});

t.test('directoryStream() refuses what is no layout', async (t) => {
  for (const name of ['index.json', 'oci-layout', 'blobs']) {
    const dir = layoutFor(t);
    rmSync(path.join(dir, name), { recursive: true });
    await t.rejects(directoryStream(dir), { code: 'E_IMAGE_FORMAT' }, name);
  }
});

t.test('directoryStream() fails when a file changes before its turn', async (t) => {
  const dir = layoutFor(t);
  const stream = await directoryStream(dir);
  writeFileSync(path.join(dir, 'oci-layout'), 'longer than it was before, by far');
  await t.rejects(buffer(stream), { code: 'E_CONFLICT' });
});
