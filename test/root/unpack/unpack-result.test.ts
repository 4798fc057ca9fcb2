import { statSync } from 'node:fs';
import t from 'tap';
import { close, O_DIRECTORY, O_NOFOLLOW, openAt, readDirectory, statAt } from '../../../src/host/libc.ts';
import { packRawUpper } from '../../helpers/raw-upper.ts';
import { requires } from '../../helpers/requires.ts';
import { archive, END, header, member, pax } from '../../helpers/tar-builder.ts';
import { diffTrees, listTree, type TreeEntry } from '../../helpers/tree.ts';
import { CaptureHarness } from '../capture/harness.ts';
import { ResultHarness, upperPath } from './result-harness.ts';
import { census, sketch } from './staging.ts';

requires(t, 'root', 'userns', 'launcher', 'loop', 'setfattr', 'setfacl', 'bash');
t.setTimeout(120_000);

const results = await ResultHarness.start(t, 'unpack-result');
const captures = await CaptureHarness.start(t);

const root = member({ name: './', type: '5', mode: 0o755 });

/** All a guest's root can leave that the tree's list shows, with the nanoseconds of all times. */
const EVERYTHING = `
cap=0x0000000200040000000000000000000000000000
chmod 1751 .; setfattr -n user.root -v r .
mkdir plain sticky setgid; chmod 1777 sticky; chgrp 50 setgid; chmod 2775 setgid
echo in > setgid/file; mkdir setgid/dir; ln -s x setgid/link; mkfifo setgid/fifo
echo suid > suid; chmod 6755 suid; echo cap > cap; setfattr -n security.capability -v $cap cap
mkdir lists; setfacl -m u:1000:rwx,g:5:r lists; setfacl -d -m u:7:rwx,u:70000:r,m:rx lists
echo a > lists/file; mkdir lists/dir; mkfifo lists/fifo; mknod lists/device c 1 5
echo acl > acl; setfacl -m u:70000:rw,g:80000:r acl; mkfifo -m 620 acl-fifo; setfacl -m u:3:rw acl-fifo
for type in file dir link fifo; do case $type in file) echo x > f-$type ;; dir) mkdir f-$type; echo y > f-$type/in ;; link) ln -s t f-$type ;; fifo) mkfifo f-$type ;; esac; chown -h 65536:4294967294 f-$type; done
echo both > foreign; setfacl -m u:9:r foreign; chown 100000:7 foreign; chmod 6711 foreign; setfattr -n user.a -v b foreign
echo cap > foreign-cap; chown 7:100000 foreign-cap; setfattr -n security.capability -v $cap foreign-cap
mknod null c 1 3; chmod 6666 null; chown 70000:6 null; mknod disk b 259 1048575; ln null plain/null-again; ln plain/null-again sticky/null-third
mkdir devs; mknod devs/z c 1 5; mknod zero-block b 0 0; setfacl -m u:4:rw devs/z
echo one > one; ln one plain/two; ln plain/two "$(printf 'plain/\\377')"; ln -s nowhere sym; ln -P sym sym2; ln acl-fifo plain/fifo2
setfattr -n user.binary -v 0x000a3d00ff one; setfattr -n 'user.a=b' -v c one; setfattr -n user.d -v d plain
mkdir -p "$(printf 'x%.0s' {1..200})/$(printf 'y%.0s' {1..200})"
echo deep > "$(printf 'x%.0s' {1..200})/$(printf 'y%.0s' {1..200})/$(printf 'z%.0s' {1..200})"
touch .wh.odd; mkdir 'new
line'
find . -depth -exec touch -h -d @-1234567890.123456789 {} +
touch -h -d @1700000000.987654321 sym; touch -d @-0.5 cap; touch -d @12345678901 one; touch -d @0 plain; touch -d @1 .
`;

function withNanoseconds(directory: string): (TreeEntry & { nsec: number })[] {
  const nsecs: number[] = [];
  const walk = (fd: number): void => {
    const names = readDirectory(fd).map(({ name }) => name);
    for (const name of names.sort(Buffer.compare)) {
      const stat = statAt(fd, name);
      nsecs.push(stat.mtimeNsec);
      if ((stat.mode & 0o170000) !== 0o040000) continue;
      const child = openAt(fd, name, O_DIRECTORY | O_NOFOLLOW);
      walk(child);
      close(child);
    }
  };
  const fd = openAt(-100, directory, O_DIRECTORY);
  nsecs.push(statAt(fd, '').mtimeNsec);
  walk(fd);
  close(fd);
  return listTree(`${directory}/.`).map((entry, index) => ({ ...entry, nsec: nsecs[index] ?? -1 }));
}

t.test('unpackResult() makes the very tree that a guest sends', async (t) => {
  const source = captures.makeDirectory(EVERYTHING);
  const upper = await results.newUpper();
  const { warnings } = await results.unpack(upper, packRawUpper(source));
  const sent = withNanoseconds(source);
  t.ok(sent.length > 40, `${sent.length} files`);
  t.same(diffTrees(sent, withNanoseconds(upperPath(upper))), []);
  t.same(warnings, []);
  await results.close(upper);
});

t.test('unpackResult() takes whiteouts and opaque directories as overlayfs has them', async (t) => {
  const source = captures.makeDirectory(`
    mknod gone c 0 0; ln gone gone-too; mkdir -p d/e; mknod d/e/gone c 0 0
    setfattr -n trusted.overlay.opaque -v y d/e; setfattr -n trusted.overlay.origin -v o d; setfattr -n trusted.overlay.impure -v y d
    setfattr -n user.overlay.opaque -v y d; setfattr -n trusted.mine -v m d; touch -d @5 d d/e`);
  const upper = await results.newUpper();
  const { warnings } = await results.unpack(upper, packRawUpper(source));
  t.same(sketch(upperPath(upper)), ['d/', 'd/e/ opaque', 'd/e/gone!', 'gone!', 'gone-too==gone']);
  t.same(
    ['d', 'd/e'].map((name) => statSync(`${upperPath(upper)}/${name}`).mtimeMs),
    [5000, 5000],
  );
  t.same(warnings, ['dropped 2 extended attributes: trusted.mine, user.overlay.opaque']);
  await results.close(upper);
});

t.test('unpackResult() leaves out what a capture would leave out: capabilities for another namespace', async (t) => {
  const upper = await results.newUpper();
  const foreign = Buffer.from('010000030004000000000000000000000000000070110100', 'hex');
  const { warnings } = await results.unpack(upper, [
    root,
    archive(pax([['SCHILY.xattr.security.capability', foreign]]), member({ name: 'f' }, 'x')),
  ]);
  t.same(warnings, ['dropped 1 extended attributes: security.capability']);
  await results.close(upper);
});

t.test('unpackResult() keeps the times of directories whatever the order of what is in them', async (t) => {
  const names = Array.from({ length: 400 }, (_unused, n) => `d${n}`);
  const directory = (name: string, n: number): Buffer =>
    Buffer.concat([pax([['mtime', `${1_000_000 + n}.5`]]), member({ name: `./${name}/`, type: '5', mode: 0o755 })]);
  const members = [
    ...names.map(directory),
    ...[1, 2].flatMap((round) => names.map((name) => member({ name: `./${name}/f${round}` }, 'x'))),
    ...names.map((name) => member({ name: `./${name}/device`, type: '3', devMajor: 1, devMinor: 3 })),
  ];
  const upper = await results.newUpper();
  await results.unpack(upper, [root, archive(...members)]);
  t.same(
    names.filter((name, n) => statSync(`${upperPath(upper)}/${name}`).mtimeMs !== (1_000_000 + n) * 1000 + 500),
    [],
  );
  await results.close(upper);
});

t.test('unpackResult() gives a file of 1 GiB that is mostly a hole no more room than it needs', async (t) => {
  const source = captures.makeDirectory(
    'truncate -s 1G hole; printf end | dd of=hole bs=1 seek=700000001 conv=notrunc status=none; head -c 10000 /dev/zero > zeros',
  );
  const upper = await results.newUpper({ diskBytes: 32 * 1024 * 1024 });
  await results.unpack(upper, packRawUpper(source));
  const { size, blocks } = statSync(`${upperPath(upper)}/hole`);
  t.same([size, blocks], [1024 ** 3, 8]);
  t.same([statSync(`${upperPath(upper)}/zeros`).size, statSync(`${upperPath(upper)}/zeros`).blocks], [10_000, 0]);
  t.same(diffTrees(listTree(source), listTree(`${upperPath(upper)}/.`)), []);
  await results.close(upper);
});

t.test('unpackResult() takes trees as deep as a capture does', async (t) => {
  const nested = (depth: number, name: string): string =>
    `perl -e 'for (1..${depth}) { mkdir("${name}") && chdir("${name}") or die } open(F, ">", "leaf")'`;
  for (const script of [nested(320, 'n'.repeat(200)), nested(700, 'd')]) {
    const source = captures.makeDirectory(`${script}; touch beside`);
    const upper = await results.newUpper();
    await results.unpack(upper, packRawUpper(source));
    await upper.freeze();
    const [sent, received] = [await captures.capture(source, null), await captures.capture(upperPath(upper), null)];
    t.equal(received.diffId, sent.diffId, `${received.entries} entries`);
    await results.close(upper);
  }
});

t.test('unpackResult() refuses a file that is longer than the limit before its bytes come', async (t) => {
  const upper = await results.newUpper();
  const huge = header({ name: 'f', size: 2 * 1024 * 1024 });
  await t.rejects(results.unpack(upper, [root, huge, Buffer.alloc(4096)], { limits: { maxBytes: 1024 * 1024 } }), {
    code: 'E_LIMIT_RESULT',
    message: /"f"/,
  });
  await results.close(upper);
});

t.test('unpackResult() reports its progress in bytes', async (t) => {
  const upper = await results.newUpper();
  const seen: number[] = [];
  const { bytes, entries } = await results.unpack(upper, [root, archive(member({ name: 'f' }, 'x'))], {
    progress: ({ stage, done, total, unit }) => {
      t.same([stage, total, unit], ['result', null, 'bytes']);
      seen.push(done);
    },
  });
  t.same([bytes, entries], [512 + 1024 + END.length, 2]);
  t.ok(seen.length > 0);
  await results.close(upper);
});

t.test('a capture shows an owner above 65535 by refusing it', async (t) => {
  const source = captures.makeDirectory('mkdir d; touch d/f; chown 100000 d/f');
  const upper = await results.newUpper();
  await results.unpack(upper, packRawUpper(source));
  await t.rejects(captures.capture(upperPath(upper), null), { code: 'E_CAPTURE', message: /"d\/f".*100000:0/ });
  await results.close(upper);
});

t.test('no process is left', async (t) => {
  t.same((await census()).children.length, 1, 'the capture worker of this file');
});
