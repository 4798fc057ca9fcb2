import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { linkSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import t from 'tap';
import { tarsumOf } from '../../../src/core/tarsum.ts';
import { type PackOptions, packEntries, packTree } from '../../../src/recipe/tree/pack.ts';
import { measured } from '../../../src/recipe/tree/pack-stream.ts';
import { type FileNode, Tree, type TreeNode } from '../../../src/recipe/tree/tree.ts';
import { readTar } from '../../helpers/engine.ts';
import { requires } from '../../helpers/requires.ts';

const signal = new AbortController().signal;
const EPOCH = 315_532_800;
const dir = mkdtempSync(path.join(tmpdir(), 'pack-'));
t.teardown(() => rmSync(dir, { recursive: true, force: true }));

const attributes = { mode: 0o644, uid: 0, gid: 0, mtimeSec: 0 };

function fileOf(text: string | Buffer): FileNode {
  const bytes = Buffer.from(text);
  return { ...attributes, type: 'file', size: bytes.length, source: { kind: 'bytes', bytes } };
}

function packed(tree: Tree, options: PackOptions): Promise<Buffer> {
  return buffer(packTree(tree, options, signal));
}

/** A directory with every kind of name and file that needs no device; gives its tree, read here independently of the code under test. */
function sample(root: string): Tree {
  mkdirSync(path.join(root, 'dir/empty'), { recursive: true });
  mkdirSync(path.join(root, 'dir.d'));
  mkdirSync(path.join(root, 'l'.repeat(90), 'm'.repeat(60)), { recursive: true });
  writeFileSync(path.join(root, 'dir/file'), 'text\n', { mode: 0o755 });
  writeFileSync(path.join(root, 'dir.d/block'), Buffer.alloc(512, 1));
  writeFileSync(path.join(root, 'large'), Buffer.alloc(3_000_000, 'abc'), { mode: 0o600 });
  writeFileSync(path.join(root, 'with space'), '');
  writeFileSync(path.join(root, 'ü'), 'utf-8');
  writeFileSync(path.join(root, 'n'.repeat(100)), 'hundred');
  writeFileSync(path.join(root, 'n'.repeat(101)), 'one more');
  writeFileSync(path.join(root, 'l'.repeat(90), 'm'.repeat(60), 'f'), 'deep');
  writeFileSync(Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0x20, 0xfe])]), 'bytes');
  linkSync(path.join(root, 'dir/file'), path.join(root, 'linked'));
  symlinkSync('dir/file', path.join(root, 'short'));
  symlinkSync('t'.repeat(150), path.join(root, 'long'));
  spawnSync('mkfifo', [path.join(root, 'pipe')]);
  const tree = new Tree({ ...attributes, type: 'directory', mode: lstatSync(root).mode & 0o7777 });
  readInto(tree, Buffer.from(root), Buffer.alloc(0));
  return tree;
}

function readInto(tree: Tree, root: Buffer, at: Buffer): void {
  for (const name of readdirSync(Buffer.concat([root, Buffer.from('/'), at]), { encoding: 'buffer' })) {
    const inside = at.length === 0 ? name : Buffer.concat([at, Buffer.from('/'), name]);
    const full = Buffer.concat([root, Buffer.from('/'), inside]);
    const stats = lstatSync(full);
    const common = { mode: stats.isSymbolicLink() ? 0o777 : stats.mode & 0o7777, uid: stats.uid, gid: stats.gid, mtimeSec: 0 };
    if (stats.isDirectory()) {
      tree.insert(inside, { ...common, type: 'directory' });
      readInto(tree, root, inside);
    } else if (stats.isSymbolicLink())
      tree.insert(inside, { ...common, type: 'symlink', target: readlinkSync(full, { encoding: 'buffer' }) });
    else if (stats.isFile()) tree.insert(inside, { ...common, type: 'file', size: stats.size, source: { kind: 'path', path: full } });
    else tree.insert(inside, { ...common, type: 'fifo' });
  }
}

const root = path.join(dir, 'sample');
const tree = sample(root);

function gnuTar(...args: string[]): Buffer {
  const ran = spawnSync('tar', ['-C', root, '--hard-dereference', '--sort=name', `--mtime=@${EPOCH}`, ...args, '-cf', '-', '.'], {
    maxBuffer: 2 ** 28,
    env: { PATH: process.env['PATH'], LC_ALL: 'C' },
  });
  if (ran.status !== 0) throw new Error(ran.stderr.toString());
  return ran.stdout;
}

t.test('packTree() in format gnu gives the bytes of GNU tar with owners as told', async (t) => {
  if (!requires(t, 'tar')) return;
  const own = await packed(tree, { format: 'gnu', mtimeSec: EPOCH, owner: { uid: 0, gid: 0 } });
  t.ok(own.equals(gnuTar('--owner=0', '--group=0')));
  const other = await packed(tree, { format: 'gnu', mtimeSec: EPOCH, owner: { uid: 54_321, gid: 3_000_000 } });
  t.ok(other.equals(gnuTar('--owner=54321', '--group=3000000')));
});

t.test('packTree() in format gnu gives the bytes of GNU tar --numeric-owner, owners as they are', async (t) => {
  if (!requires(t, 'tar')) return;
  t.ok((await packed(tree, { format: 'gnu', mtimeSec: EPOCH, numericOwner: true })).equals(gnuTar('--numeric-owner')));
});

t.test('packTree() in format gnu writes times before 1970 and sizes beyond 8 GiB as GNU tar does', async (t) => {
  if (!requires(t, 'tar')) return;
  const old = path.join(dir, 'old');
  mkdirSync(old);
  const tar = spawnSync('tar', ['-C', old, '--mtime=@-1', '--owner=0', '--group=0', '-cf', '-', '.'], { env: { LC_ALL: 'C' } });
  const oldTree = new Tree({ ...attributes, type: 'directory', mode: 0o755 });
  t.ok((await packed(oldTree, { format: 'gnu', mtimeSec: -1 })).equals(tar.stdout));
  const [entry] = [...oldTree.entries()];
  const huge: TreeNode = { ...attributes, type: 'file', size: 2 ** 33, source: { kind: 'bytes', bytes: Buffer.alloc(0) } };
  const chunks = packEntries([{ path: Buffer.from('huge'), node: huge }], { format: 'gnu' }, signal);
  await t.rejects(chunks.next(), { code: 'E_CONFLICT' }, 'a source that is shorter is refused');
  t.ok(entry);
});

t.test('packEntries() in format python gives the bytes of tarfile', async (t) => {
  if (!requires(t, 'python3')) return;
  const script = `
import tarfile, pathlib, sys
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as tar:
    root = pathlib.Path(sys.argv[1])
    for name in sorted(root.rglob("*")):
        ti = tar.gettarinfo(name)
        ti.name = "/nix/store/" + str(name.relative_to(root))
        if ti.islnk():
            ti.type = tarfile.REGTYPE
            ti.linkname = ""
            ti.size = name.stat().st_size
        ti.mtime = ${EPOCH}
        ti.uid, ti.gid, ti.uname, ti.gname = 3000000, 7, "jürgen", "g" * 40
        if ti.isfile():
            with open(name, "rb") as f:
                tar.addfile(ti, f)
        else:
            tar.addfile(ti)
`;
  const ran = spawnSync('python3', ['-c', script, root], { maxBuffer: 2 ** 28, env: { PATH: process.env['PATH'], PYTHONUTF8: '1' } });
  t.equal(ran.stderr.toString(), '');
  const owner = { uid: 3_000_000, gid: 7, uname: 'jürgen', gname: 'g'.repeat(40) };
  const entries = [...tree.entries()].slice(1);
  const own = await buffer(packEntries(entries, { format: 'python', prefix: '/nix/store/', mtimeSec: EPOCH, owner }, signal));
  t.ok(own.equals(ran.stdout));
});

t.test('packTree() in format plain keeps hard links, attributes and times', async (t) => {
  const linked = new Tree();
  const node: FileNode = { ...fileOf('same'), mtimeSec: 5, xattrs: [{ name: Buffer.from('user.a'), value: Buffer.from([0, 255]) }] };
  linked.insert(Buffer.from('a'), node);
  linked.insert(Buffer.from('b'), node);
  const members = readTar(await packed(linked, { format: 'plain' }));
  t.same(
    members.map(({ header, body }) => [header.name.toString(), header.type, header.linkName.toString(), body.toString(), header.mtimeSec]),
    [
      ['./', 'directory', '', '', 0],
      ['a', 'file', '', 'same', 5],
      ['b', 'hardlink', 'a', '', 5],
    ],
  );
  t.same(members[1]?.header.xattrs, node.xattrs);
});

t.test('packTree() brings times back to the latest one that is allowed', async (t) => {
  const timed = new Tree();
  timed.insert(Buffer.from('early'), { ...fileOf(''), mtimeSec: 5 });
  timed.insert(Buffer.from('late'), { ...fileOf(''), mtimeSec: 500 });
  const members = readTar(await packed(timed, { format: 'plain', maxMtimeSec: 100 }));
  t.same(
    members.map(({ header }) => header.mtimeSec),
    [0, 5, 100],
  );
});

t.test('packTree() refuses a file that changed since it was looked at', async (t) => {
  const file = path.join(dir, 'changing');
  writeFileSync(file, 'before');
  const changing = new Tree();
  changing.insert(Buffer.from('f'), { ...fileOf('before'), source: { kind: 'path', path: Buffer.from(file) } });
  writeFileSync(file, 'longer than before');
  await t.rejects(packed(changing, { format: 'gnu' }), { code: 'E_CONFLICT', message: /it changed meanwhile, want a file of 6 bytes/ });
  rmSync(file);
  await t.rejects(packed(changing, { format: 'gnu' }), { code: 'E_USAGE', message: /ENOENT/ });
});

t.test('measured() gives digest, tarsum, size and count of what it opens', async (t) => {
  const bytes = await packed(tree, { format: 'gnu', mtimeSec: EPOCH });
  const layer = await measured(() => packTree(tree, { format: 'gnu', mtimeSec: EPOCH }, signal), signal);
  t.match(layer, {
    diffId: `sha256:${createHash('sha256').update(bytes).digest('hex')}`,
    tarsum: await tarsumOf([bytes]),
    sizeBytes: bytes.length,
    entries: [...tree.entries()].length,
  });
  t.ok((await buffer(layer.open(signal))).equals(bytes), 'a second reading gives the same bytes');
});
