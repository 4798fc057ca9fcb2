import { execFileSync } from 'node:child_process';
import { closeSync, constants, existsSync, openSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import type { ContextTop } from '../../../src/store/unpack/context-filter.ts';
import { unpackContext } from '../../../src/store/unpack/unpack-context.ts';
import { storeUidBase } from '../../helpers/base-range.ts';
import { requires } from '../../helpers/requires.ts';
import { archive, member, pax } from '../../helpers/tar-builder.ts';
import { listTree } from '../../helpers/tree.ts';
import { census, codeOf, makeScratch, makeStaging, removeScratch } from './staging.ts';

requires(t, 'root', 'userns', 'launcher', 'bash', 'setfacl', 'setfattr');

const scratch = makeScratch('context');
t.teardown(() => removeScratch(scratch));
const directory = path.join(scratch, 'up');

/** A base that directories and symlinks are looked up in. */
const lower = path.join(scratch, 'lower');

/** Extracts parts of a context, one after the other, into a new directory, and gives what the context was found to have. */
async function extract(tar: Buffer, ...tops: ContextTop[]): Promise<ContextTop[]> {
  removeScratch(directory);
  makeStaging(directory, storeUidBase);
  return await extractMore(tar, ...tops);
}

async function extractMore(tar: Buffer, ...tops: ContextTop[]): Promise<ContextTop[]> {
  writeFileSync(path.join(scratch, 'tar'), tar);
  const contextFd = openSync(path.join(scratch, 'tar'), constants.O_RDONLY);
  const directoryFd = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  const lowerFd = existsSync(lower) ? openSync(lower, constants.O_RDONLY | constants.O_DIRECTORY) : null;
  const { signal } = new AbortController();
  try {
    const found: ContextTop[] = [];
    for (const top of tops) found.push(...(await unpackContext({ contextFd, top, directoryFd, lowerFd, uidBase: storeUidBase, signal })));
    return [...new Set(found)].sort();
  } finally {
    closeSync(contextFd);
    closeSync(directoryFd);
    if (lowerFd !== null) closeSync(lowerFd);
  }
}

const shown = (): string[] =>
  listTree(directory, { uidBase: storeUidBase })
    .slice(1)
    .map(({ path: name, mode, owner, mtimeSec, xattrs }) => [name, mode, owner, mtimeSec, ...Object.keys(xattrs ?? {})].join(' '));

const owned = { uid: 1000, gid: 65_535, mtime: 1_000_000_000 };
const capability = Buffer.from('0000000200040000000000000000000000000000', 'hex');

t.test('unpackContext() keeps owners, modes, times and attributes of what is below exact', async (t) => {
  const tar = archive(
    member({ name: 'exact/d/', type: '5', mode: 0o2750, ...owned }),
    pax([
      ['SCHILY.xattr.user.a', 'b'],
      ['SCHILY.xattr.security.capability', capability],
    ]),
    member({ name: 'exact/d/f', mode: 0o4711, ...owned }, 'x'),
    member({ name: 'exact/d/l', type: '2', linkName: '/nowhere', mode: 0o777, ...owned }),
    member({ name: 'exact/d/h', type: '1', linkName: 'exact/d/f' }),
    member({ name: 'exact/d/p', type: '6', mode: 0o600, ...owned }),
  );
  t.same(await extract(tar, 'exact'), ['exact']);
  t.same(shown(), [
    'd 2750 1000:65535 1000000000',
    'd/f 4711 1000:65535 1000000000 security.capability user.a',
    'd/h 4711 1000:65535 1000000000 security.capability user.a',
    'd/l 0777 1000:65535 1000000000',
    'd/p 0600 1000:65535 1000000000',
  ]);
});

t.test('unpackContext() gives what is below copy to root', async (t) => {
  t.same(await extract(archive(member({ name: 'copy/f', mode: 0o4711, ...owned }, 'x')), 'copy'), ['copy']);
  t.same(shown(), ['f 4711 0:0 1000000000']);
});

t.test('unpackContext() puts exact over copy, wherever it stands in the tar', async (t) => {
  const members = [
    member({ name: 'exact/d/', type: '5', mode: 0o700, ...owned }),
    member({ name: 'exact/d/both', mode: 0o600, ...owned }, 'exact'),
    member({ name: 'copy/d/', type: '5', mode: 0o755, mtime: 5 }),
    member({ name: 'copy/d/both', mode: 0o644, mtime: 5 }, 'copy'),
    member({ name: 'copy/d/other', mode: 0o644, mtime: 5 }, 'copy'),
    member({ name: 'files/f' }, 'x'),
  ];
  for (const tar of [archive(...members), archive(...members.toReversed())]) {
    t.same(await extract(tar, 'copy', 'exact'), ['copy', 'exact', 'files']);
    t.same(shown(), ['d 0700 1000:65535 1000000000', 'd/both 0600 1000:65535 1000000000', 'd/other 0644 0:0 5']);
  }
});

t.test('unpackContext() refuses below exact what a job could not have made', async (t) => {
  const refused: [string, Buffer[]][] = [
    ['E_ARCHIVE_ID', [member({ name: 'exact/f', uid: 65_536 })]],
    ['E_ARCHIVE_ID', [member({ name: 'exact/f', gid: 65_536 })]],
    ['E_ARCHIVE_DEVICE', [member({ name: 'exact/x', type: '3', devMajor: 1, devMinor: 3 })]],
    ['E_ARCHIVE_DEVICE', [member({ name: 'exact/dev/null', type: '3', devMajor: 1, devMinor: 3 })]],
    ['E_ARCHIVE_DEVICE', [member({ name: 'exact/x', type: '3' })]],
    ['E_ARCHIVE_WHITEOUT', [member({ name: 'exact/.wh.f' })]],
    ['E_ARCHIVE_WHITEOUT', [member({ name: 'exact/d/.wh..wh..opq' })]],
    ['E_ARCHIVE_WHITEOUT', [member({ name: 'exact/.wh.d/', type: '5' })]],
    ['E_ARCHIVE_WHITEOUT', [member({ name: 'exact/.wh.d/f' })]],
    ['E_ARCHIVE_LINK', [member({ name: 'copy/f' }), member({ name: 'exact/h', type: '1', linkName: 'copy/f' })]],
    ['E_ARCHIVE_PATH', [member({ name: 'exact/../f' })]],
    ['E_ARCHIVE_XATTR', [pax([['SCHILY.xattr.trusted.overlay.opaque', 'y']]), member({ name: 'exact/d/', type: '5' })]],
  ];
  for (const [code, members] of refused) {
    t.equal(await codeOf(() => extract(archive(...members), 'exact')), code, members.at(-1)?.toString('latin1', 0, 20) ?? '');
  }
});

t.test('unpackContext() leaves the directory itself as it was', async (t) => {
  await extract(archive(), 'copy');
  const before = listTree(directory);
  await extractMore(archive(member({ name: 'exact/', type: '5', mode: 0o700, ...owned }), member({ name: 'exact/f' }, 'x')), 'exact');
  t.same(listTree(directory)[0], before[0]);
});

t.test('unpackContext() over a base follows its symlinks, and makes the directories on the way as they are there', async (t) => {
  execFileSync(
    'bash',
    [
      '-ec',
      `mkdir "$1"; cd "$1"; chmod 755 .
      mkdir -p usr/bin opt/a tmp root 'odd dir'; chmod 1777 tmp; chmod 700 root; ln -s usr/bin bin; ln -s /usr/bin opt/a/up; ln -s loop loop; ln -s /nowhere dangling
      ln -s ../../../../../../../../..$2 out; echo file > file; ln -s file to-file; ln -s $2 absolute; mknod gone c 0 0
      setfattr -n user.a -v b opt; setfacl -d -m "u:$(($3 + 1)):rwx" opt
      chown -hR "$3:$3" .; chown "$(($3 + 5)):$(($3 + 6))" opt; chmod 2751 opt; touch -d @1000 opt opt/a tmp root usr usr/bin`,
      'bash',
      lower,
      scratch,
      String(storeUidBase),
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const file = (name: string): Buffer => member({ name: `copy/${name}`, mtime: 7 }, 'x');
  const directoryMember = (name: string): Buffer => member({ name: `copy/${name}/`, type: '5', mode: 0o755, mtime: 9 });
  const link = (name: string, linkName: string): Buffer => member({ name: `copy/${name}`, type: '1', linkName: `copy/${linkName}` });
  const cases: [what: string, members: Buffer[], want: string[]][] = [
    ['a sticky directory', [file('tmp/x')], ['tmp 1777 0:0 1000', 'tmp/x 0644 0:0 7']],
    ['a closed directory', [file('root/x')], ['root 0700 0:0 1000', 'root/x 0644 0:0 7']],
    [
      'owner, mode and attributes',
      [file('opt/a/x')],
      ['opt 2751 5:6 1000 system.posix_acl_default user.a', 'opt/a 0755 0:0 1000', 'opt/a/x 0644 0:0 7'],
    ],
    ['a symlink', [file('bin/x')], ['usr 0755 0:0 1000', 'usr/bin 0755 0:0 1000', 'usr/bin/x 0644 0:0 7']],
    [
      'a directory in place of a symlink',
      [directoryMember('bin'), file('bin/x')],
      ['usr 0755 0:0 1000', 'usr/bin 0755 0:0 9', 'usr/bin/x 0644 0:0 7'],
    ],
    [
      'hard links behind a symlink',
      [directoryMember('bin'), file('bin/x'), link('bin/y', 'bin/x')],
      ['usr 0755 0:0 1000', 'usr/bin 0755 0:0 9', 'usr/bin/x 0644 0:0 7', 'usr/bin/y 0644 0:0 7'],
    ],
    ['a whiteout of a single layer', [file('gone/x')], ['gone 0755 0:0 0', 'gone/x 0644 0:0 7']],
    ['a symlink to nothing', [file('dangling/x')], ['nowhere 0755 0:0 0', 'nowhere/x 0644 0:0 7']],
    ['a directory in place of a symlink to a file', [directoryMember('to-file')], ['to-file 0755 0:0 9']],
    ['a directory in place of a file', [directoryMember('file')], ['file 0755 0:0 9']],
    ['a file in place of a symlink', [file('bin')], ['bin 0644 0:0 7']],
  ];
  for (const [what, members, want] of cases) {
    await extract(archive(...members), 'copy');
    t.same(shown(), want, what);
  }
  for (const name of ['out', 'absolute']) {
    await extract(archive(directoryMember(name), file(`${name}/x`), file(`${name}/up/y`)), 'copy');
    t.ok(existsSync(path.join(directory, name, 'x')) || existsSync(path.join(directory, scratch, 'x')), `${name}: inside`);
    t.notOk(existsSync(path.join(scratch, 'x')), `${name}: not outside`);
  }
  for (const name of ['loop/x', 'file/x', 'to-file/x'])
    t.equal(await codeOf(() => extract(archive(file(name)), 'copy')), 'E_ARCHIVE_PATH', name);
  await extract(archive(member({ name: 'exact/bin/', type: '5', mode: 0o700, mtime: 9 })), 'exact');
  t.same(shown(), ['bin 0700 0:0 9'], 'exact puts a directory where it says');
  removeScratch(lower);
});

t.test('no process is left', async (t) => {
  t.same((await census()).children, []);
});
