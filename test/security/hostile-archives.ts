/** Hostile archives, one row each. The attacks name paths of this process's own scratch directory, so loading this makes it. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { archive, base256, GNU, gnuLong, type HeaderParts, header, member, pax, paxRaw } from '../helpers/tar-builder.ts';
import { makeCanary, snapshot } from '../root/unpack/canary.ts';
import { makeScratch, type UnpackOptions } from '../root/unpack/staging.ts';

/** For the caller to remove. */
export const scratch = makeScratch('archives');
export const canary = path.join(scratch, 'canary');
/** Where staging directories go, among what an attack would like to reach. */
export const store = path.join(scratch, 'store');

/** Puts there what no attack may touch. */
export function makeSurroundings(): void {
  makeCanary(canary);
  mkdirSync(path.join(store, 'stage-evil'), { recursive: true });
  writeFileSync(path.join(store, 'stage-evil/file'), 'untouched');
  mkdirSync(path.join(store, 'victim'));
}

/** All that could show that an attack has touched it. */
export function outside(): string[] {
  return [...snapshot(canary), ...snapshot(path.join(store, 'stage-evil')), ...snapshot(path.join(store, 'victim'))];
}

/** An archive, and its error code or the tree that it becomes. */
export type ArchiveRow = {
  id: string;
  what: string;
  tar: Buffer;
  want: string | string[];
  options?: UnpackOptions;
  /** What the bare extractor cannot show: limits and ids are the worker's. */
  isWorkerOnly?: boolean;
};

/** All of them. The ids are those of spec/threats.md, A. */
export const rows: ArchiveRow[] = [];

function row(id: string, what: string, members: Buffer[], want: string | string[], more: Partial<ArchiveRow> = {}): void {
  rows.push({ id, what, tar: archive(...members), want, ...more });
}

export const file = (name: string | Buffer, body = '', parts: HeaderParts = {}): Buffer =>
  long(name, (short) => member({ name: short, ...parts }, body));
export const dir = (name: string | Buffer, parts: HeaderParts = {}): Buffer =>
  long(name, (short) => member({ name: short, type: '5', mode: 0o755, ...parts }));
export const symlink = (name: string | Buffer, target: string | Buffer, parts: HeaderParts = {}): Buffer =>
  linkMember('2', name, target, parts);
export const hardLink = (name: string | Buffer, target: string | Buffer): Buffer => linkMember('1', name, target, {});
const fifo = (name: string): Buffer => member({ name, type: '6' });
export const device = (name: string, type: '3' | '4', devMajor: number, devMinor: number): Buffer =>
  member({ name, type, devMajor, devMinor, mode: 0o666 });
const withXattr = (key: string, value: string | Buffer, of: Buffer = file('f', 'x')): Buffer[] => [
  pax([[`SCHILY.xattr.${key}`, value]]),
  of,
];

function linkMember(type: '1' | '2', name: string | Buffer, target: string | Buffer, parts: HeaderParts): Buffer {
  const body = long(name, (short) => member({ name: short, type, linkName: target.length > 100 ? '' : target, ...parts }));
  return target.length > 100 ? Buffer.concat([gnuLong('K', target), body]) : body;
}

function long(name: string | Buffer, make: (name: string | Buffer) => Buffer): Buffer {
  return name.length > 100 ? Buffer.concat([gnuLong('L', name), make('long')]) : make(name);
}

/* ---- A01, A02, A07, A16: names ---- */

const escapes = [
  '../x',
  'a/../../x',
  '/../x',
  `${'../'.repeat(12)}${canary.slice(1)}/secret`,
  './../x',
  'a/..',
  'a/b/../../..',
  '..',
  '../',
  'a/../x',
  '/..//x',
  'a/./../../x',
  '..//x',
  'x/..',
];
for (const name of escapes) row('A01', `the name ${name}`, [file(name, name.endsWith('/') ? '' : 'evil')], 'E_ARCHIVE_PATH');
row(
  'A01',
  'names that only look like the parent',
  [file('.../...', 'a'), file('..x', 'b'), file('x..', 'c')],
  ['..x=b', '.../', '.../...=a', 'x..=c'],
);

row('A02', 'an absolute name', [file('/etcetera/x', 'in')], ['etcetera/', 'etcetera/x=in']);
row('A02', 'many slashes', [file('///etcetera//x', 'in')], ['etcetera/', 'etcetera/x=in']);
row('A02', 'dots and slashes', [file('.//./etcetera/./x', 'in')], ['etcetera/', 'etcetera/x=in']);
row('A02', "the canary's own path", [file(`${canary}/secret`, 'in')], [...parentsOf(`${canary}/secret`), `${canary.slice(1)}/secret=in`]);
row(
  'A02',
  'the same path by GNU long name',
  [gnuLong('L', `${canary}/suid`), file('short', 'in', { magic: GNU })],
  [...parentsOf(`${canary}/suid`), `${canary.slice(1)}/suid=in`],
);

row(
  'A07',
  'backslashes and drives',
  [file('a\\b', '1'), file('C:\\x', '2'), file('C:/x', '3'), file('..\\x', '4')],
  ['..\\\\x=4', 'C:/', 'C:/x=3', 'C:\\\\x=2', 'a\\\\b=1'],
);
row('A16', 'a sibling that shares the prefix', [file('../stage-evil/file', 'evil')], 'E_ARCHIVE_PATH');
row(
  'A16',
  'the sibling by symlink',
  [symlink('l', '../stage-evil'), file('l/file', 'in')],
  ['l->../stage-evil', 'stage-evil/', 'stage-evil/file=in'],
);

/* ---- A03 to A06: symlinks on the way ---- */

row('A03', 'an absolute link', [symlink('l', '/srv'), file('l/x', 'in')], ['l->/srv', 'srv/', 'srv/x=in']);
row(
  'A03',
  'a link to the canary',
  [symlink('l', canary), file('l/secret', 'in')],
  [...parentsOf(`${canary}/secret`), `${canary.slice(1)}/secret=in`, `l->${canary}`],
);
row(
  'A03',
  'a link that real images have',
  [dir('run'), dir('var'), symlink('var/run', '/run'), file('var/run/pid', '1')],
  ['run/', 'run/pid=1', 'var/', 'var/run->/run'],
);
row(
  'A03',
  'usrmerge, entries through the link',
  [dir('usr'), dir('usr/lib'), symlink('lib', 'usr/lib'), dir('lib/x'), file('lib/x/so', 'elf'), file('usr/lib/a', 'a')],
  ['lib->usr/lib', 'usr/', 'usr/lib/', 'usr/lib/a=a', 'usr/lib/x/', 'usr/lib/x/so=elf'],
);
row('A03', 'a link above the root', [dir('d'), symlink('d/l', '../../../..'), file('d/l/x', 'in')], ['d/', 'd/l->../../../..', 'x=in']);
row('A03', 'a link to itself', [symlink('l', 'l'), file('l/x')], 'E_ARCHIVE_PATH');
row('A03', 'two links to each other', [symlink('a', 'b'), symlink('b', '/a'), file('a/x')], 'E_ARCHIVE_PATH');
row('A03', 'a link to a file', [file('f', 'f'), symlink('l', 'f'), file('l/x')], 'E_ARCHIVE_PATH');
row('A03', 'a chain of 40 links', [...chain(40), file('l40/x', 'in')], ['l0/', 'l0/x=in', ...chainSketch(40)].sort());
row('A03', 'a chain of 41 links', [...chain(41), file('l41/x')], 'E_ARCHIVE_PATH');
row('A03', 'a link to a name of 300 bytes', [symlink('l', 'n'.repeat(300)), file('l/x')], 'E_ARCHIVE_PATH');
row(
  'A03',
  'a link that deepens beyond the limit',
  [symlink('l', 'd/'.repeat(200)), symlink('d', '.'), file('l/l/x', 'in')],
  'E_ARCHIVE_PATH',
);
row(
  'A03',
  'a directory below a link to the canary',
  [symlink('l', canary), dir('l/empty/new', { mode: 0o777 })],
  [...parentsOf(`${canary}/empty/new/x`), `l->${canary}`].sort(),
);

row(
  'A04',
  'two hops',
  [dir('in'), symlink('in/up', '..'), symlink('in/up/esc', '../victim'), file('in/up/esc/x', 'in')],
  ['esc->../victim', 'in/', 'in/up->..', 'victim/', 'victim/x=in'],
);
row(
  'A04',
  'three hops',
  [symlink('a', '..'), symlink('b', 'a/..'), symlink('c', `b${canary}`), file('c/secret', 'in')],
  ['a->..', 'b->a/..', `c->b${canary}`, ...parentsOf(`${canary}/secret`), `${canary.slice(1)}/secret=in`].sort(),
);

row(
  'A05',
  'a directory that becomes a link',
  [dir('d'), symlink('d', canary), file('d/secret', 'in')],
  [`d->${canary}`, ...parentsOf(`${canary}/secret`), `${canary.slice(1)}/secret=in`].sort(),
);
row(
  'A05',
  'a nested one, known from files next to it',
  [dir('a'), file('a/f', '1'), dir('a/b'), symlink('a/b', '../c'), file('a/b/x', 'in')],
  ['a/', 'a/b->../c', 'a/f=1', 'c/', 'c/x=in'],
);
row(
  'A05',
  'a link that becomes another link',
  [symlink('l', 'one'), file('l/x', '1'), symlink('l', 'two'), file('l/x', '2')],
  ['l->two', 'one/', 'one/x=1', 'two/', 'two/x=2'],
);
row(
  'A05',
  'a link that becomes a directory',
  [symlink('l', 'one'), file('l/x', '1'), dir('l'), file('l/x', '2')],
  ['l/', 'l/x=2', 'one/', 'one/x=1'],
);
row('A05', 'a link below itself', [symlink('l', '.'), file('l/l', 'in')], ['l/', 'l/l=in']);

const nfc = Buffer.from('é');
const nfd = Buffer.from('e\u0301');
row('A06', 'composed and decomposed', [file(nfc, '1'), file(nfd, '2')], ['e\\xcc\\x81=2', '\\xc3\\xa9=1'].sort());
row('A06', 'sharp s and ss', [file(Buffer.from('ß'), '1'), file('ss', '2')], ['\\xc3\\x9f=1', 'ss=2']);
row(
  'A06',
  'upper and lower case',
  [file('A', '1'), file('a', '2'), symlink('L', canary), dir('l'), file('l/x', '3')],
  ['A=1', `L->${canary}`, 'a=2', 'l/', 'l/x=3'],
);

/* ---- A08 to A13: hard links ---- */

row('A08', 'to an absolute path of the host', [hardLink('h', `${canary}/secret`)], 'E_ARCHIVE_LINK');
row('A08', 'to a setuid file of the host', [hardLink('h', `${canary}/suid`)], 'E_ARCHIVE_LINK');
row('A08', 'to an absolute path in the layer', [file('f', '1'), hardLink('h', '/f')], ['f=1', 'h==f']);
for (const target of ['../f', 'a/../f', '..', '/../f', './../f', `${'../'.repeat(12)}${canary.slice(1)}/secret`]) {
  row('A09', `to ${target}`, [file('f', '1'), dir('a'), hardLink('h', target)], 'E_ARCHIVE_LINK');
}
row(
  'A10',
  'through two links',
  [
    dir('a'),
    dir('a/b'),
    dir('a/b/c'),
    symlink('a/b/c/up', '../..'),
    symlink('a/b/escape', `c/up/../../../../../../../..${canary}`),
    hardLink('exfil', 'a/b/escape/secret'),
  ],
  'E_ARCHIVE_LINK',
);
row('A10', 'through one link', [symlink('l', canary), hardLink('h', 'l/secret')], 'E_ARCHIVE_LINK');
row('A10', 'through a link inside the layer', [dir('d'), file('d/f', '1'), symlink('l', 'd'), hardLink('h', 'l/f')], 'E_ARCHIVE_LINK');
row('A10', 'through a file', [file('f', '1'), hardLink('h', 'f/x')], 'E_ARCHIVE_LINK');
row(
  'A11',
  'to a symlink, then written through',
  [symlink('l', `${canary}/secret`), hardLink('h', 'l'), file('h', 'new')],
  ['h=new', `l->${canary}/secret`],
);
row('A11', 'to a symlink', [symlink('l', 'x'), hardLink('m', 'l')], ['l->x', 'm==l']);
row('A12', 'then a file of its name', [file('a', 'one'), hardLink('b', 'a'), file('b', 'two')], ['a=one', 'b=two']);
row('A12', 'then a file of its target’s name', [file('a', 'one'), hardLink('b', 'a'), file('a', 'two')], ['a=two', 'b=one']);
row('A13', 'before its target', [hardLink('h', 'f'), file('f', '1')], 'E_ARCHIVE_LINK');
row('A13', 'to a directory', [dir('d'), hardLink('h', 'd')], 'E_ARCHIVE_LINK');
row('A13', 'to the root', [hardLink('h', '/')], 'E_ARCHIVE_LINK');
row('A13', 'to a whiteout', [file('.wh.x'), hardLink('h', 'x')], 'E_ARCHIVE_LINK');
row('A13', 'to nothing', [hardLink('h', '')], 'E_ARCHIVE_LINK');
row('A13', 'to itself', [file('f', '1'), hardLink('f', 'f')], ['f=1']);
row('A13', 'to a skipped device', [device('dev/null', '3', 1, 3), hardLink('dev/n', 'dev/null')], 'E_ARCHIVE_LINK');
row('A13', 'of a symlink that is taken away', [file('f', '1'), symlink('l', 'x'), hardLink('l', 'f')], ['f=1', 'l==f']);

/* ---- A14, A15: the root, and metadata through links ---- */

for (const name of ['.', './', '/', '//', './.']) row('A14', `a symlink named "${name}"`, [symlink(name, canary)], 'E_ARCHIVE_PATH');
row('A14', 'a symlink without a name', [symlink('', canary)], 'E_ARCHIVE_PATH');
row('A14', 'a symlink named ".."', [symlink('..', canary)], 'E_ARCHIVE_PATH');
row('A14', 'a file named "."', [file('.', 'x')], 'E_ARCHIVE_PATH');
row('A14', 'a hard link named "/"', [file('f'), hardLink('/', 'f')], 'E_ARCHIVE_PATH');
row('A14', 'a FIFO named "/."', [fifo('/.')], 'E_ARCHIVE_PATH');
row('A14', 'a directory without a name', [dir('')], 'E_ARCHIVE_PATH');
row('A14', 'a symlink without a target', [symlink('l', '')], 'E_ARCHIVE_LINK');
row('A14', 'a directory named "./"', [dir('./', { mode: 0o700 })], []);
row('A15', 'a directory over a link', [symlink('l', canary), dir('l', { mode: 0o777 })], ['l/']);
row('A15', 'a file over a link', [symlink('l', `${canary}/secret`), file('l', 'x', { mode: 0o4777 })], ['l=x']);
row('A15', 'a FIFO over a link', [symlink('l', `${canary}/secret`), fifo('l')], ['l|']);
row(
  'A15',
  'a link with mode, owner and attributes',
  [...withXattr('user.x', '1', symlink('l', `${canary}/secret`, { mode: 0o777, uid: 7, gid: 7 }))],
  [`l->${canary}/secret`],
);
row('A15', 'a refused attribute on a link', [...withXattr('trusted.overlay.redirect', '/', symlink('l', 'x'))], 'E_ARCHIVE_XATTR');

/* ---- A18 to A28: what the parser refuses, seen through the worker ---- */

row(
  'A18',
  'a PAX size that hides a member',
  [pax([['size', '512']]), header({ name: 'f', size: 0 }), header({ name: '../evil' })],
  [`f=../evil${'\\x00'.repeat(33)}...`],
);
row('A20', 'an unknown PAX key', [pax([['evil', '1']]), file('f')], 'E_ARCHIVE_PAX');
row('A20', 'a PAX record without an end', [paxRaw('99 path=x\n'), file('f')], 'E_ARCHIVE_PAX');
row('A21', 'a NUL in a PAX path', [pax([['path', 'a\0b']]), file('f')], 'E_ARCHIVE_NAME');
row('A21', 'a NUL in a GNU long link', [gnuLong('K', 'a\0b'), symlink('l', '')], 'E_ARCHIVE_NAME');
row('A22', 'a negative size', [header({ name: 'f', size: base256(-1n) })], 'E_ARCHIVE_HEADER');
row('A22', 'a size of 2^63', [header({ name: 'f', size: base256(2n ** 63n) })], 'E_ARCHIVE_HEADER');
row('A23', 'a wrong checksum', [header({ name: 'f', checksum: '000000\0 ' })], 'E_ARCHIVE_HEADER');
row('A24', 'a long name of 8 GiB', [header({ name: '././@LongLink', type: 'L', size: 8 ** 11 - 1, magic: GNU })], 'E_ARCHIVE_META');
row('A25', 'a path for all members', [pax([['path', '../x']], 'g'), file('f')], 'E_ARCHIVE_PAX');
row('A26', 'an old GNU sparse file', [header({ name: 'f', type: 'S', magic: GNU })], 'E_ARCHIVE_TYPE');
row('A27', 'a body that is not there', [header({ name: 'f', size: 1_000_000 })], 'E_ARCHIVE_TRUNCATED');
rows.push({ id: 'A27', what: 'nothing at all', tar: Buffer.alloc(0), want: 'E_ARCHIVE_TRUNCATED' });
rows.push({ id: 'A28', what: 'no zero block', tar: file('f'), want: 'E_ARCHIVE_TRUNCATED' });
rows.push({
  id: 'A28',
  what: 'a second archive behind the first',
  tar: Buffer.concat([archive(file('a', '1')), archive(file('b', '2'))]),
  want: ['a=1'],
});
rows.push({
  id: 'A28',
  what: '2 MiB behind the end',
  tar: Buffer.concat([archive(file('a')), Buffer.alloc(2 * 1024 * 1024, 1)]),
  want: 'E_ARCHIVE_TRAILING',
});

/* ---- A34 to A38: whiteouts ---- */

for (const name of ['.wh.', '.wh..', '.wh...', 'a/.wh.', 'a/.wh..', 'a/.wh...', './.wh...', '/.wh..', 'a/b/.wh...', '.wh./']) {
  row('A34', `the whiteout ${name}`, [file(name)], 'E_ARCHIVE_WHITEOUT');
}
row('A34', 'a whiteout of three dots', [file('.wh....')], ['...!']);
row('A34', 'whiteouts as they should be', [file('.wh.x'), dir('d'), file('d/.wh.y')], ['d/', 'd/y!', 'x!']);
row(
  'A35',
  'a whiteout through a link',
  [symlink('l', canary), file('l/.wh.secret')],
  [...parentsOf(`${canary}/x`), `${canary.slice(1)}/secret!`, `l->${canary}`].sort(),
);
row('A35', 'an opaque marker through a link', [dir('d'), symlink('l', 'd'), file('l/.wh..wh..opq')], ['d/ opaque', 'l->d']);
for (const name of ['.wh..wh.x', '.wh..wh.', '.wh..wh..opqx', 'd/.wh..wh.plnk', 'd/.wh..wh.aufs', '.wh..wh..wh.x']) {
  row('A36', `the whiteout ${name}`, [file(name)], 'E_ARCHIVE_WHITEOUT');
}
row(
  'A36',
  "aufs' bookkeeping",
  [file('.wh..wh.aufs'), dir('.wh..wh.plnk'), dir('.wh..wh.orph'), file('.wh..wh.plnk/12.34', 'x'), file('f', '1')],
  ['f=1'],
);
row(
  'A36',
  'whiteouts that are hard links of each other',
  [file('.wh.a'), hardLink('.wh.b', '.wh.a'), dir('d'), hardLink('d/.wh..wh..opq', '.wh.a')],
  ['a!', 'b!', 'd/ opaque'],
);
for (const [what, of] of Object.entries({
  'a directory': dir('d/.wh..wh..opq'),
  'a symlink': symlink('d/.wh..wh..opq', 'x'),
  'a FIFO': fifo('d/.wh..wh..opq'),
  'a device': device('dev/.wh..wh..opq', '3', 1, 3),
  'with content': file('d/.wh..wh..opq', 'x'),
})) {
  row('A37', `an opaque marker, ${what}`, [dir('d'), of], 'E_ARCHIVE_WHITEOUT');
}
row('A37', 'a file below a whiteout', [file('.wh.etc/passwd', 'x')], 'E_ARCHIVE_WHITEOUT');
row('A37', 'a whiteout that is a directory', [dir('.wh.etc')], 'E_ARCHIVE_WHITEOUT');
row('A37', 'a whiteout that is a symlink', [symlink('.wh.etc', '/etc')], 'E_ARCHIVE_WHITEOUT');
row('A37', 'a whiteout with content', [file('.wh.etc', 'x')], 'E_ARCHIVE_WHITEOUT');
row('A38', 'a whiteout, then its file', [file('.wh.f'), file('f', '1')], ['f=1']);
row('A38', 'a file, then its whiteout', [file('f', '1'), file('.wh.f')], ['f=1']);
row('A38', 'a whiteout, then its directory', [file('.wh.d'), dir('d'), file('d/f', '1')], ['d/ opaque', 'd/f=1']);
row('A38', 'a directory, then its whiteout', [dir('d'), file('d/f', '1'), file('.wh.d')], ['d/ opaque', 'd/f=1']);
row('A38', 'a whiteout, then a file below its name', [file('.wh.d'), file('d/f', '1')], ['d/ opaque', 'd/f=1']);
row(
  'A38',
  'a whiteout, then a file below its name, twice over',
  [file('.wh.d'), file('d/e/f', '1'), file('d/.wh.e')],
  ['d/ opaque', 'd/e/ opaque', 'd/e/f=1'],
);
row('A38', 'a whiteout, then its symlink', [file('.wh.l'), symlink('l', 'x')], ['l->x']);
row('A38', 'a whiteout, then a hard link', [file('f', '1'), file('.wh.h'), hardLink('h', 'f')], ['f=1', 'h==f']);
row('A38', 'a whiteout, then a FIFO', [file('.wh.p'), fifo('p')], ['p|']);
row('A38', 'a directory, its whiteout, then a file in its place', [dir('d'), file('.wh.d'), file('d', '1')], ['d=1']);
row('A38', 'a whiteout twice', [file('.wh.f'), file('.wh.f')], ['f!']);
row('A38', 'opaque before the entries', [dir('d'), file('d/.wh..wh..opq'), file('d/f', '1')], ['d/ opaque', 'd/f=1']);
row('A38', 'opaque behind the entries', [dir('d'), file('d/f', '1'), file('d/.wh..wh..opq')], ['d/ opaque', 'd/f=1']);
row('A38', 'opaque without the directory', [file('a/b/.wh..wh..opq')], ['a/', 'a/b/ opaque']);
row('A38', 'opaque, then the directory becomes a file', [dir('d'), file('d/.wh..wh..opq'), file('d', '1')], ['d=1']);
row('A38', 'the root opaque', [file('.wh..wh..opq'), file('f', '1')], ['./ opaque', 'f=1']);

/* ---- A39 to A46: what a file may carry ---- */

for (const key of [
  'trusted.overlay.redirect',
  'trusted.overlay.metacopy',
  'trusted.overlay.opaque',
  'trusted.overlay.origin',
  'user.overlay.opaque',
  'user.overlay.redirect',
  'trusted.other',
]) {
  row('A39', `the attribute ${key}`, withXattr(key, '/root'), 'E_ARCHIVE_XATTR');
}
row('A39', 'a refused attribute on a directory', withXattr('trusted.overlay.opaque', 'y', dir('d')), 'E_ARCHIVE_XATTR');
row('A39', 'a whiteout node', [device('x', '3', 0, 0)], 'E_ARCHIVE_DEVICE');
row('A39', 'a whiteout node below dev', [device('dev/x', '3', 0, 0)], 'E_ARCHIVE_DEVICE');
row('A40', 'a disk', [device('sda', '4', 8, 0)], 'E_ARCHIVE_DEVICE');
row(
  'A40',
  'a disk below dev',
  [device('dev/sda', '4', 8, 0), device('./dev/null', '3', 1, 3), device('/dev/a/b', '3', 1, 5), file('f', '1')],
  ['f=1'],
);
row('A40', 'below a dev that is not the root’s', [device('a/dev/sda', '4', 8, 0)], 'E_ARCHIVE_DEVICE');
row('A40', 'below a name that starts like dev', [device('device/sda', '4', 8, 0)], 'E_ARCHIVE_DEVICE');
row('A40', 'dev itself', [device('dev', '4', 8, 0)], 'E_ARCHIVE_DEVICE');
row('A40', 'through a link to dev', [dir('dev'), symlink('l', 'dev'), device('l/sda', '4', 8, 0)], 'E_ARCHIVE_DEVICE');
row('A41', 'a negative device number', [member({ name: 'dev/x', type: '4', devMajor: base256(-1n, 8), devMinor: 0 })], 'E_ARCHIVE_HEADER');
row(
  'A41',
  'a device number of 2^32',
  [member({ name: 'dev/x', type: '4', devMajor: base256(2n ** 32n, 8), devMinor: 0 })],
  'E_ARCHIVE_HEADER',
);
row('A41', 'a negative device number by PAX', [pax([['SCHILY.devmajor', '-1']]), device('dev/x', '4', 8, 0)], 'E_ARCHIVE_HEADER');
row('A43', 'a capability of a wrong size', withXattr('security.capability', 'short'), 'E_ARCHIVE_XATTR');
for (const key of ['security.selinux', 'security.ima', 'security.evm', 'system.nfs4_acl', 'nonsense', 'user.']) {
  row('A44', `the attribute ${key}`, withXattr(key, 'v'), ['f=x']);
}
row('A44', 'an access control list that is none', withXattr('system.posix_acl_access', 'nonsense'), 'E_ARCHIVE_XATTR');
row('A44', 'an attribute of 70,000 bytes', withXattr('user.big', Buffer.alloc(70_000)), 'E_LIMIT_XATTR');
row('A44', 'an attribute name of 300 bytes', withXattr(`user.${'n'.repeat(300)}`, 'v'), 'E_LIMIT_XATTR');
row('A45', 'the highest ids', [file('f', '1', { uid: 65_535, gid: 65_535 })], ['f=1']);
for (const [what, value] of Object.entries({
  '65536': 65_536,
  '2^21-1': 2 ** 21 - 1,
  '-1': base256(-1n, 8),
  '2^32': base256(2n ** 32n, 8),
  '2^32-1': base256(2n ** 32n - 1n, 8),
})) {
  row('A45', `the uid ${what}`, [file('f', '', { uid: value })], 'E_ARCHIVE_ID');
  row('A45', `the gid ${what}`, [file('f', '', { gid: value })], 'E_ARCHIVE_ID');
}
row('A45', 'the PAX uid 4294967296', [pax([['uid', '4294967296']]), file('f')], 'E_ARCHIVE_ID');
row('A45', 'the PAX uid 0x0', [pax([['uid', '0x0']]), file('f')], 'E_ARCHIVE_PAX');
row('A45', 'a user name of root with another id', [file('f', '1', { uid: 1000, uname: 'root', gname: 'root' })], ['f=1']);
for (const value of ['1e400', 'NaN', '', '1.2.3', '+1'])
  row('A46', `the mtime "${value}"`, [pax([['mtime', value]]), file('f')], 'E_ARCHIVE_PAX');
for (const value of ['-1', '99999999999999999999', `1.${'9'.repeat(900)}`])
  row('A46', `the mtime ${value.slice(0, 24)}`, [pax([['mtime', value]]), file('f', '1')], ['f=1']);

/* ---- A47 to A51: many, deep, long, strange ---- */

row('A47', 'file, directory, symlink, file', [file('x', '1'), dir('x'), symlink('x', canary), file('x', '2')], ['x=2']);
row('A47', 'one file twice', [file('x', 'first'), file('x', '2')], ['x=2']);
row('A47', 'one directory twice', [dir('d'), file('d/f', '1'), dir('d', { mode: 0o700 })], ['d/', 'd/f=1']);
row('A47', 'a directory with entries, then a symlink', [dir('d'), file('d/f', '1'), symlink('d', canary)], 'E_ARCHIVE_PATH');
row(
  'A47',
  'a directory with entries, then a hard link',
  [file('a', '1'), dir('d'), file('d/f', '1'), hardLink('d', 'a')],
  'E_ARCHIVE_PATH',
);
row('A47', 'an empty directory, then a hard link', [file('a', '1'), dir('d'), hardLink('d', 'a')], ['a=1', 'd==a']);
row('A48', 'a file as a parent', [file('f', '1'), file('f/x', '2')], 'E_ARCHIVE_PATH');
row('A48', 'a parent as a file', [file('f/x', '2'), file('f', '1')], 'E_ARCHIVE_PATH');
row('A48', 'a FIFO as a parent', [fifo('p'), file('p/x', '2')], 'E_ARCHIVE_PATH');
row(
  'A49',
  '256 components',
  [file(`${'d/'.repeat(255)}f`, 'x')],
  [...Array.from({ length: 255 }, (_unused, at) => 'd/'.repeat(at + 1)), `${'d/'.repeat(255)}f=x`].sort(),
);
row('A49', '257 components', [file(`${'d/'.repeat(256)}f`, 'x')], 'E_ARCHIVE_PATH');
row('A49', '100,000 components', [file(`${'d/'.repeat(100_000)}f`, 'x')], 'E_ARCHIVE_PATH');
row('A49', 'a component of 255 bytes', [file('n'.repeat(255), 'x')], [`${'n'.repeat(255)}=x`]);
row('A49', 'a component of 256 bytes', [file('n'.repeat(256), 'x')], 'E_ARCHIVE_PATH');
row(
  'A49',
  'a path of 4,095 bytes',
  [file(`${`${'n'.repeat(254)}/`.repeat(16)}${'m'.repeat(15)}`, 'x')],
  [
    ...Array.from({ length: 16 }, (_unused, at) => `${'n'.repeat(254)}/`.repeat(at + 1)),
    `${`${'n'.repeat(254)}/`.repeat(16)}${'m'.repeat(15)}=x`,
  ].sort(),
);
row('A49', 'a path of 4,096 bytes', [file(`${`${'n'.repeat(254)}/`.repeat(16)}${'m'.repeat(16)}`, 'x')], 'E_ARCHIVE_PATH');
row('A49', 'a hard link target of 100,000 bytes', [hardLink('h', 'd/'.repeat(50_000))], 'E_ARCHIVE_LINK');
row('A49', 'a symlink target of 4,096 bytes', [symlink('l', 'n'.repeat(4096))], 'E_ARCHIVE_LINK');
row('A50', 'as many entries as allowed', [file('a', '1'), file('b', '2')], ['a=1', 'b=2'], {
  options: { limits: { maxEntries: 2 } },
  isWorkerOnly: true,
});
row('A50', 'one entry more', [file('a', '1'), file('b', '2'), file('c', '3')], 'E_LIMIT_ENTRIES', {
  options: { limits: { maxEntries: 2 } },
  isWorkerOnly: true,
});
row('A50', 'one byte more than allowed', [file('a', '1')], 'E_LIMIT_UNPACKED', {
  options: { limits: { maxUnpackedBytes: 2047 } },
  isWorkerOnly: true,
});
row(
  'A51',
  'control bytes and escapes',
  [file('a\nb\x1b[31m\x7f', '1'), file(Buffer.from([0xff, 0xfe]), '2'), file(Buffer.from('\u202egpj.exe'), '3')],
  ['\\xe2\\x80\\xaegpj.exe=3', '\\xff\\xfe=2', 'a\\x0ab\\x1b[31m\\x7f=1'].sort(),
);

function parentsOf(name: string): string[] {
  const parts = name.split('/').filter((part) => part !== '');
  return parts.slice(0, -1).map((_part, at) => `${parts.slice(0, at + 1).join('/')}/`);
}

function chain(length: number): Buffer[] {
  return Array.from({ length }, (_unused, at) => symlink(`l${at + 1}`, `l${at}`));
}

function chainSketch(length: number): string[] {
  return Array.from({ length }, (_unused, at) => `l${at + 1}->l${at}`);
}
