import { closeSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import t from 'tap';
import { extractDockerLayers } from '../../helpers/docker-archive-layers.ts';
import { randomOperations } from '../../helpers/random-ops.ts';
import { baseImagePath, requires } from '../../helpers/requires.ts';
import { diffTrees, listTree, type TreeEntry } from '../../helpers/tree.ts';
import { BASE_ITEMS, makeBaseTree } from '../capture/base-tree.ts';
import { checkImage, DiskHarness, run } from './harness.ts';

requires(t, 'root', 'erofs', 'loop', 'launcher', 'mkfs.erofs', 'fsck.erofs', 'dump.erofs', 'setfattr', 'setfacl');
const harness = await DiskHarness.start(t);

/** What a layer can hold, and a job's base can have, with names of up to 254 bytes: mkfs.erofs 1.5 fails on 255. */
const EVERYTHING = `
mkdir -p plain caps odd times links devices many acl/default marks
echo tool > plain/tool; chmod 4755 plain/tool
: > plain/empty
head -c 1024 /dev/zero | tr '\\0' a > plain/inline; head -c 9000 /dev/zero | tr '\\0' g > plain/tail; head -c 1025 /dev/zero | tr '\\0' b > plain/block
head -c 4096 /dev/zero | tr '\\0' c > plain/4096; head -c 300001 /dev/zero | tr '\\0' d > plain/large
head -c 131072 /dev/zero | tr '\\0' e > plain/128k; head -c 4097 /dev/zero | tr '\\0' f > plain/4097
truncate -s 3M plain/hole; printf end >> plain/hole; truncate -s 5M plain/trailing-hole; printf x | dd of=plain/trailing-hole conv=notrunc bs=1 seek=1M status=none
chown 2000000000:4294967294 plain/block
for n in 1 2 3; do
  echo $n > caps/$n
  setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 caps/$n
  setfattr -n user.same -v same caps/$n; setfattr -n user.own -v own$n caps/$n
done
setfattr -n trusted.mark -v 0x00ff00 caps; setfattr -n user.none caps/1
setfattr -n user.large -v 0x$(printf 'ab%.0s' {1..5000}) caps/3; echo tail > caps/4; setfattr -n user.large -v 0x$(printf 'cd%.0s' {1..3000}) caps/4
setfacl -m u:1000:rw,g:5:r caps/2; setfacl -d -m u:7:rwx acl/default; setfacl -m u:7:rwx acl
ln -s target odd/link; ln -s "$(printf 'x%.0s' {1..4090})" odd/long-link; ln -s /somewhere/else odd/trusted; setfattr -h -n trusted.link -v v odd/trusted
chown -h 8:9 odd/link
echo 1 > "$(printf 'odd/\\377\\376')"; echo 2 > 'odd/a b'; echo 3 > "$(printf 'odd/new\\nline')"; echo 4 > 'odd/!before-the-dots'; echo 5 > odd/...
echo 6 > "odd/$(printf 'y%.0s' {1..254})"
mknod devices/block b 7 42; mknod devices/char c 4095 1048575; mknod devices/null c 1 3; mknod devices/whiteout c 0 0; mkfifo -m 622 devices/fifo
setfattr -n trusted.overlay.opaque -v y marks; mkdir marks/sub
echo linked > links/a; ln links/a links/b; mkdir links/deep; ln links/a links/deep/c; mkfifo links/f; ln links/f links/g; ln odd/link links/symlink
for ((n = 0; n < 3000; n++)); do echo $n > many/a-name-of-some-length-$n; done
d=.; for ((n = 0; n < 100; n++)); do d=$d/n$n; mkdir $d; done; echo deep > $d/file
find . -depth -exec touch -h -d @1600000000.25 {} +
touch -d '1901-01-01 00:00:00.123456789 UTC' times; touch -d '1960-02-03 04:05:06.7 UTC' plain/tool
touch -d '2100-01-01 00:00:00.999999999 UTC' plain/empty; touch -h -d @0 odd/link; touch -d @1600000000.25 .
`;

const list = (directory: string): TreeEntry[] => listTree(directory, { exact: true, ignoreSockets: true });

t.test('makeDisk() keeps everything, as the kernel and mkfs.erofs show', async (t) => {
  const tree = harness.makeTree(EVERYTHING);
  const { image, sizeBytes, inodes, sockets } = await harness.make(tree);
  const expected = list(tree);
  t.ok(expected.some((entry) => entry.mtimeSec < 0) && expected.some((entry) => entry.mtimeSec > 4_000_000_000));
  t.same(diffTrees(expected, harness.listImage(image)), []);
  t.same({ sizeBytes, sockets }, { sizeBytes: readFileSync(image).length, sockets: 0 });
  t.equal(inodes, expected.filter((entry) => entry.linkOf === undefined).length);
  const other = harness.newPath('mkfs');
  run('mkfs.erofs', ['--quiet', other, tree]);
  t.same(diffTrees(harness.listImage(other), harness.listImage(image)), [], 'what mkfs.erofs makes of it');
});

t.test('makeDisk() passes fsck.erofs, which extracts the tree', async (t) => {
  const tree = harness.makeTree(EVERYTHING);
  const { image } = await harness.make(tree);
  const extracted = harness.newPath('extracted');
  t.equal(checkImage(image, `--extract=${extracted}`, '--preserve'), '');
  // This fsck.erofs restores no attributes, links and set-user-id bits, and no time but that of the contents of files.
  const reduce = (entries: TreeEntry[]): TreeEntry[] =>
    entries.map(({ xattrs: _, mtimeNsec: _nsec, linkOf: _link, ...entry }) => ({ ...entry, mode: entry.mode.slice(1), mtimeSec: 0 }));
  t.same(diffTrees(reduce(list(tree)), reduce(list(extracted))), []);
  t.match(run('dump.erofs', ['-s', image]), /sb_csum mtime/);
  const fd = openSync(image, 'r+');
  writeSync(fd, Buffer.from([1]), 0, 1, 2048);
  closeSync(fd);
  t.match(checkImage(image), /chksum doesn't match/, 'a changed byte of the first block');
});

t.test('makeDisk() keeps names of 255 bytes, targets of 4095 bytes and sockets out', async (t) => {
  const tree = harness.makeTree(`
    echo 1 > "$(printf 'n%.0s' {1..255})"; mkdir "$(printf 'd%.0s' {1..255})"; ln -s "$(printf 't%.0s' {1..4095})" link
    for ((n = 100; n < 200; n++)); do echo $n > "$n$(printf '\\303\\244%.0s' {1..126})"; done
    perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un("socket")) or die'`);
  const { image, sockets } = await harness.make(tree);
  t.equal(sockets, 1);
  t.same(diffTrees(list(tree), harness.listImage(image)), []);
});

t.test('makeDisk() keeps random trees', async (t) => {
  for (const seed of [1, 2, 3, 4]) {
    const tree = harness.newPath('random');
    mkdirSync(tree);
    makeBaseTree(tree);
    run('bash', ['-c', `${randomOperations(seed, BASE_ITEMS, 150)}\nexit 0`], tree);
    const { image } = await harness.make(tree);
    t.same(diffTrees(list(tree), harness.listImage(image)), [], `seed ${seed}`);
    t.equal(checkImage(image), '');
  }
});

t.test('makeDisk() keeps the Debian base, and gives the same bytes twice', async (t) => {
  if (!requires(t, 'base-image')) return;
  const tree = harness.newPath('debian');
  mkdirSync(tree);
  const tar = harness.newPath('layers');
  for (const layer of extractDockerLayers(baseImagePath(), tar))
    run('tar', ['-xpf', layer, '--numeric-owner', '--xattrs', '--xattrs-include=*', '-C', tree]);
  const first = await harness.make(tree);
  const second = await harness.make(tree);
  t.equal(run('cmp', [first.image, second.image]), '');
  t.same(diffTrees(list(tree), harness.listImage(first.image)), []);
  t.equal(checkImage(first.image), '');
});
