import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, chownSync, lchownSync, linkSync, lutimesSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import type { Xattr } from '../../../src/core/tar/entry.ts';
import {
  AT_FDCWD,
  close,
  getXattrFd,
  mknodAt,
  O_NOFOLLOW,
  O_RDONLY,
  openAt,
  S_IFIFO,
  setXattrFd,
  statAt,
  utimesAt,
} from '../../../src/host/libc.ts';
import { storeUidBase } from '../../helpers/base-range.ts';
import { requires } from '../../helpers/requires.ts';
import { archive, member, pax, seededRandom } from '../../helpers/tar-builder.ts';
import { diffTrees, listTree, type TreeEntry } from '../../helpers/tree.ts';
import { census, makeScratch, removeScratch, unpackTo } from './staging.ts';

requires(t, 'root', 'userns', 'launcher', 'tar', 'zstd', 'unshare', 'overlay');
t.setTimeout(300_000);

const scratch = makeScratch('unpack');
const at = (...parts: string[]): string => path.join(scratch, ...parts);
t.teardown(() => removeScratch(scratch));

const netRaw = Buffer.from('0100000200200000000000000000000000000000', 'hex');
const sha256 = (bytes: Buffer): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

/** Everything a root filesystem holds, and what few do. */
function makeTree(root: string): void {
  const random = seededRandom(7);
  const put = (name: string | Buffer, bytes: number, mode = 0o644): void => {
    const file = Buffer.concat([Buffer.from(`${root}/`), Buffer.from(name)]);
    writeFileSync(file, Buffer.alloc(bytes, random() & 0xff));
    chmodSync(file, mode);
  };
  for (const name of ['', 'etc', 'usr', 'usr/bin', 'usr/lib', 'var', 'var/log', 'many', 'deep']) mkdirSync(path.join(root, name));
  for (const bytes of [0, 1, 511, 512, 513, 10_240, 524_287, 524_288, 3_000_001]) put(`usr/lib/size-${bytes}`, bytes);
  for (let file = 0; file < 300; file += 1) put(`many/f${file}`, random() % 9000, 0o600 | (random() & 0o77));
  put('usr/bin/su', 40_000, 0o4755);
  put('usr/bin/wall', 100, 0o2755);
  put('usr/bin/ping', 100, 0o755);
  put('etc/shadow', 10, 0o640);
  put('etc/nothing-allowed', 10, 0o000);
  put(`etc/${'long-name-'.repeat(24)}`, 5);
  put(Buffer.from([0x65, 0x74, 0x63, 0x2f, 0xff, 0xfe, 0x0a, 0x5c]), 5);
  chownSync(path.join(root, 'etc/shadow'), 0, 42);
  chownSync(path.join(root, 'many/f1'), 65_534, 65_534);
  for (let depth = 1; depth <= 60; depth += 1) mkdirSync(path.join(root, 'deep', 'd/'.repeat(depth)));
  symlinkSync('usr/bin', path.join(root, 'bin'));
  symlinkSync('/nowhere/at/all', path.join(root, 'etc/dangling'));
  symlinkSync('x'.repeat(3000), path.join(root, 'etc/long-target'));
  lchownSync(path.join(root, 'etc/dangling'), 7, 8);
  linkSync(path.join(root, 'usr/lib/size-513'), path.join(root, 'etc/hard-link'));
  linkSync(path.join(root, 'usr/lib/size-513'), path.join(root, 'usr/another'));
  mkdirSync(path.join(root, 'tmp'));
  chmodSync(path.join(root, 'tmp'), 0o1777);
  mkdirSync(path.join(root, 'var/mail'));
  chownSync(path.join(root, 'var/mail'), 0, 8);
  chmodSync(path.join(root, 'var/mail'), 0o2775);
  put('var/mail/spool', 100);
  mkdirSync(path.join(root, 'var/read-only'));
  put('var/read-only/f', 100);
  chmodSync(path.join(root, 'var/read-only'), 0o555);
  mknodAt(AT_FDCWD, path.join(root, 'var/pipe'), S_IFIFO | 0o640);
  chmodSync(path.join(root, 'var/pipe'), 0o640);
  withFile(path.join(root, 'usr/bin/ping'), (fd) => setXattrFd(fd, 'security.capability', netRaw));
  withFile(path.join(root, 'etc/shadow'), (fd) => setXattrFd(fd, 'user.note', Buffer.from([0, 255, 10, 61])));
  withFile(path.join(root, 'etc'), (fd) => setXattrFd(fd, 'user.of-a-directory', Buffer.from('yes')));
  lutimesSync(path.join(root, 'bin'), 1, 1);
  utimesAt(AT_FDCWD, path.join(root, 'usr/lib/size-1'), 1_600_000_000, 123_456_789);
  utimesAt(AT_FDCWD, path.join(root, 'usr/lib/size-0'), -86_400, 5);
  utimesAt(AT_FDCWD, path.join(root, 'many'), 1_500_000_000, 1);
  utimesAt(AT_FDCWD, root, 1_400_000_000, 999_999_999);
}

function withFile<T>(file: string, work: (fd: number) => T): T {
  const fd = openAt(AT_FDCWD, file, O_RDONLY | O_NOFOLLOW);
  try {
    return work(fd);
  } finally {
    close(fd);
  }
}

/** A tree's list with the ids of the store's range taken back, in capabilities and access control lists too, and nanoseconds of mtimes. */
function listShifted(directory: string, uidBase: number): TreeEntry[] {
  return listTree(directory, { uidBase }).map((entry) => ({
    ...entry,
    ...(entry.xattrs === undefined
      ? {}
      : {
          xattrs: Object.fromEntries(
            Object.entries(entry.xattrs).map(([name, hex]) => [name, plainValue(name, Buffer.from(hex, 'hex'), uidBase)]),
          ),
        }),
    nsec: nsecOf(directory, entry.path),
  }));
}

function nsecOf(directory: string, name: string): number {
  return name.includes('\\') ? 0 : statAt(AT_FDCWD, path.join(directory, name)).mtimeNsec;
}

function plainValue(name: string, value: Buffer, uidBase: number): string {
  const isV3 = name === 'security.capability' && value.length === 24 && value.readUInt32LE(20) === uidBase;
  if (!isV3) return value.toString('hex');
  const v2 = Buffer.from(value.subarray(0, 20));
  v2.writeUInt32LE((value.readUInt32LE(0) & 1) | 0x02000000, 0);
  return v2.toString('hex');
}

t.test('unpackLayer() makes the tree that GNU tar makes, from every compression, again and again', async (t) => {
  makeTree(at('tree'));
  execFileSync('tar', ['--format=pax', '--xattrs', '--xattrs-include=*', '--sort=name', '-C', at('tree'), '-cf', at('layer.tar'), '.']);
  mkdirSync(at('gnu'));
  execFileSync('tar', ['--xattrs', '--xattrs-include=*', '--numeric-owner', '-C', at('gnu'), '-xpf', at('layer.tar')]);
  const tar = readFileSync(at('layer.tar'));
  const expected = listShifted(at('gnu'), 0);
  t.ok(expected.length > 380, `${expected.length} files`);
  const blobs = {
    none: tar,
    gzip: gzipSync(tar),
    zstd: execFileSync('zstd', ['-qc'], { input: tar, maxBuffer: 64 * 1024 * 1024 }),
  } as const;
  for (const compression of ['none', 'gzip', 'zstd', 'none'] as const) {
    const result = await unpackTo(at('stage'), blobs[compression], { compression });
    t.same(diffTrees(expected, listShifted(at('stage'), storeUidBase)), [], compression);
    t.match(result, {
      diffId: sha256(tar),
      unpackedBytes: tar.length,
      entries: expected.length,
      isOpaqueRoot: false,
      skippedDevices: 0,
      droppedXattrs: 0,
      warnings: [],
    });
    removeScratch(at('stage'));
  }
});

t.test('unpackLayer() hashes what follows the end of the archive too', async (t) => {
  const tar = Buffer.concat([archive(member({ name: 'f' }, 'x')), Buffer.alloc(9216)]);
  t.equal((await unpackTo(at('stage'), tar)).diffId, sha256(tar));
  removeScratch(at('stage'));
});

t.test('unpackLayer() gives directories that the layer does not list mode 0755, root and the epoch', async (t) => {
  const { warnings } = await unpackTo(
    at('stage'),
    archive(
      member({ name: 'a/b/f', mtime: 1_000 }, 'x'),
      member({ name: 'c/', type: '5', mode: 0o700, mtime: 7 }),
      member({ name: 'c/f' }, 'x'),
    ),
  );
  t.same(
    listTree(at('stage'), { uidBase: storeUidBase }).map(({ path, mode, owner, mtimeSec }) => [path, mode, owner, mtimeSec]),
    [
      ['.', '0755', '0:0', 0],
      ['a', '0755', '0:0', 0],
      ['a/b', '0755', '0:0', 0],
      ['a/b/f', '0644', '0:0', 1000],
      ['c', '0700', '0:0', 7],
      ['c/f', '0644', '0:0', 0],
    ],
  );
  t.same(warnings, ['made 2 directories that the layer does not list']);
  removeScratch(at('stage'));
});

t.test('unpackLayer() keeps directory times when entries come in any order and of more directories than stay open', async (t) => {
  const names = Array.from({ length: 500 }, (_unused, index) => `d${index}`);
  const members = [
    ...names.map((name, index) =>
      Buffer.concat([pax([['mtime', `${1_000_000 + index}.5`]]), member({ name: `${name}/`, type: '5', mode: 0o755 })]),
    ),
    ...[1, 2, 3].flatMap((round) => names.map((name) => member({ name: `${name}/f${round}` }, 'x'))),
    ...names.map((name) => member({ name: `${name}/f1` }, 'replaced')),
  ];
  await unpackTo(at('stage'), archive(...members));
  const wrong = names.filter((name, index) => {
    const { mtimeSec, mtimeNsec } = statAt(AT_FDCWD, at('stage', name));
    return mtimeSec !== 1_000_000 + index || mtimeNsec !== 500_000_000;
  });
  t.same(wrong, []);
  t.equal(statAt(AT_FDCWD, at('stage')).mtimeSec, 0);
  removeScratch(at('stage'));
});

t.test('unpackLayer() does not let a set-group-id directory or its default list change what is made in it', async (t) => {
  const list = acl([
    [1, 7],
    [2, 6, 1000],
    [4, 5],
    [16, 7],
    [32, 5],
  ]);
  const access = acl([
    [1, 6],
    [2, 4, 1000],
    [4, 4],
    [16, 4],
    [32, 0],
  ]);
  const layer = archive(
    pax([['SCHILY.xattr.system.posix_acl_default', list]]),
    member({ name: 'd/', type: '5', mode: 0o2775, gid: 50 }),
    member({ name: 'd/f', mode: 0o644 }, 'x'),
    member({ name: 'd/l', type: '2', linkName: 'f' }),
    member({ name: 'd/sub/', type: '5', mode: 0o755 }),
    member({ name: 'd/implicit/f', mode: 0o600 }, 'x'),
    member({ name: 'd/.wh.gone' }),
    pax([['SCHILY.xattr.system.posix_acl_access', access]]),
    member({ name: 'd/listed', mode: 0o640 }, 'x'),
  );
  await unpackTo(at('stage'), layer);
  t.same(
    listTree(at('stage/d'), { uidBase: storeUidBase }).map(({ path, mode, owner, xattrs }) => [
      path,
      mode,
      owner,
      Object.keys(xattrs ?? {}),
    ]),
    [
      ['.', '2775', '0:50', ['system.posix_acl_default']],
      ['f', '0644', '0:0', []],
      ['gone', '0000', '0:0', []],
      ['implicit', '0755', '0:0', []],
      ['implicit/f', '0600', '0:0', []],
      ['l', '0777', '0:0', []],
      ['listed', '0640', '0:0', ['system.posix_acl_access']],
      ['sub', '0755', '0:0', []],
    ],
  );
  const onDisk = withFile(at('stage/d/listed'), (fd) => getXattrFd(fd, 'system.posix_acl_access'));
  t.equal(onDisk?.readUInt32LE(4 + 8 + 4), storeUidBase + 1000, 'the ids in a list are shifted as owners are');
  removeScratch(at('stage'));
  const { droppedXattrs, warnings } = await unpackTo(at('stage'), layer, { limits: { keepAcls: false } });
  t.same([droppedXattrs, warnings[0]], [2, 'dropped 2 extended attributes: system.posix_acl_access, system.posix_acl_default']);
  removeScratch(at('stage'));
});

t.test('unpackLayer() counts what it leaves out', async (t) => {
  const label: Xattr = { name: Buffer.from('security.selinux'), value: Buffer.from('label') };
  const layer = archive(
    member({ name: 'dev/null', type: '3', devMajor: 1, devMinor: 3 }),
    member({ name: 'dev/sda', type: '4', devMajor: 8, devMinor: 0 }),
    pax([[`SCHILY.xattr.${label.name}`, label.value]]),
    member({ name: 'f' }, 'x'),
    member({ name: '.wh..wh.aufs' }),
  );
  t.match(await unpackTo(at('stage'), layer), {
    entries: 4,
    skippedDevices: 2,
    droppedXattrs: 1,
    warnings: [
      'skipped 2 device nodes below dev',
      'dropped 1 extended attributes: security.selinux',
      "skipped 1 members of aufs' own bookkeeping",
    ],
  });
  removeScratch(at('stage'));
});

t.test('overlayfs hides by an unpacked layer what the layer says', async (t) => {
  const file = (name: string, body = 'lower'): Buffer => member({ name }, body);
  await unpackTo(
    at('lower'),
    archive(...['kept', 'gone', 'dir/a', 'dir/b', 'opaque/a', 'opaque/b', 'again/a', 'again/b', 'type/a'].map((name) => file(name))),
  );
  const upper = [
    file('.wh.gone', ''),
    file('dir/.wh.a', ''),
    file('opaque/.wh..wh..opq', ''),
    file('opaque/b', 'upper'),
    file('.wh.again', ''),
    file('again/c', 'upper'),
    file('.wh.type', ''),
    file('type', 'upper'),
  ];
  for (const members of [upper, upper.toReversed()]) {
    await unpackTo(at('upper'), archive(...members));
    t.same(overlay(['upper', 'lower']), ['again/c upper', 'dir/b lower', 'kept lower', 'opaque/b upper', 'type upper']);
    removeScratch(at('upper'));
  }
  const root = await unpackTo(at('upper'), archive(file('.wh..wh..opq', ''), file('dir/c', 'upper')));
  t.equal(root.isOpaqueRoot, true);
  t.ok(
    overlay(['upper', 'lower']).includes('kept lower'),
    'overlayfs takes no notice of the mark on a root: isOpaqueRoot is for the stack to obey',
  );
  removeScratch(at('upper'));
  removeScratch(at('lower'));
});

t.test('unpackLayer() reports progress and ends at once when it is aborted', async (t) => {
  const tar = archive(member({ name: 'big' }, Buffer.alloc(64 * 1024 * 1024, 1)));
  const controller = new AbortController();
  const reason = new Error('no longer wanted');
  const seen: number[] = [];
  const work = unpackTo(at('stage'), tar, {
    signal: controller.signal,
    progress: ({ stage, done, total, unit }) => {
      seen.push(done);
      t.same([stage, total, unit], ['unpack', tar.length, 'bytes']);
      controller.abort(reason);
    },
  });
  await t.rejects(work, reason);
  t.ok(seen.length >= 1 && (seen[0] ?? 0) > 0);
  removeScratch(at('stage'));
});

t.test('no process, no descriptor and no mount is left', async (t) => {
  t.same((await census()).children, []);
  t.notMatch(readFileSync('/proc/self/mountinfo', 'latin1'), scratch);
});

/** The value of an access control list, version 2: tag, permissions, id. Source: acl(5), Linux include/uapi/linux/posix_acl_xattr.h. */
function acl(entries: readonly (readonly [tag: number, permissions: number, id?: number])[]): Buffer {
  const value = Buffer.alloc(4 + 8 * entries.length);
  value.writeUInt32LE(2, 0);
  for (const [index, [tag, permissions, id = 0xffffffff]] of entries.entries()) {
    value.writeUInt16LE(tag, 4 + 8 * index);
    value.writeUInt16LE(permissions, 6 + 8 * index);
    value.writeUInt32LE(id, 8 + 8 * index);
  }
  return value;
}

/** Names and contents of the files in an overlay of layers, topmost first, mounted in a namespace of its own. */
function overlay(layers: readonly string[]): string[] {
  mkdirSync(at('merged'), { recursive: true });
  const lowers = layers.map((layer) => at(layer)).join(':');
  const script =
    'mount -t overlay overlay -o "ro,lowerdir=$1" "$2" && cd "$2" && find . -type f | while read -r f; do echo "$f $(cat "$f")"; done';
  const out = execFileSync('unshare', ['-m', 'sh', '-ec', script, 'sh', lowers, at('merged')], { encoding: 'latin1' });
  return out
    .trim()
    .split('\n')
    .map((line) => line.replace(/^\.\//, ''))
    .sort();
}
