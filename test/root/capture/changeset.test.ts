import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, statSync } from 'node:fs';
import t from 'tap';
import { tarsumOf } from '../../../src/core/tarsum.ts';
import { runInOverlay } from '../../helpers/overlay.ts';
import { requires } from '../../helpers/requires.ts';
import { CaptureHarness, memberNames, readMembers } from './harness.ts';

requires(t, 'root', 'overlay', 'launcher', 'unshare', 'setfattr');

const harness = await CaptureHarness.start(t);
/** Times lie in the past, so that every write of a script shows. */
const lower = harness.makeDirectory(`
  mkdir -p etc/sub usr/share empty; echo root > etc/passwd; echo hosts > etc/hosts; echo deep > etc/sub/deep
  ln -s etc link; mkfifo fifo; echo linked > one; ln one two; setfattr -n user.a -v 1 etc/passwd
  find . -depth -exec touch -h -d @1600000000.5 {} +
`);

/** What a script gives: the members of the layer, in order. */
const CASES: readonly { name: string; script: string; members: string[] }[] = [
  { name: 'a new file, with the directories above it', script: 'echo x > etc/sub/new', members: ['./', 'etc/', 'etc/sub/', 'etc/sub/new'] },
  { name: 'only the changed mode of a directory', script: 'chmod 700 usr/share', members: ['./', 'usr/', 'usr/share/'] },
  { name: 'only the changed owner of a symlink', script: 'chown -h 1:1 link', members: ['./', 'link -> etc'] },
  { name: 'only the changed attribute of a file', script: 'setfattr -n user.a -v 2 etc/passwd', members: ['./', 'etc/', 'etc/passwd'] },
  { name: 'only the changed root directory', script: 'chmod 711 .', members: ['./'] },
  { name: 'a whiteout for a deleted file', script: 'rm etc/hosts', members: ['./', 'etc/', 'etc/.wh.hosts'] },
  { name: 'one whiteout for a deleted directory', script: 'rm -r etc', members: ['./', '.wh.etc'] },
  {
    name: 'whiteouts before other entries of a directory',
    script: 'rm -r usr fifo; echo a > 1',
    members: ['./', '.wh.fifo', '.wh.usr', '1'],
  },
  {
    name: 'an opaque marker behind its directory and before its entries',
    script: 'rm -r etc; mkdir etc; echo a > etc/a',
    members: ['./', 'etc/', 'etc/.wh..wh..opq', 'etc/a'],
  },
  { name: 'no opaque marker for a new directory that was renamed', script: 'mkdir a; mv a b', members: ['./', 'b/'] },
  { name: 'no opaque marker for a directory in place of a file', script: 'rm one; mkdir one; : > one/x', members: ['./', 'one/', 'one/x'] },
  {
    name: 'no opaque marker below an opaque directory',
    script: 'rm -r etc; mkdir -p etc/sub',
    members: ['./', 'etc/', 'etc/.wh..wh..opq', 'etc/sub/'],
  },
  { name: 'no whiteout where a new file stands', script: 'rm one; mkfifo one', members: ['./', 'one'] },
  { name: 'no whiteout for what never was in the base', script: ': > etc/x; rm etc/x', members: ['./', 'etc/'] },
  { name: 'nothing for an untouched root', script: 'cat etc/passwd; ls -R', members: [] },
  {
    name: 'nothing for a file that was copied up and put back',
    script: `echo more >> etc/passwd; echo root > etc/passwd; touch -d @1600000000.5 etc/passwd`,
    members: [],
  },
  {
    name: 'nothing for special files that were copied up and put back',
    script: 'chown -h 1:1 link fifo; chown -h 0:0 link fifo',
    members: [],
  },
  { name: 'nothing for a directory that was copied up and put back', script: 'chmod 700 empty; chmod 755 empty', members: [] },
  {
    name: 'a file with other contents of the same size and time',
    script: `echo ROOT > etc/passwd; touch -d @1600000000.5 etc/passwd`,
    members: ['./', 'etc/', 'etc/passwd'],
  },
  { name: 'both names of a new inode, the second as a link', script: 'echo x > b; ln b etc/a', members: ['./', 'b', 'etc/', 'etc/a -> b'] },
  { name: 'an equal name of a parted hard link', script: 'chmod 600 one; chmod 644 one', members: ['./', 'one'] },
  { name: 'a link to a base file, with the body', script: 'ln etc/hosts z', members: ['./', 'etc/', 'etc/hosts', 'z -> etc/hosts'] },
  { name: 'a whiteout for a file that became a socket', script: socketAt('one'), members: ['./', '.wh.one'] },
];

function socketAt(path: string): string {
  return `rm -f ${path}; perl -MSocket -e 'socket(my $s, AF_UNIX, SOCK_STREAM, 0); bind($s, sockaddr_un($ARGV[0])) or die' ${path}`;
}

t.test('captureLayer() gives the least that makes the merged tree', async (t) => {
  for (const { name, script, members } of CASES) {
    const directory = harness.newPath('case');
    mkdirSync(directory);
    const { upper } = runInOverlay(directory, lower, script);
    const layer = await harness.capture(upper, lower);
    // The root's time changes with a name in it, and then the root is in the layer; without one it is there as the directory above.
    t.strictSame(memberNames(layer.tar), members, name);
    t.equal(layer.entries, members.length, `${name}: entries`);
  }
});

t.test('captureLayer() of an untouched root is 1024 zero bytes, with and without a base', async (t) => {
  const empty = harness.makeDirectory();
  const touchless = harness.makeDirectory('touch -d @1600000000.5 .');
  for (const layer of [await harness.capture(empty, null), await harness.capture(touchless, lower)]) {
    t.strictSame(readFileSync(layer.tar), Buffer.alloc(1024));
    t.equal(layer.diffId, 'sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef');
    t.equal(layer.tarsum, 'tarsum.v1+sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855');
    t.strictSame([layer.entries, layer.warnings], [0, []]);
  }
});

t.test('captureLayer() without a base gives all entries and the root', async (t) => {
  const upper = harness.makeDirectory('mkdir a; echo 1 > a/b; mknod w c 0 0; mkdir o; setfattr -n trusted.overlay.opaque -v y o');
  t.strictSame(memberNames((await harness.capture(upper, null)).tar), ['./', 'a/', 'a/b', 'o/']);
  t.strictSame(memberNames((await harness.capture(harness.makeDirectory('chmod 700 .'), null)).tar), ['./'], 'a root that is not plain');
});

t.test('captureLayer() takes the whiteouts of a base that is a single layer for nothing', async (t) => {
  const single = harness.makeDirectory('mknod gone c 0 0; mkdir d; mknod d/gone c 0 0; touch -d @1600000000 d .');
  const upper = harness.makeDirectory('mknod gone c 0 0; mkdir d; mknod d/gone c 0 0; : > d/new; touch -d @1600000000 d .');
  t.strictSame(memberNames((await harness.capture(upper, single)).tar), ['./', 'd/', 'd/new']);
});

t.test('captureLayer() writes markers as empty files of root with mode 0644 and a fixed time', async (t) => {
  const directory = harness.newPath('case');
  mkdirSync(directory);
  const { upper } = runInOverlay(directory, lower, 'rm one; rm -r etc; mkdir etc');
  for (const [sourceDateEpoch, mtimeSec] of [
    [null, 0],
    [1234, 1234],
  ] as const) {
    const markers = readMembers((await harness.capture(upper, lower, { sourceDateEpoch })).tar).filter(({ name }) => name.includes('.wh.'));
    const seen = markers.map((m) => [m.name.toString(), m.type, m.mode, m.uid, m.gid, m.size, m.mtimeSec]);
    t.strictSame(seen, [
      ['.wh.one', 'file', 0o644, 0, 0, 0, mtimeSec],
      ['etc/.wh..wh..opq', 'file', 0o644, 0, 0, 0, mtimeSec],
    ]);
  }
});

t.test('captureLayer() clamps later times to sourceDateEpoch, and still leaves out what equals the base', async (t) => {
  const directory = harness.newPath('case');
  mkdirSync(directory);
  const script =
    'touch -d @1000.9 old; touch -d @2000000000 young; chmod 700 empty; chmod 755 empty; chown 1:1 etc/hosts; chown 0:0 etc/hosts';
  const { upper } = runInOverlay(directory, lower, script);
  const layer = await harness.capture(upper, lower, { sourceDateEpoch: 1_500_000_000 });
  t.strictSame(
    readMembers(layer.tar).map(({ name, mtimeSec }) => [name.toString(), mtimeSec]),
    [
      ['./', 1_500_000_000],
      ['old', 1000],
      ['young', 1_500_000_000],
    ],
  );
});

t.test('captureLayer() gives the same bytes for the same tree, wherever and in whatever order it was made', async (t) => {
  const finish = 'setfattr -n user.b -v 2 x; setfattr -n user.a -v 1 x; touch -d @1000 a b x d/l d .';
  const first = harness.makeDirectory(`echo 1 > a; echo 2 > b; echo 3 > x; mkdir d; ln a d/l; ${finish}`);
  const second = harness.makeDirectory(
    `mkdir d; echo 1 > d/l; setfattr -n user.a -v 0 d/l; setfattr -x user.a d/l; echo 3 > x; echo 2 > b; ln d/l a; ${finish}`,
  );
  const [one, two] = [await harness.capture(first, null), await harness.capture(second, null)];
  t.strictSame(readFileSync(one.tar), readFileSync(two.tar));
  t.equal(one.diffId, two.diffId);
  t.equal(one.tarsum, two.tarsum);
});

t.test('captureLayer() gives the digest, size and tarsum of the file it wrote', async (t) => {
  const upper = harness.makeDirectory(`
    mkdir d; head -c 5000000 /dev/zero | tr '\\0' x > d/large; echo small > d/small; : > d/nothing
    for n in {1..300}; do echo $n > d/$n; done
    head -c 1047552 /dev/zero > slot; head -c 1048576 /dev/zero > full; truncate -s 3M sparse
  `);
  const layer = await harness.capture(upper, null);
  const bytes = readFileSync(layer.tar);
  t.equal(layer.sizeBytes, statSync(layer.tar).size);
  t.equal(layer.diffId, `sha256:${execFileSync('sha256sum', [layer.tar]).toString().slice(0, 64)}`);
  t.equal(layer.tarsum, await tarsumOf([bytes]));
  const large = readMembers(layer.tar).find(({ name }) => name.toString() === 'd/large');
  t.ok(large?.body.equals(Buffer.alloc(5_000_000, 'x')));
});

t.test('captureLayer() with compat seed has the tarsum of the tar that nixpkgs makes', async (t) => {
  const upper = harness.makeDirectory(`
    mkdir -p a/b; echo 1 > a/f; ln a/f a/g; ln -s f a/s; setfattr -n user.x -v 1 a/f; mkfifo p; chmod 4755 a/f; chown 5:6 a/b
  `);
  const layer = await harness.capture(upper, null, { compat: 'seed' });
  const tar = execFileSync('tar', ['-C', upper, '--hard-dereference', '--sort=name', '--mtime=@315532800', '-cf', '-', '.']);
  t.equal(layer.tarsum, await tarsumOf([tar]));
  t.strictSame(memberNames(layer.tar), ['./', './a/', './a/b/', './a/f', './a/g', './a/s -> f', './p']);
  t.ok(readMembers(layer.tar).every(({ mtimeSec, xattrs }) => mtimeSec === 315_532_800 && xattrs.length === 0));
  const empty = harness.makeDirectory();
  t.strictSame(memberNames((await harness.capture(empty, null, { compat: 'seed' })).tar), ['./'], 'an empty layer still has its root');
});

t.test('packTree() gives the root and everything in it, devices too', async (t) => {
  const root = harness.makeDirectory('mkdir dev; mknod dev/null c 1 3; mknod dev/disk b 8 1; echo x > f; mknod gone c 0 0');
  const tree = await harness.pack(root);
  t.strictSame(
    readMembers(tree.tar).map(({ name, type, devMajor, devMinor }) => [name.toString(), type, devMajor, devMinor]),
    [
      ['./', 'directory', 0, 0],
      ['dev/', 'directory', 0, 0],
      ['dev/disk', 'block', 8, 1],
      ['dev/null', 'char', 1, 3],
      ['f', 'file', 0, 0],
    ],
  );
  t.strictSame(memberNames((await harness.pack(harness.makeDirectory())).tar), ['./']);
});
