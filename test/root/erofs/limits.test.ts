import { closeSync, openSync, readSync, statSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { type DiskLimits, makeDisk } from '../../../src/erofs/make-disk.ts';
import { close, O_DIRECTORY, O_RDONLY, openAt, readDirectory, setXattrFd, statAt } from '../../../src/host/libc.ts';
import { requires } from '../../helpers/requires.ts';
import { diffTrees, listTree } from '../../helpers/tree.ts';
import { checkImage, DiskHarness, mountImage, withMounted } from './harness.ts';

requires(t, 'root', 'erofs', 'loop', 'launcher', 'fsck.erofs', 'setfattr');
const harness = await DiskHarness.start(t);

t.test('makeDisk() keeps files of more than 4 GiB, and their holes', async (t) => {
  const size = 5 * 2 ** 30 + 3;
  const tree = harness.makeTree(`
    truncate -s ${size} big; printf first | dd of=big conv=notrunc status=none; printf end | dd of=big bs=1 seek=$((${size} - 3)) conv=notrunc status=none
    printf middle | dd of=big bs=1M seek=4097 conv=notrunc status=none; touch -d @1 .; touch -d @1 big`);
  const { image, sizeBytes } = await harness.make(tree);
  t.ok(sizeBytes > size);
  t.ok(statSync(image).blocks * 512 < 32 * 2 ** 20, 'the image has holes too');
  withMounted(image, (root) => {
    const fd = openSync(`${root}/big`, 'r');
    const textAt = (at: number, length: number): string => {
      const bytes = Buffer.alloc(length);
      return bytes.toString('latin1', 0, readSync(fd, bytes, 0, length, at));
    };
    t.equal(statSync(`${root}/big`).size, size);
    t.equal(textAt(0, 6), 'first\0');
    t.equal(textAt(4097 * 2 ** 20 - 1, 8), '\0middle\0');
    t.equal(textAt(size - 4, 10), '\0end');
    closeSync(fd);
  });
});

t.test('makeDisk() keeps directories of 40,000 names', async (t) => {
  const tree = harness.makeTree(`mkdir many; cd many; seq -f 'file-with-a-rather-long-name-%.0f' 1 40000 | xargs touch -d @5`);
  const { image } = await harness.make(tree);
  t.equal(checkImage(image), '');
  const mountFd = mountImage(image);
  const many = openAt(mountFd, 'many', O_RDONLY | O_DIRECTORY);
  try {
    const names = readDirectory(many).map(({ name }) => name);
    t.equal(new Set(names.map(String)).size, 40_000);
    t.ok(
      names.every((name) => statAt(many, name).mtimeSec === 5),
      'each is found by its name',
    );
    t.throws(() => statAt(many, 'file-with-a-rather-long-name-0'), { message: /ENOENT/ });
  } finally {
    close(many);
    close(mountFd);
  }
});

t.test('makeDisk() keeps trees of 2,000 levels', async (t) => {
  const tree = harness.makeTree(`perl -e 'for (1 .. 2000) { mkdir "deep" or die; chdir "deep" or die }'`);
  const { image, inodes } = await harness.make(tree);
  t.equal(inodes, 2001);
  const mountFd = mountImage(image);
  try {
    t.equal(depthOf(mountFd), 2000);
  } finally {
    close(mountFd);
  }
});

function depthOf(rootFd: number): number {
  let [fd, depth] = [openAt(rootFd, '.', O_RDONLY | O_DIRECTORY), 0];
  for (;;) {
    const isDeeper = readDirectory(fd).some(({ name }) => name.equals(Buffer.from('deep')));
    const below = isDeeper ? openAt(fd, 'deep', O_RDONLY | O_DIRECTORY) : null;
    close(fd);
    if (below === null) return depth;
    [fd, depth] = [below, depth + 1];
  }
}

t.test('makeDisk() keeps attributes that take many blocks, inline and shared', async (t) => {
  const tree = harness.makeTree(`
    for n in 1 2 3; do echo $n > f$n; for ((k = 0; k < 300; k++)); do echo "user.k$k=\\"$k\\""; done | sed "1i # file: f$n" | setfattr --restore=-; done
    : > big; ln -s "$(printf 't%.0s' {1..4000})" link`);
  setAttribute(path.join(tree, 'big'), 'user.big', 60_000);
  setAttribute(path.join(tree, 'big'), 'user.more', 65_535);
  const { image } = await harness.make(tree);
  t.same(diffTrees(listTree(tree, { exact: true }), harness.listImage(image)), []);
  t.equal(checkImage(image), '');
});

t.test('makeDisk() refuses what is too much, and works on', async (t) => {
  const tree = harness.makeTree('echo 1 > a; ln a b; mkdir c; head -c 500000 /dev/zero | tr "\\0" x > d');
  const refused = async (limits: DiskLimits, code: string): Promise<void> => {
    await t.rejects(harness.make(tree, limits), { code });
  };
  await refused({ maxInodes: 3 }, 'E_LIMIT_ENTRIES');
  await refused({ maxBytes: 400_000 }, 'E_LIMIT_UNPACKED');
  t.equal((await harness.make(tree, { maxInodes: 4 })).inodes, 4, 'names of one inode count once');
  setAttribute(path.join(tree, 'c'), 'user.large', 65_536);
  await t.rejects(harness.make(tree), { code: 'E_LIMIT_XATTR', message: /"c".*65536 bytes, want at most 65535/ });
});

/** Setfattr(1) takes values of an argument's length only. */
function setAttribute(file: string, name: string, length: number): void {
  const fd = openSync(file, 'r');
  setXattrFd(fd, name, Buffer.alloc(length, name));
  closeSync(fd);
}

t.test('makeDisk() tells of a file that cannot be written', async (t) => {
  const tree = harness.makeTree('head -c 5000000 /dev/zero | tr "\\0" x > file');
  const output = openSync('/dev/full', 'w');
  const root = openSync(tree, 'r');
  await t.rejects(makeDisk(harness.worker, { root, output }, {}, null, new AbortController().signal), { code: 'E_SYSCALL' });
  closeSync(output);
  closeSync(root);
});
