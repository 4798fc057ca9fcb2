import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import t from 'tap';
import type { TarEntry } from '../../../src/core/tar/entry.ts';
import { TarReader } from '../../../src/core/tar/reader.ts';
import { type PackMember, packTar } from '../../../src/image/tar-pack.ts';

const LIVE = new AbortController().signal;

function stream(...chunks: string[]): { sizeBytes: number; open(): Readable } {
  return { sizeBytes: chunks.join('').length, open: () => Readable.from(chunks.map((chunk) => Buffer.from(chunk))) };
}

async function pack(members: readonly PackMember[]): Promise<Buffer> {
  return await buffer(packTar(members, LIVE));
}

function read(tar: Buffer): { name: string; type: string; mode: number; uid: number; mtimeSec: number; body: string }[] {
  const found: ReturnType<typeof read> = [];
  const reader = new TarReader({
    entry: ({ name, type, mode, uid, mtimeSec }: TarEntry) =>
      void found.push({ name: name.toString(), type, mode, uid, mtimeSec, body: '' }),
    data: (chunk) => {
      const last = found.at(-1);
      if (last !== undefined) last.body += chunk.toString();
    },
    entryEnd: () => {},
  });
  reader.write(tar);
  reader.end();
  return found;
}

t.test('packTar() writes members in the order of their names, without owner and time', async (t) => {
  const tar = await pack([
    { name: 'b/file', body: stream('hello ', 'world') },
    { name: 'manifest.json', body: Buffer.from('[]') },
    { name: 'b/', body: null },
    { name: 'a', body: stream() },
    { name: 'e', body: Buffer.alloc(0) },
  ]);
  const common = { uid: 0, mtimeSec: 0, type: 'file', mode: 0o644 };
  t.same(read(tar), [
    { ...common, name: 'a', body: '' },
    { ...common, name: 'b/', type: 'directory', mode: 0o755, body: '' },
    { ...common, name: 'b/file', body: 'hello world' },
    { ...common, name: 'e', body: '' },
    { ...common, name: 'manifest.json', body: '[]' },
  ]);
});

t.test('packTar() gives the same bytes for the same members', async (t) => {
  const members = [
    { name: 'a', body: Buffer.from('x') },
    { name: 'b', body: stream('y'.repeat(100_000)) },
  ];
  const digest = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
  t.equal(digest(await pack(members)), digest(await pack([...members].reverse())));
});

t.test('packTar() fails when a body has another size than announced', async (t) => {
  for (const sizeBytes of [4, 6]) {
    await t.rejects(pack([{ name: 'a', body: { sizeBytes, open: () => Readable.from([Buffer.from('12345')]) } }]), `size ${sizeBytes}`);
  }
});

t.test('packTar() fails with the error of a body', async (t) => {
  const open = (): Readable =>
    new Readable({
      read() {
        this.destroy(new Error('lost'));
      },
    });
  await t.rejects(pack([{ name: 'a', body: { sizeBytes: 5, open } }]), { message: 'lost' });
});

t.test('packTar() ends its open body when it is destroyed', async (t) => {
  const body = new Readable({
    read() {
      this.push(Buffer.alloc(1024));
    },
  });
  const tar = packTar([{ name: 'a', body: { sizeBytes: 10 ** 9, open: () => body } }], LIVE);
  tar.once('data', () => tar.destroy());
  await new Promise((resolve) => body.once('close', resolve));
  t.equal(body.destroyed, true);
});

t.test('packTar() stops when the signal aborts', async (t) => {
  const stop = new AbortController();
  const body = new Readable({
    read() {
      this.push(Buffer.alloc(1024));
    },
  });
  const tar = packTar([{ name: 'a', body: { sizeBytes: 10 ** 9, open: () => body } }], stop.signal);
  tar.once('data', () => stop.abort());
  await t.rejects(buffer(tar));
  t.equal(body.destroyed, true);
});
