import { chmodSync, mkdirSync, rmSync, symlinkSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';
import t, { type Test } from 'tap';
import { type ContextItem, contextTar, parseCopy, parseFile } from '../../../src/cli/context-tar.ts';
import type { TarEntry } from '../../../src/core/tar/entry.ts';
import { TarReader } from '../../../src/core/tar/reader.ts';

async function makeDir(t: Test): Promise<string> {
  const dir = await mkdtemp('/dev/shm/rootlayer-context-');
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

type Member = { name: string; type: string; mode: string; owner: string; mtimeSec: number; content: string };

async function readMembers(items: ContextItem[], skipped: string[] = []): Promise<Member[]> {
  const members: Member[] = [];
  let entry: TarEntry | undefined;
  let content: Buffer[] = [];
  const reader = new TarReader({
    entry: (next) => {
      entry = next;
      content = [];
    },
    data: (chunk) => content.push(Buffer.from(chunk)),
    entryEnd: () => {
      if (entry === undefined) return;
      members.push({
        name: entry.name.toString('latin1'),
        type: entry.type,
        mode: entry.mode.toString(8),
        owner: `${entry.uid}:${entry.gid}`,
        mtimeSec: entry.mtimeSec,
        content: entry.type === 'symlink' ? entry.linkName.toString('latin1') : Buffer.concat(content).toString('latin1'),
      });
    },
  });
  for await (const chunk of contextTar(items, (name) => skipped.push(name.toString())) as AsyncIterable<Buffer>) reader.write(chunk);
  reader.end();
  return members;
}

t.test('parseCopy() says where things go', async (t) => {
  const dir = await makeDir(t);
  writeFileSync(path.join(dir, 'a.deb'), '');
  writeFileSync(path.join(dir, 'colon:/x'.replaceAll('/', '_')), '');
  const copy = async (text: string): Promise<string> => (await parseCopy(text)).to.toString();
  t.equal(await copy(dir), 'copy/');
  t.equal(await copy(`${dir}/`), 'copy/');
  t.equal(await copy(`${dir}:/opt/x/`), 'copy/opt/x');
  t.equal(await copy(`${dir}/a.deb`), 'copy/a.deb');
  t.equal(await copy(`${dir}/a.deb:/tmp/`), 'copy/tmp/a.deb');
  t.equal(await copy(`${dir}/a.deb:/tmp/b.deb`), 'copy/tmp/b.deb');
  t.equal(await copy(`${dir}/colon:_x`), 'copy/colon:_x', 'a name with a colon');
});

t.test('parseCopy() and parseFile() refuse what is not there, and places outside', async (t) => {
  const dir = await makeDir(t);
  for (const text of ['', `${dir}/none`, `${dir}/none:/x`, `${dir}:/a/../b`]) await t.rejects(parseCopy(text), { code: 'E_USAGE' }, text);
  for (const text of ['', `${dir}:a/../b`]) await t.rejects(parseFile(text), { code: 'E_USAGE' }, text);
});

t.test('parseFile() names a file by its base name or as said', async (t) => {
  const dir = await makeDir(t);
  writeFileSync(path.join(dir, 'key'), '');
  t.equal((await parseFile(`${dir}/key`)).to.toString(), 'files/key');
  t.equal((await parseFile(`${dir}/key:secret/k`)).to.toString(), 'files/secret/k');
  t.equal((await parseFile(`${dir}/`)).to.toString(), `files/${path.basename(dir)}`);
});

t.test('contextTar() keeps modes, times and links, and makes root the owner', async (t) => {
  const dir = await makeDir(t);
  mkdirSync(path.join(dir, 'b/inner'), { recursive: true });
  writeFileSync(path.join(dir, 'b/tool'), 'x'.repeat(300_000));
  chmodSync(path.join(dir, 'b/tool'), 0o4755);
  writeFileSync(path.join(dir, 'a'), '');
  symlinkSync('../nowhere', path.join(dir, 'c'));
  for (const name of ['b/tool', 'a', 'b/inner', 'b'])
    utimesSync(path.join(dir, name), 1_000_000, new Date(name === 'a' ? -1500 : 1_000_000_000));
  const members = await readMembers([await parseCopy(dir)]);
  t.match(members, [
    { name: 'copy/a', type: 'file', owner: '0:0', mtimeSec: -2, content: '' },
    { name: 'copy/b/', type: 'directory', owner: '0:0', mtimeSec: 1_000_000 },
    { name: 'copy/b/inner/', type: 'directory' },
    { name: 'copy/b/tool', type: 'file', mode: '4755', mtimeSec: 1_000_000 },
    { name: 'copy/c', type: 'symlink', mode: '777', content: '../nowhere' },
  ]);
  t.equal(members[3]?.content.length, 300_000);
});

t.test('contextTar() keeps names that are no UTF-8', async (t) => {
  const dir = await makeDir(t);
  const name = Buffer.concat([Buffer.from(`${dir}/`), Buffer.of(0xff, 0x0a, 0x80)]);
  writeFileSync(name, 'bytes');
  t.match(await readMembers([await parseCopy(dir)]), [{ name: 'copy/\u00ff\n\u0080', content: 'bytes' }]);
});

t.test('contextTar() leaves sockets out and refuses devices', async (t) => {
  const dir = await makeDir(t);
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(path.join(dir, 's'), resolve));
  const skipped: string[] = [];
  t.same(await readMembers([await parseCopy(dir)], skipped), []);
  t.same(skipped, [path.join(dir, 's')]);
  await new Promise((resolve) => server.close(resolve));
  await t.rejects(readMembers([await parseCopy('/dev/null')]), { code: 'E_USAGE', message: /no regular file/ });
});

t.test('contextTar() fails when a file becomes shorter, or goes away', async (t) => {
  const dir = await makeDir(t);
  writeFileSync(path.join(dir, 'large'), Buffer.alloc(8_000_000));
  const item = await parseCopy(dir);
  const reading = (async () => {
    let length = 0;
    for await (const chunk of contextTar([item], () => {}) as AsyncIterable<Buffer>) {
      length += chunk.length;
      if (length < 600_000) truncateSync(path.join(dir, 'large'), 300_000);
    }
  })();
  await t.rejects(reading, { code: 'E_USAGE', message: /became shorter/ });
  const gone = await parseCopy(path.join(dir, 'large'));
  rmSync(path.join(dir, 'large'));
  await t.rejects(readMembers([gone]), { code: 'E_USAGE', message: /ENOENT/ });
});
