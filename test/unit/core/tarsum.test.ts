import { readFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import type { TarMember } from '../../../src/core/tar/entry.ts';
import { encodeEntry, endOfArchive, padding, rawHeaderOf } from '../../../src/core/tar/writer.ts';
import { parseTarsumLabel, TarSum, type TarsumOptions, tarsumLabelOf, tarsumOf, tarsumVersionOf } from '../../../src/core/tarsum.ts';
import { repoRoot } from '../../helpers/repo.ts';
import { archive, GNU, gnuLong, header, member, pax, readTar } from '../../helpers/tar-builder.ts';

const fixtures = path.join(repoRoot, 'test/fixtures/tarsum');
const rows = readFileSync(path.join(fixtures, 'expected-sums.tsv'), 'utf8')
  .split('\n')
  .filter((line) => line !== '' && !line.startsWith('#'))
  .map((line) => line.split('\t'));

t.equal(rows.length, 22, 'all vectors are here');

for (const [layer = '', extra = '', version = '', hash = '', expected = ''] of rows) {
  t.test(`tarsumOf() gives ${expected.slice(0, 40)}... for ${layer.slice(0, 60)}`, async (t) => {
    const options = optionsOf(version, hash, extra);
    for (const tar of inputsOf(layer)) {
      t.equal(await tarsumOf([tar], options), expected);
      t.equal(await tarsumOf(halves(tar), options), expected, 'in two chunks');
    }
  });
}

t.test('tarsumOf() takes version 1 and sha256 when nothing else is asked', async (t) => {
  const tar = readFileSync(path.join(fixtures, 'xattr/layer.tar'));
  const extra = readFileSync(path.join(fixtures, 'xattr/json'));
  const dev = '6c58917892d77b3b357b0f9ad1e28e1f4ae4de3a8006bd3beb8beda214d8fd16';
  t.equal(await tarsumOf([tar], { extra }), `tarsum.v1+sha256:${dev}`);
});

t.test('tarsumOf() does not depend on the order of members, nor version 1 on times', async (t) => {
  const [a, b] = [member({ name: 'a', mtime: 1 }, 'A'), member({ name: 'b', mtime: 2 }, 'B')];
  const later = member({ name: 'a', mtime: 3 }, 'A');
  t.equal(await tarsumOf([archive(a, b)]), await tarsumOf([archive(b, a)]));
  t.equal(await tarsumOf([archive(later, b)]), await tarsumOf([archive(a, b)]));
  t.not(await tarsumOf([archive(later, b)], { version: 'tarsum' }), await tarsumOf([archive(a, b)], { version: 'tarsum' }));
});

t.test('tarsumOf() counts a member by what extended headers say of it', async (t) => {
  const name = 'n'.repeat(150);
  const plain = archive(member({ name: 'n'.repeat(49), prefix: 'n'.repeat(100) }));
  const joined = `${'n'.repeat(100)}/${'n'.repeat(49)}`;
  t.equal(await tarsumOf([archive(gnuLong('L', joined), member({ magic: GNU }))]), await tarsumOf([plain]), 'GNU long name');
  t.equal(await tarsumOf([archive(pax([['path', joined]]), member())]), await tarsumOf([plain]), 'PAX path');
  t.not(await tarsumOf([archive(gnuLong('L', name), member({ magic: GNU }))]), await tarsumOf([plain]));
});

t.test('tarsumOf() counts the old NUL type as 5 for a name that ends in a slash, else as 0', async (t) => {
  t.equal(await tarsumOf([archive(member({ name: 'd/', type: '\0' }))]), await tarsumOf([archive(member({ name: 'd/', type: '5' }))]));
  t.equal(await tarsumOf([archive(member({ name: 'd', type: '\0' }))]), await tarsumOf([archive(member({ name: 'd', type: '0' }))]));
});

t.test('tarsumOf() counts the size field of a link and the type bits of a mode', async (t) => {
  const link = (parts: object): Buffer => archive(header({ type: '2', linkName: 'x', ...parts }));
  t.not(await tarsumOf([link({ size: 5 })]), await tarsumOf([link({ size: 0 })]));
  t.not(await tarsumOf([link({ mode: 0o120777 })]), await tarsumOf([link({ mode: 0o777 })]));
});

t.test('tarsumOf() does not count the names of user and group', async (t) => {
  t.equal(await tarsumOf([archive(member({ uname: 'u', gname: 'g' }))]), await tarsumOf([archive(member())]));
});

t.test('tarsumOf() counts a global PAX header as a member of its own', async (t) => {
  const global = pax([['comment', 'c']], 'g');
  const sum = await tarsumOf([archive(global)], { version: 'tarsum' });
  const direct = new TarSum({ version: 'tarsum' });
  direct.entry({
    name: Buffer.from('pax_global_header'),
    mode: 0,
    uid: 0,
    gid: 0,
    size: 0,
    mtimeSec: -62135596800,
    typeflag: 'g',
    linkName: Buffer.alloc(0),
    devMajor: 0,
    devMinor: 0,
    xattrs: [],
  });
  direct.entryEnd();
  t.equal(sum, direct.digest());
  t.equal(
    await tarsumOf([archive(pax([['mtime', '77']], 'g'), member({ mtime: 5 }))], { version: 'tarsum' }),
    await tarsumOf([archive(pax([['mtime', '78']], 'g'), member({ mtime: 5 }))], { version: 'tarsum' }),
    'its time does not reach other members, as in Go',
  );
});

t.test('TarSum reports duplicate names and keeps later duplicates from changing places', (t) => {
  const sumOf = (names: readonly string[]): TarSum => {
    const sum = new TarSum();
    for (const [at, name] of names.entries()) {
      for (const { entry } of readTar(archive(header({ name, uid: name.endsWith('dup') ? at : 0 })))) sum.entry(entry.raw);
      sum.entryEnd();
    }
    return sum;
  };
  const many = Array.from({ length: 20 }, (_, at) => `file${at}`);
  t.equal(sumOf(many).hasDuplicateNames, false);
  t.equal(sumOf(['a/../x', './x']).hasDuplicateNames, true, 'names are cleaned before they are compared');
  t.equal(sumOf(['d', 'd/']).hasDuplicateNames, true);
  const [first, second] = [header({ name: 'dup', uid: 1 }), header({ name: 'dup', uid: 2 })];
  const rest = many.map((name) => header({ name }));
  const digests = [archive(first, ...rest, second), archive(second, ...rest, first)].map((tar) => {
    const sum = new TarSum();
    for (const { entry } of readTar(tar)) {
      sum.entry(entry.raw);
      sum.entryEnd();
    }
    return sum.digest();
  });
  t.not(digests[0], digests[1]);
  t.end();
});

t.test('TarSum over rawHeaderOf() equals the sum of the archive that was written', async (t) => {
  const base = {
    mode: 0o755,
    uid: 3_000_000,
    gid: 7,
    size: 0,
    mtimeSec: -5,
    linkName: Buffer.alloc(0),
    devMajor: 0,
    devMinor: 0,
    xattrs: [],
  };
  const xattrs = [
    { name: Buffer.from('user.a=b'), value: Buffer.from('not in the sum') },
    { name: Buffer.from('user.c'), value: Buffer.from([0, 1, 255]) },
  ];
  const members: TarMember[] = [
    { ...base, name: Buffer.from('file'), type: 'file', size: 3, xattrs },
    { ...base, name: Buffer.from('dir/'), type: 'directory', size: 4096 },
    { ...base, name: Buffer.from([0xff, 0xfe]), type: 'symlink', linkName: Buffer.from('l'.repeat(200)) },
    { ...base, name: Buffer.from('null'), type: 'char', devMajor: 1, devMinor: 3 },
  ];
  const sum = new TarSum();
  const pieces: Buffer[] = [];
  for (const written of members) {
    sum.entry(rawHeaderOf(written));
    pieces.push(encodeEntry(written));
    if (written.type === 'file') {
      sum.data(Buffer.from('abc'));
      pieces.push(Buffer.from('abc'), padding(3));
    }
    sum.entryEnd();
  }
  t.equal(sum.digest(), await tarsumOf([...pieces, endOfArchive]));
});

t.test('tarsumOf() refuses a truncated archive', async (t) => {
  await t.rejects(tarsumOf([member({}, 'body')]), { code: 'E_ARCHIVE_TRUNCATED' });
});

t.test('parseTarsumLabel() reads version and hash', (t) => {
  t.same(parseTarsumLabel('tarsum+sha256'), { version: 'tarsum', hash: 'sha256' });
  t.same(parseTarsumLabel('tarsum.v1+sha512'), { version: 'tarsum.v1', hash: 'sha512' });
  t.same(parseTarsumLabel('tarsum.dev+sha256'), { version: 'tarsum.dev', hash: 'sha256' });
  t.end();
});

t.test('parseTarsumLabel() refuses what is no label', (t) => {
  for (const label of [
    '',
    'tarsum',
    'tarsum.v1',
    '+',
    '+sha256',
    'tarsum.v2+sha256',
    'tarsum+',
    'tarsum+md5',
    'tarsum+SHA256',
    'tarsum+sha256:00',
  ]) {
    t.throws(() => parseTarsumLabel(label), { code: 'E_USAGE' }, JSON.stringify(label));
  }
  t.end();
});

t.test('tarsumVersionOf() gives the version of a sum or label', (t) => {
  t.equal(tarsumVersionOf('tarsum+sha256:00'), 'tarsum');
  t.equal(tarsumVersionOf('tarsum.v1+x+y'), 'tarsum.v1');
  t.equal(tarsumVersionOf('tarsum.dev'), 'tarsum.dev');
  for (const text of ['', 'tarsum.v2', 'sha256:00', '+tarsum', 'tarsum.v1:00'])
    t.throws(() => tarsumVersionOf(text), { code: 'E_USAGE' }, JSON.stringify(text));
  t.end();
});

t.test('tarsumLabelOf() gives what stands before the first plus, or nothing', (t) => {
  t.equal(tarsumLabelOf('tarsum.v1+sha256:00'), 'tarsum.v1');
  t.equal(tarsumLabelOf('unknown+sha256:00'), 'unknown');
  t.equal(tarsumLabelOf('sha256:00'), '');
  t.end();
});

function optionsOf(version: string, hash: string, extra: string): TarsumOptions {
  const label = parseTarsumLabel(`${version}+sha256`);
  const known = (['sha256', 'sha512', 'sha384', 'sha224', 'sha1', 'md5'] as const).find((name) => name === hash);
  if (known === undefined) throw new Error(`unknown hash ${hash}`);
  return { ...label, hash: known, ...(extra === '-' ? {} : { extra: readFileSync(path.join(fixtures, extra)) }) };
}

/** The archives of a row: a file, or what its description says. */
function inputsOf(layer: string): Buffer[] {
  if (!layer.startsWith('GENERATED:')) return [readFileSync(path.join(fixtures, layer))];
  const what = layer.slice('GENERATED:'.length);
  if (what.startsWith('empty archive')) return [archive(), Buffer.alloc(0)];
  if (what === 'zeros-1MiB') return [archive(member({ name: '/testdata0', mode: 0o755 }, Buffer.alloc(1024 * 1024)))];
  const fields = what
    .split(',')
    .map((field): [string, string] => [field.slice(0, field.indexOf('=')), field.slice(field.indexOf('=') + 1)]);
  const value = (key: string): string => fields.find(([name]) => name === key)?.[1] ?? '';
  const xattrs = fields
    .filter(([key]) => key.startsWith('xattr:'))
    .map(([key, text]): [string, string] => [key.replace('xattr:', 'SCHILY.xattr.'), text]);
  const { name, uname, gname } = { name: value('name'), uname: value('uname'), gname: value('gname') };
  const file = member({ name, mode: 0, uid: Number(value('uid')), gid: Number(value('gid')), uname, gname }, value('body'));
  return [archive(...(xattrs.length === 0 ? [] : [pax(xattrs)]), file)];
}

function halves(tar: Buffer): Buffer[] {
  const middle = Math.floor(tar.length / 2) + 7;
  return [tar.subarray(0, middle), tar.subarray(middle)];
}
