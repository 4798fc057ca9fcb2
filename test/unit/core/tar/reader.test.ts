import t from 'tap';
import type { TarEntry } from '../../../../src/core/tar/entry.ts';
import { TarReader } from '../../../../src/core/tar/reader.ts';
import {
  archive,
  base256,
  END,
  GNU,
  gnuLong,
  header,
  member,
  outcomeOf,
  pax,
  readError,
  readTar,
  seededRandom,
} from '../../../helpers/tar-builder.ts';

const latin1 = (bytes: Buffer): string => bytes.toString('latin1');

/** The one entry of an archive. */
function only(...parts: Buffer[]): TarEntry {
  const [first, second] = readTar(archive(...parts));
  if (first === undefined || second !== undefined) throw new Error('want exactly one member');
  return first.entry;
}

t.test('TarReader gives every field of a ustar member', (t) => {
  const parts = { name: 'name', prefix: 'a/b', mode: 0o104755, uid: 1, gid: 2, mtime: 1700000000, uname: 'u', gname: 'g' };
  const [found] = readTar(archive(member(parts, 'body')));
  const raw = { uid: 1, gid: 2, size: 4, mtimeSec: 1700000000, linkName: Buffer.alloc(0), devMajor: 0, devMinor: 0, xattrs: [] };
  t.same(found, {
    entry: {
      ...raw,
      name: Buffer.from('a/b/name'),
      type: 'file',
      mode: 0o4755,
      mtimeNsec: 0,
      raw: { ...raw, name: Buffer.from('a/b/name'), mode: 0o104755, typeflag: '0' },
    },
    body: Buffer.from('body'),
  });
  t.end();
});

t.test('TarReader knows the types of layers', (t) => {
  const types = '01234567'.split('').map((type) => only(header({ type, linkName: 'l', devMajor: 1, devMinor: 3 })).type);
  t.same(types, ['file', 'hardlink', 'symlink', 'char', 'block', 'directory', 'fifo', 'file']);
  t.equal(only(header({ type: '\0' })).type, 'file');
  t.end();
});

t.test('TarReader takes an old file whose name ends in a slash for a directory', (t) => {
  for (const type of ['0', '\0', '7']) {
    t.equal(only(header({ name: 'd/', type })).type, 'directory', JSON.stringify(type));
    t.equal(outcomeOf(archive(member({ name: 'd/', type }, 'body'))), 'E_ARCHIVE_HEADER', 'not with a body');
  }
  t.equal(only(header({ name: 'd/', type: '0' })).raw.typeflag, '0');
  t.equal(only(header({ name: 'd/', type: '\0' })).raw.typeflag, '5');
  t.equal(only(pax([['path', 'long/']]), header({ type: '0' })).type, 'directory', 'by its final name');
  t.end();
});

t.test('TarReader reads old v7 headers, star and GNU ones', (t) => {
  const v7 = only(header({ name: 'v7', magic: '', prefix: 'no prefix here', devMajor: 'garbage', type: '\0' }));
  t.equal(latin1(v7.name), 'v7');
  t.equal(v7.devMajor, 0);
  const star = only(
    header({
      name: 'n',
      prefix: `p\0${'\0'.repeat(129)}14000000000\u000014000000000\0`.slice(0, 155),
      tail: '\0'.repeat(8).concat('tar\0'),
    }),
  );
  t.equal(latin1(star.name), 'p/n');
  const gnu = only(header({ name: 'n', magic: GNU, prefix: '14000000000\u000014000000000\0' }));
  t.equal(latin1(gnu.name), 'n', 'times are no prefix');
  t.equal(
    outcomeOf(archive(header({ magic: GNU, prefix: 'some/dir' }))),
    'E_ARCHIVE_HEADER',
    'a prefix in a GNU header is read in two ways',
  );
  t.equal(outcomeOf(archive(header({ magic: 'ustar 00' }))), 'E_ARCHIVE_HEADER', 'an unknown magic');
  t.end();
});

t.test('TarReader gives names and bodies of members without a body of their own', (t) => {
  const tar = archive(
    header({ type: '2', name: 'l', linkName: 'x', size: 700 }),
    header({ type: '1', name: 'h', linkName: 'l', size: 9 }),
    member({ name: 'f' }, 'F'),
  );
  t.same(
    readTar(tar).map(({ entry, body }) => [latin1(entry.name), entry.size, entry.raw.size, latin1(body)]),
    [
      ['l', 0, 700, ''],
      ['h', 0, 9, ''],
      ['f', 1, 1, 'F'],
    ],
  );
  t.end();
});

t.test('TarReader folds long names of GNU and PAX', (t) => {
  const long = 'd/'.repeat(100);
  const entry = only(gnuLong('L', `${long}f`), gnuLong('K', `${long}t`), header({ type: '2', magic: GNU }));
  t.equal(latin1(entry.name), `${long}f`);
  t.equal(latin1(entry.linkName), `${long}t`);
  t.equal(latin1(only(gnuLong('L', 'no NUL behind', ''), header({ magic: GNU })).name), 'no NUL behind');
  const both = only(
    pax([
      ['path', 'same'],
      ['linkpath', 'there'],
    ]),
    gnuLong('L', 'same'),
    gnuLong('K', 'there'),
    header({ type: '2' }),
  );
  t.equal(latin1(both.name), 'same');
  t.equal(outcomeOf(archive(pax([['path', 'one']]), gnuLong('L', 'two'), header())), 'E_ARCHIVE_PAX');
  t.equal(outcomeOf(archive(gnuLong('K', 'two'), pax([['linkpath', 'one']]), header({ type: '2' }))), 'E_ARCHIVE_PAX');
  const next = readTar(archive(gnuLong('L', 'long'), member({ name: 'short' }), member({ name: 'second' })));
  t.same(
    next.map(({ entry: { name } }) => latin1(name)),
    ['long', 'second'],
    'for one member only',
  );
  t.end();
});

t.test('TarReader takes numbers of PAX over those of the header', (t) => {
  const entry = only(
    pax([
      ['uid', '3000000000'],
      ['gid', '2097152'],
      ['mtime', '1700000000.123456789'],
      ['SCHILY.devmajor', '4095'],
      ['SCHILY.devminor', '1048575'],
    ]),
    header({ type: '3' }),
  );
  t.match(entry, { uid: 3000000000, gid: 2097152, mtimeSec: 1700000000, mtimeNsec: 123456789, devMajor: 4095, devMinor: 1048575 });
  t.equal(entry.raw.devMajor, 0, 'a tarsum takes the field');
  t.end();
});

t.test('TarReader gives attributes as bytes, sorted, the last of equal names', (t) => {
  const binary = Buffer.from([1, 0, 0, 2, 0x0a, 0x3d, 0xff]);
  const entry = only(
    pax([
      ['SCHILY.xattr.user.b', 'first'],
      ['SCHILY.xattr.security.capability', binary],
      ['SCHILY.xattr.user.b', 'last'],
      ['SCHILY.xattr.user.empty', ''],
      ['LIBARCHIVE.xattr.user.b', 'bGFzdA'],
      ['LIBARCHIVE.xattr.user.a%3Db%ff', 'AAE='],
    ]),
    header(),
  );
  const schily = [
    { name: Buffer.from('security.capability'), value: binary },
    { name: Buffer.from('user.b'), value: Buffer.from('last') },
    { name: Buffer.from('user.empty'), value: Buffer.alloc(0) },
  ];
  t.same(entry.raw.xattrs, schily);
  t.same(entry.xattrs, [schily[0], { name: Buffer.from('user.a=b\xff', 'latin1'), value: Buffer.from([0, 1]) }, schily[1], schily[2]]);
  t.equal(
    outcomeOf(
      archive(
        pax([
          ['SCHILY.xattr.user.a', 'x'],
          ['LIBARCHIVE.xattr.user.a', 'eQ'],
        ]),
        header(),
      ),
    ),
    'E_ARCHIVE_PAX',
    'two values',
  );
  t.end();
});

t.test('A18 PAX size wins over the ustar size, in the entry and in skipping alike', (t) => {
  const inner = member({ name: 'smuggled' }, 'evil');
  const name = 'outer';
  const rows: [string, Buffer, string][] = [
    ['larger than the field', archive(pax([['size', String(inner.length)]]), header({ name, size: 0 }), inner), `outer:${latin1(inner)}`],
    ['smaller than the field', archive(pax([['size', '0']]), header({ name, size: inner.length }), inner), 'outer: smuggled:evil'],
    [
      'last of two records',
      archive(
        pax([
          ['size', '9'],
          ['size', '4'],
        ]),
        header({ name, size: 1 }),
        Buffer.from('body'.padEnd(512, '\0')),
      ),
      'outer:body',
    ],
    ['not for a directory', archive(pax([['size', '512']]), header({ name: 'd/', type: '5' }), member({ name: 'f' }, 'F')), 'd/: f:F'],
    [
      'not for a link',
      archive(pax([['size', '512']]), header({ name: 'l', type: '2', linkName: 'x' }), member({ name: 'f' }, 'F')),
      'l: f:F',
    ],
    [
      'for one member only',
      archive(pax([['size', '1']]), header({ name, size: 0 }), Buffer.from('x'.padEnd(512, '\0')), member({ name: 'next' }, 'NN')),
      'outer:x next:NN',
    ],
  ];
  for (const [what, tar, want] of rows) t.equal(outcomeOf(tar), want, what);
  t.end();
});

t.test('A19 a PAX size does not apply to extended headers between it and the member', (t) => {
  const long = 'n'.repeat(600);
  t.equal(
    outcomeOf(archive(pax([['size', '4']]), gnuLong('L', long), header({ magic: GNU, size: 0 }), Buffer.from('body'.padEnd(512, '\0')))),
    `${long}:body`,
  );
  t.equal(outcomeOf(archive(pax([['size', '4096']]), gnuLong('K', 'to'), header({ type: '2', name: 'l' }))), 'l:');
  t.end();
});

t.test('A21 a NUL byte in any name is E_ARCHIVE_NAME, never a cut', (t) => {
  const rows: [string, Buffer][] = [
    ['PAX path', archive(pax([['path', 'a\0b']]), header())],
    ['PAX path, at its end', archive(pax([['path', 'a\0']]), header())],
    ['PAX linkpath', archive(pax([['linkpath', 'a\0b']]), header({ type: '2' }))],
    ['PAX attribute name', archive(pax([['SCHILY.xattr.user.a\0b', 'v']]), header())],
    ['PAX key', archive(pax([['pa\0th', 'v']]), header())],
    ['encoded attribute name', archive(pax([['LIBARCHIVE.xattr.user.a%00b', 'AAAA']]), header())],
    ['GNU long name', archive(gnuLong('L', 'a\0b'), header({ magic: GNU }))],
    ['GNU long name with a tail of NULs', archive(gnuLong('L', 'a', '\0\0'), header({ magic: GNU }))],
    ['GNU long link', archive(gnuLong('K', 'a\0b'), header({ type: '2', magic: GNU }))],
    ['GNU long name of nothing', archive(gnuLong('L', ''), header({ magic: GNU }))],
    ['GNU long name without a byte', archive(gnuLong('L', '', ''), header({ magic: GNU }))],
    ['name field', archive(header({ name: 'a\0b' }))],
    ['link name field', archive(header({ type: '2', linkName: 'a\0b' }))],
    ['prefix field', archive(header({ prefix: 'a\0b' }))],
    ['PAX uname', archive(pax([['uname', 'a\0b']]), header())],
  ];
  for (const [what, tar] of rows) t.equal(outcomeOf(tar), 'E_ARCHIVE_NAME', what);
  t.end();
});

t.test('A22 a size that is negative, overflows or is no number is E_ARCHIVE_HEADER', (t) => {
  const sizes = {
    'base-256 -1': base256(-1n),
    'base-256 2^53': base256(2n ** 53n),
    'base-256 2^63': base256(2n ** 63n),
    'base-256 2^64-1': base256(2n ** 64n - 1n),
    'base-256 2^64': base256(2n ** 64n),
    'base-256 2^94': base256(2n ** 94n),
    'base-256 -2^94': base256(-(2n ** 94n)),
    spaces: ' '.repeat(12),
    'digit 8': '00000000008\0',
    'minus sign': '-0000000001\0',
    letters: '0000000000x\0',
    'digits behind a NUL': '0000\u0000000001\0',
    'digits behind a blank': '0000 000001 ',
    'leading NUL': '\u00000000000001\0',
    hexadecimal: '0x000000001\0',
  };
  for (const [what, size] of Object.entries(sizes)) t.equal(outcomeOf(archive(header({ size }))), 'E_ARCHIVE_HEADER', what);
  for (const size of [
    '           1',
    '          1 ',
    '          1\0',
    '000000000001',
    '1\0\0\0\0\0\0\0\0\0\0\0',
    '1          \0',
    base256(1n),
  ]) {
    t.equal(outcomeOf(archive(header({ size }), Buffer.from('x'.padEnd(512, '\0')))), 'f:x', `control: ${JSON.stringify(size)}`);
  }
  t.equal(outcomeOf(header({ size: base256(2n ** 53n - 1n) })), 'E_ARCHIVE_TRUNCATED', 'control: the largest size');
  t.end();
});

t.test('A23 a bit flip anywhere in a header is E_ARCHIVE_HEADER, or changes nothing', (t) => {
  const parts = { name: 'dir/name', mode: 0o755, uid: 1000, gid: 1000, mtime: 1700000000, uname: 'user', linkName: 'l', prefix: 'p' };
  const good = header(parts);
  const want = readTar(archive(good));
  const harmless: string[] = [];
  for (let bit = 0; bit < 512 * 8; bit += 1) {
    const bad = Buffer.from(good);
    const at = bit >> 3;
    bad[at] = (bad[at] ?? 0) ^ (1 << (bit & 7));
    const outcome = outcomeOf(archive(bad));
    if (outcome === 'E_ARCHIVE_HEADER') continue;
    t.same(readTar(archive(bad)), want);
    harmless.push(
      `byte ${at}: ${JSON.stringify(good.toString('latin1', at, at + 1))} to ${JSON.stringify(bad.toString('latin1', at, at + 1))}`,
    );
  }
  t.same(
    harmless,
    ['byte 148: "0" to " "', 'byte 154: "\\u0000" to " "', 'byte 155: " " to "\\u0000"'],
    'only other ways to write the same checksum remain',
  );
  t.end();
});

t.test('A23 a checksum field of garbage is E_ARCHIVE_HEADER', (t) => {
  for (const checksum of ['', '\0'.repeat(8), ' '.repeat(8), 'garbage!', '99999999', '-0010000', '07777777', '\xff'.repeat(8)]) {
    t.equal(outcomeOf(archive(header({ checksum }))), 'E_ARCHIVE_HEADER', JSON.stringify(checksum));
  }
  t.end();
});

t.test('A23 a checksum over signed bytes, as old writers made it, is accepted', (t) => {
  const name = 'n\xe9\xff';
  const sum = header({ name })
    .subarray(0, 512)
    .reduce((total, byte, at) => total + (at >= 148 && at < 156 ? 0x20 : (byte << 24) >> 24), 0);
  t.equal(outcomeOf(archive(header({ name, checksum: `${sum.toString(8).padStart(6, '0')}\0 ` }))), `${name}:`);
  t.equal(outcomeOf(archive(header({ name, checksum: `${(sum + 1).toString(8).padStart(6, '0')}\0 ` }))), 'E_ARCHIVE_HEADER');
  t.end();
});

t.test('A24 an extended header above the cap is E_ARCHIVE_META before its body comes', (t) => {
  const gib8 = 8 * 1024 ** 3;
  for (const type of ['x', 'g', 'L', 'K']) {
    for (const size of [base256(BigInt(gib8)), 1024 * 1024 + 1]) {
      const reader = new TarReader({ entry: () => {}, data: () => {}, entryEnd: () => {} });
      const before = process.memoryUsage().arrayBuffers;
      t.throws(() => reader.write(header({ type, size })), { code: 'E_ARCHIVE_META' }, `${type} ${String(size)}`);
      t.ok(process.memoryUsage().arrayBuffers - before < 512 * 1024, 'nothing was allocated for it');
    }
  }
  const value = 'v'.repeat(1024 * 1024 - 'NNNNNNN comment=\n'.length);
  t.equal(outcomeOf(archive(pax([['comment', value]]), header())), 'f:', 'control: 1 MiB exactly');
  t.equal(outcomeOf(archive(pax([['comment', `${value}v`]]), header())), 'E_ARCHIVE_META');
  t.equal(outcomeOf(archive(pax([['comment', 'x'.repeat(100)]]), header()), { maxMetaBytes: 64 }), 'E_ARCHIVE_META');
  t.end();
});

t.test('A24 A25 extended headers in a row: 16 at most, and one of a kind for a member', (t) => {
  const globals = (count: number): Buffer[] => Array.from({ length: count }, () => pax([['comment', 'c']], 'g'));
  t.equal(outcomeOf(archive(...globals(16), header())), 'f:', 'control');
  t.equal(outcomeOf(archive(...globals(17), header())), 'E_ARCHIVE_META');
  t.equal(outcomeOf(archive(...globals(13), pax([]), gnuLong('L', 'n'), gnuLong('K', 'l'), header())), 'n:', 'control');
  t.equal(outcomeOf(archive(...globals(14), pax([]), gnuLong('L', 'n'), gnuLong('K', 'l'), header())), 'E_ARCHIVE_META');
  t.equal(outcomeOf(archive(...globals(10), header(), ...globals(10), header())), 'f: f:', 'the count starts again behind a member');
  for (const [first, second] of [
    [pax([['path', 'a']]), pax([['path', 'b']])],
    [gnuLong('L', 'a'), gnuLong('L', 'b')],
    [gnuLong('K', 'a'), gnuLong('K', 'b')],
    [pax([['path', 'a']]), pax([['comment', 'c']], 'g')],
    [gnuLong('L', 'a'), pax([['comment', 'c']], 'g')],
  ] as const) {
    t.equal(outcomeOf(archive(first, second, header())), 'E_ARCHIVE_META');
  }
  t.end();
});

t.test('A25 a global header may set times, never what a member is', (t) => {
  const entries = readTar(
    archive(
      pax(
        [
          ['mtime', '77.5'],
          ['comment', 'c'],
        ],
        'g',
      ),
      header({ mtime: 5 }),
      pax([['mtime', '9']]),
      header({ mtime: 5 }),
    ),
  );
  t.same(
    entries.map(({ entry }) => [entry.mtimeSec, entry.mtimeNsec, entry.raw.mtimeSec]),
    [
      [77, 500000000, 5],
      [9, 0, 9],
    ],
  );
  for (const key of [
    'path',
    'linkpath',
    'size',
    'uid',
    'gid',
    'SCHILY.xattr.user.a',
    'LIBARCHIVE.xattr.user.a',
    'SCHILY.devmajor',
    'unknown',
  ]) {
    t.equal(outcomeOf(archive(pax([[key, '1']], 'g'), header())), 'E_ARCHIVE_PAX', key);
  }
  t.equal(outcomeOf(archive(pax([['GNU.sparse.major', '1']], 'g'), header())), 'E_ARCHIVE_TYPE');
  const names: string[] = [];
  const reader = new TarReader({ entry: () => {}, data: () => {}, entryEnd: () => {}, globalHeader: (name) => names.push(latin1(name)) });
  reader.write(archive(pax([], 'g')));
  reader.end();
  t.same(names, ['pax_global_header'], 'alone in an archive it is complete');
  t.end();
});

t.test('A26 sparse and other special members are E_ARCHIVE_TYPE', (t) => {
  const rows: [string, Buffer][] = [
    ['old GNU sparse', archive(header({ type: 'S', magic: GNU }))],
    [
      'PAX sparse 0.0',
      archive(
        pax([
          ['GNU.sparse.size', '99'],
          ['GNU.sparse.numblocks', '1'],
          ['GNU.sparse.offset', '0'],
        ]),
        header(),
      ),
    ],
    [
      'PAX sparse 0.1',
      archive(
        pax([
          ['GNU.sparse.map', '0,1'],
          ['GNU.sparse.size', '99'],
        ]),
        header(),
      ),
    ],
    [
      'PAX sparse 1.0',
      archive(
        pax([
          ['GNU.sparse.major', '1'],
          ['GNU.sparse.minor', '0'],
          ['GNU.sparse.realsize', '9223372036854775807'],
        ]),
        header(),
      ),
    ],
    ['PAX sparse name', archive(pax([['GNU.sparse.name', 'other']]), header())],
    ['star sparse', archive(pax([['SCHILY.realsize', '99']]), header())],
    ['a map of a million holes', archive(pax([['GNU.sparse.map', '0,1,'.repeat(250_000)]]), header())],
    ['incremental', archive(pax([['GNU.dumpdir', 'Yf\0\0']]), header())],
    ['volume', archive(pax([['GNU.volume.label', 'v']]), header())],
    ...['D', 'M', 'N', 'V', 'X', 'A', '8', '9', 'z', ' ', '\x01', '\xff'].map((type): [string, Buffer] => [
      `type ${JSON.stringify(type)}`,
      archive(header({ type })),
    ]),
  ];
  for (const [what, tar] of rows) t.equal(outcomeOf(tar), 'E_ARCHIVE_TYPE', what);
  t.end();
});

t.test('A27 an archive cut at any block of 512 is E_ARCHIVE_TRUNCATED', (t) => {
  const members = Array.from({ length: 40 }, (_, at) => [
    ...(at % 3 === 0 ? [pax([['mtime', '5.5']])] : []),
    ...(at % 7 === 0 ? [gnuLong('L', `name${at}`)] : []),
    member({ name: `f${at}` }, 'b'.repeat(at * 100)),
  ]).flat();
  const tar = archive(...members);
  const end = tar.length - END.length;
  for (let cut = 0; cut <= end; cut += 512) {
    t.equal(outcomeOf(tar.subarray(0, cut)), 'E_ARCHIVE_TRUNCATED', `cut at ${cut}`);
    t.equal(outcomeOf(tar.subarray(0, cut + 100)), 'E_ARCHIVE_TRUNCATED', `cut at ${cut + 100}`);
  }
  t.equal(readTar(tar.subarray(0, end + 512)).length, 40, 'one zero block is enough');
  t.equal(outcomeOf(header({ size: base256(2n ** 40n) })), 'E_ARCHIVE_TRUNCATED', 'a huge size, a tiny stream');
  t.equal(outcomeOf(archive(member(), pax([['path', 'p']]))), 'E_ARCHIVE_TRUNCATED', 'an extended header without a member');
  t.equal(outcomeOf(archive(member(), gnuLong('K', 'p'))), 'E_ARCHIVE_TRUNCATED', 'a long link without a member');
  t.end();
});

t.test('A28 one zero block ends an archive; other data behind it is refused above 1 MiB', (t) => {
  const file = member({ name: 'a' }, 'A');
  const zero = Buffer.alloc(512);
  const second = archive(member({ name: 'b' }, Buffer.alloc(2 * 1024 * 1024)));
  const rows: [string, Buffer, string][] = [
    ['one zero block', Buffer.concat([file, zero]), 'a:A'],
    ['no zero block', file, 'E_ARCHIVE_TRUNCATED'],
    ['many zero blocks', Buffer.concat([file, Buffer.alloc(3 * 1024 * 1024)]), 'a:A'],
    ['an end that is no whole block', Buffer.concat([file, zero, Buffer.alloc(77)]), 'a:A'],
    ['a member behind one zero block', Buffer.concat([file, zero, file, END]), 'a:A'],
    ['a small archive behind the end', Buffer.concat([file, END, file, END]), 'a:A'],
    ['a large archive behind the end', Buffer.concat([file, END, second]), 'E_ARCHIVE_TRAILING'],
    ['1 MiB of garbage', Buffer.concat([file, END, Buffer.alloc(1024 * 1024, 1)]), 'a:A'],
    ['a byte more', Buffer.concat([file, END, Buffer.alloc(1024 * 1024 + 1, 1)]), 'E_ARCHIVE_TRAILING'],
    ['a byte of garbage behind many zeros', Buffer.concat([file, Buffer.alloc(2 * 1024 * 1024), Buffer.from('x')]), 'a:A'],
    ['garbage instead of a header', Buffer.concat([file, Buffer.alloc(512, 'x'), END]), 'E_ARCHIVE_HEADER'],
  ];
  for (const [what, tar, want] of rows) {
    t.equal(outcomeOf(tar), want, what);
    t.equal(chunkedOutcome(tar, 1000), want, `${what}, in small chunks`);
  }
  t.equal(outcomeOf(Buffer.concat([file, END, Buffer.from('xyz')]), { maxTrailingBytes: 2 }), 'E_ARCHIVE_TRAILING');
  t.end();
});

t.test('A31 what is no tar, such as a compressed one, is E_ARCHIVE_HEADER', (t) => {
  for (const magic of [
    [0x1f, 0x8b, 8],
    [0x28, 0xb5, 0x2f, 0xfd],
    [0x42, 0x5a, 0x68],
    [0xfd, 0x37, 0x7a],
  ]) {
    t.equal(outcomeOf(Buffer.concat([Buffer.from(magic), Buffer.alloc(2000, 0x5a)])), 'E_ARCHIVE_HEADER');
  }
  t.end();
});

t.test('A41 a device number that is negative or above 32 bits is E_ARCHIVE_HEADER', (t) => {
  for (const type of ['3', '4']) {
    for (const value of [base256(-1n, 8), base256(2n ** 32n, 8), base256(2n ** 60n, 8), base256(-(2n ** 60n), 8), 'garbage!']) {
      t.equal(outcomeOf(archive(header({ type, devMajor: value }))), 'E_ARCHIVE_HEADER', `major ${value.toString('latin1')}`);
      t.equal(outcomeOf(archive(header({ type, devMinor: value }))), 'E_ARCHIVE_HEADER', `minor ${value.toString('latin1')}`);
    }
    for (const value of ['-1', '4294967296', '9'.repeat(40)]) {
      t.equal(outcomeOf(archive(pax([['SCHILY.devmajor', value]]), header({ type }))), 'E_ARCHIVE_HEADER', `PAX major ${value}`);
      t.equal(outcomeOf(archive(pax([['SCHILY.devminor', value]]), header({ type }))), 'E_ARCHIVE_HEADER', `PAX minor ${value}`);
    }
  }
  t.match(
    only(header({ type: '3', devMajor: base256(2n ** 32n - 1n, 8), devMinor: 3 })),
    { devMajor: 2 ** 32 - 1, devMinor: 3 },
    'control',
  );
  t.end();
});

t.test('A45 owners are read exactly, and never wrap', (t) => {
  for (const key of ['uid', 'gid'] as const) {
    for (const value of [
      base256(-1n, 8),
      base256(2n ** 32n - 1n, 8),
      base256(2n ** 32n, 8),
      base256(2n ** 32n + 1000n, 8),
      base256(2n ** 62n - 1n, 8),
      base256(-(2n ** 32n), 8),
    ]) {
      t.equal(outcomeOf(archive(header({ [key]: value }))), 'E_ARCHIVE_ID', `${key} ${value.toString('hex')}`);
    }
    for (const value of ['-1', '-0001', '4294967295', '4294967296', '18446744073709551616', '9'.repeat(400)]) {
      t.equal(outcomeOf(archive(pax([[key, value]]), header())), 'E_ARCHIVE_ID', `PAX ${key} ${value.slice(0, 20)}`);
    }
    for (const value of ['root', '', ' 1', '1 ', '+1', '1e3', '1.0', '0x0', 'NaN', '١']) {
      t.equal(outcomeOf(archive(pax([[key, Buffer.from(value)]]), header())), 'E_ARCHIVE_PAX', `PAX ${key} ${JSON.stringify(value)}`);
    }
    t.equal(only(header({ [key]: base256(2n ** 32n - 2n, 8) }))[key], 2 ** 32 - 2, 'control');
    t.equal(only(pax([[key, '0070000']]), header({ [key]: 5 }))[key], 70000, 'control');
    t.equal(outcomeOf(archive(header({ [key]: 65536 })), { maxId: 65535 }), 'E_ARCHIVE_ID');
    t.equal(outcomeOf(archive(header({ [key]: 65535 })), { maxId: 65535 }), 'f:');
    t.equal(outcomeOf(archive(header({ [key]: 'garbage!' }))), 'E_ARCHIVE_HEADER');
  }
  t.match(only(header({ uid: 7, uname: 'root', gname: 'root' })), { uid: 7 }, 'names of users do not count');
  t.match(only(pax([['uname', 'root']]), header({ uid: 7 })), { uid: 7 });
  t.end();
});

t.test('A46 times follow the grammar and are clamped to what a file system holds', (t) => {
  const time = (value: string): [number, number] => {
    const { mtimeSec, mtimeNsec } = only(pax([['mtime', value]]), header());
    return [mtimeSec, mtimeNsec];
  };
  t.same(time('0'), [0, 0]);
  t.same(time('-0'), [0, 0]);
  t.same(time('1.5'), [1, 500000000]);
  t.same(time('1.000000001'), [1, 1]);
  t.same(time('1.0000000019'), [1, 1]);
  t.same(time(`1.${'9'.repeat(100_000)}`), [1, 999999999]);
  t.same(time('-1'), [-1, 0]);
  t.same(time('-1.5'), [-2, 500000000]);
  t.same(time('-0.000000001'), [-1, 999999999]);
  t.same(time('-99999999999'), [-2147483648, 0]);
  t.same(time('-2147483648.5'), [-2147483648, 0]);
  t.same(time('31556889864403199'), [15032385535, 0], 'year 10^9');
  t.same(time('15032385535.25'), [15032385535, 250000000]);
  t.same(time('9'.repeat(1000)), [15032385535, 0]);
  for (const value of [
    '',
    '1e400',
    'NaN',
    'Infinity',
    '-',
    '.5',
    '1.',
    '1.5.5',
    '1,5',
    ' 1',
    '1 ',
    '0x10',
    '+1',
    '--1',
    '1.-5',
    '1\n',
    '1\0',
  ]) {
    t.equal(outcomeOf(archive(pax([['mtime', value]]), header())), 'E_ARCHIVE_PAX', JSON.stringify(value));
    t.equal(outcomeOf(archive(pax([['atime', value]]), header())), 'E_ARCHIVE_PAX', `atime ${JSON.stringify(value)}`);
  }
  t.equal(only(header({ mtime: base256(-5n) })).mtimeSec, -5);
  t.equal(only(header({ mtime: base256(2n ** 90n) })).mtimeSec, 15032385535);
  t.equal(only(header({ mtime: base256(-(2n ** 90n)) })).mtimeSec, -2147483648);
  t.equal(outcomeOf(archive(header({ mtime: 'yesterday' }))), 'E_ARCHIVE_HEADER');
  t.end();
});

t.test('A50 more members than allowed are E_LIMIT_ENTRIES', (t) => {
  const one = header();
  const many = Buffer.concat(Array.from({ length: 1000 }, () => one));
  let seen = 0;
  const reader = new TarReader({ entry: () => (seen += 1), data: () => {}, entryEnd: () => {} });
  t.throws(
    () => {
      for (let round = 0; round < 2000; round += 1) reader.write(many);
    },
    { code: 'E_LIMIT_ENTRIES', message: /more than 1000000 members/ },
  );
  t.equal(seen, 1_000_000);
  t.equal(outcomeOf(archive(one, one), { maxEntries: 2 }), 'f: f:');
  t.equal(outcomeOf(archive(one, one, one), { maxEntries: 2 }), 'E_LIMIT_ENTRIES');
  t.equal(outcomeOf(archive(pax([], 'g'), pax([], 'g'), one), { maxEntries: 2 }), 'E_LIMIT_ENTRIES', 'global headers count');
  t.end();
});

t.test('A51 names are kept byte by byte, and escaped in messages', (t) => {
  const names = ['\xff\xfe', 'a\nb', '\x1b[31mred', '\xe2\x80\xae', '-rf', 'a\\b', ' ', '\x7f'];
  for (const name of names) {
    t.equal(latin1(only(header({ name })).name), name);
    t.equal(latin1(only(pax([['path', name]]), header()).name), name);
    t.equal(latin1(only(gnuLong('L', name), header({ magic: GNU })).name), name);
  }
  const error = readError(archive(member(), pax([['path', '\x1b[2J\xe2\x80\xae"\n\\']]), header({ type: 'S' })));
  t.equal(
    error.message,
    'Cannot read member "\\x1b[2J\\xe2\\x80\\xae"\\x0a\\\\" at byte 1536: its type is "S" (sparse file), want one of 0 to 7',
  );
  t.end();
});

t.test('TarReader names the offending entry in every message', (t) => {
  const rows: [Buffer, string][] = [
    [archive(header({ name: 'n', checksum: '0000001\0' })), 'Cannot read tar header "n" at byte 0: its checksum is'],
    [archive(header({ name: 'n', size: base256(-1n) })), 'Cannot read tar header "n" at byte 0: its size is -1, want 0 to'],
    [
      archive(
        member(),
        pax([
          ['path', 'p'],
          ['size', 'x'],
        ]),
        header(),
      ),
      'Cannot read PAX header "PaxHeaders/f" at byte 512: record at 9 of "p" has the size "x"',
    ],
    [archive(header({ uid: 9 })), 'Cannot read member "f" at byte 0: its uid is 9, want at most 8'],
    [member({ name: 'cut' }, 'x').subarray(0, 600), 'Cannot read archive at member "cut" at byte 0: the data ends at byte 600, inside it'],
    [member({ name: 'last' }), 'Cannot read archive at member "last" at byte 0: the data ends at byte 512, behind it'],
    [archive(gnuLong('L', 'a\0b'), header()), 'Cannot read GNU long name "a\\x00b" at byte 0: it holds a NUL byte'],
    [
      archive(header({ name: 'd/' }), pax([['comment', 'x'.repeat(2000)]], 'g')),
      'Cannot read global PAX header "pax_global_header" at byte 512: it has',
    ],
  ];
  for (const [tar, start] of rows) t.match(readError(tar, { maxId: 8, maxMetaBytes: 1000 }).message, start);
  t.end();
});

t.test('TarReader gives the same members however the bytes are cut', (t) => {
  const random = seededRandom(42);
  const xattr = Buffer.from(Array.from({ length: 1500 }, () => random() & 0xff));
  const tar = archive(
    pax([['comment', 'c']], 'g'),
    member({ name: 'small' }, 'x'),
    pax([
      ['path', 'p'.repeat(900)],
      ['SCHILY.xattr.user.x', xattr],
    ]),
    member({}, 'y'.repeat(512)),
    gnuLong('L', 'q'.repeat(600)),
    gnuLong('K', 'r'.repeat(511)),
    header({ type: '2', magic: GNU }),
    member({ name: 'large' }, Buffer.alloc(5000, 'z')),
    header({ name: 'd/', type: '5' }),
    Buffer.alloc(4096),
    Buffer.from('trailing'),
  );
  const want = readTar(tar);
  t.equal(want.length, 5);
  for (const size of [1, 2, 7, 511, 512, 513, 1023, 1024, 1025])
    t.same(
      readTar(
        tar,
        {},
        repeat(() => size),
      ),
      want,
      `chunks of ${size}`,
    );
  for (let round = 0; round < 200; round += 1) {
    const max = 1 + (random() % 3000);
    t.same(
      readTar(
        tar,
        {},
        repeat(() => random() % max),
      ),
      want,
      `round ${round}, chunks below ${max}`,
    );
  }
  t.end();
});

t.test('TarReader hands on bodies as views of the chunk, without copies', (t) => {
  const chunk = archive(member({ name: 'a' }, 'A'.repeat(600)), member({ name: 'b' }, 'B'));
  const pieces: Buffer[] = [];
  const reader = new TarReader({ entry: () => {}, data: (piece) => pieces.push(piece), entryEnd: () => {} });
  reader.write(chunk);
  reader.end();
  t.same(
    pieces.map((piece) => [piece.buffer === chunk.buffer, piece.byteOffset - chunk.byteOffset, piece.length]),
    [
      [true, 512, 600],
      [true, 512 + 1024 + 512, 1],
    ],
  );
  t.end();
});

t.test('TarReader throws the same error again after a failure, also one of the handler', (t) => {
  const reader = new TarReader({ entry: () => {}, data: () => {}, entryEnd: () => {} });
  const bad = Buffer.alloc(512, 'x');
  const error = caught(() => reader.write(bad));
  t.match(error, { code: 'E_ARCHIVE_HEADER' });
  t.equal(
    caught(() => reader.write(archive(member()))),
    error,
  );
  t.equal(
    caught(() => reader.end()),
    error,
  );
  const mine = new Error('mine');
  const failing = new TarReader({
    entry: () => {
      throw mine;
    },
    data: () => {},
    entryEnd: () => {},
  });
  t.equal(
    caught(() => failing.write(member())),
    mine,
  );
  t.equal(
    caught(() => failing.end()),
    mine,
  );
  t.end();
});

function caught(work: () => void): unknown {
  try {
    work();
  } catch (error) {
    return error;
  }
  return undefined;
}

function chunkedOutcome(tar: Buffer, size: number): string {
  try {
    return readTar(
      tar,
      {},
      repeat(() => size),
    )
      .map(({ entry, body }) => `${latin1(entry.name)}:${latin1(body)}`)
      .join(' ');
  } catch (error) {
    return error instanceof Error && 'code' in error ? String(error.code) : String(error);
  }
}

function* repeat(next: () => number): Generator<number> {
  for (;;) yield next();
}
