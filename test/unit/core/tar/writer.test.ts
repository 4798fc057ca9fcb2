import t from 'tap';
import type { TarMember } from '../../../../src/core/tar/entry.ts';
import { encodeEntry, endOfArchive, padding, rawHeaderOf } from '../../../../src/core/tar/writer.ts';
import { readTar, seededRandom } from '../../../helpers/tar-builder.ts';

const FILE: TarMember = {
  name: Buffer.from('f'),
  type: 'file',
  mode: 0o644,
  uid: 0,
  gid: 0,
  size: 0,
  mtimeSec: 0,
  linkName: Buffer.alloc(0),
  devMajor: 0,
  devMinor: 0,
  xattrs: [],
};

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1');

/** What our own reader finds in the header of a member that has no body. */
function reread(member: TarMember): ReturnType<typeof readTar>[number]['entry'] {
  const [first] = readTar(Buffer.concat([encodeEntry(member), endOfArchive]));
  if (first === undefined) throw new Error('no member');
  return first.entry;
}

t.test('encodeEntry() gives one exact ustar block for a plain file', (t) => {
  const block = encodeEntry({ ...FILE, name: bytes('dir/name'), mode: 0o4755, uid: 1000, gid: 100, size: 5, mtimeSec: 1700000000 });
  const text = (start: number, length: number): string => block.toString('latin1', start, start + length);
  t.equal(block.length, 512);
  t.equal(text(0, 100), 'dir/name'.padEnd(100, '\0'));
  t.equal(text(100, 48), '0004755\u00000001750\u00000000144\u000000000000005\u000014524770400\0');
  t.equal(
    text(148, 8),
    `${block
      .reduce((sum, byte, at) => sum + (at >= 148 && at < 156 ? 32 : byte), 0)
      .toString(8)
      .padStart(6, '0')}\0 `,
  );
  t.equal(text(156, 101), '0'.padEnd(101, '\0'));
  t.equal(text(257, 8), 'ustar\u000000');
  t.equal(text(265, 64), '\0'.repeat(64), 'no names of user and group');
  t.equal(text(329, 16), '0000000\u00000000000\0');
  t.equal(text(345, 167), '\0'.repeat(167));
  t.end();
});

t.test('encodeEntry() uses the prefix where a name can be split, else PAX', (t) => {
  const rows: [string, string, number][] = [
    ['100 bytes', 'n'.repeat(100), 512],
    ['101 bytes without a slash', 'n'.repeat(101), 1536],
    ['101 bytes with a slash', `p/${'n'.repeat(99)}`, 512],
    ['a slash at the start only', `/${'n'.repeat(100)}`, 1536],
    ['256 bytes, the most there is', `${'p'.repeat(155)}/${'n'.repeat(100)}`, 512],
    ['257 bytes', `${'p'.repeat(156)}/${'n'.repeat(100)}`, 1536],
    ['a directory whose one slash is the last', `${'n'.repeat(120)}/`, 1536],
    ['a directory that splits', `${'p'.repeat(150)}/${'n'.repeat(80)}/`, 512],
    ['a directory of 256 bytes', `${'p'.repeat(154)}/${'n'.repeat(100)}/`, 1536],
    ['double slashes', `${'p'.repeat(90)}//${'n'.repeat(90)}`, 512],
    ['bytes that are no UTF-8', '\xff'.repeat(100), 512],
    ['a deep path', 'd/'.repeat(2000), 5120],
  ];
  for (const [what, name, length] of rows) {
    const member: TarMember = { ...FILE, name: bytes(name), type: name.endsWith('/') ? 'directory' : 'file' };
    t.equal(encodeEntry(member).length, length, what);
    t.equal(reread(member).name.toString('latin1'), name, what);
  }
  t.end();
});

t.test('encodeEntry() says hdrcharset=BINARY only for a PAX name that is no UTF-8', (t) => {
  const has = (member: TarMember): boolean => encodeEntry(member).includes('hdrcharset=BINARY\n');
  t.equal(has({ ...FILE, name: bytes('\xff'.repeat(100)) }), false);
  t.equal(has({ ...FILE, name: bytes('\xff'.repeat(101)) }), true);
  t.equal(has({ ...FILE, name: Buffer.from('é'.repeat(80)) }), false);
  t.equal(has({ ...FILE, type: 'symlink', linkName: bytes('\xff'.repeat(101)) }), true);
  t.end();
});

t.test('encodeEntry() puts numbers that ustar cannot hold into PAX', (t) => {
  const rows: [Partial<TarMember>, string | undefined][] = [
    [{ size: 8 ** 11 - 1 }, undefined],
    [{ size: 8 ** 11 }, '19 size=8589934592\n'],
    [{ size: Number.MAX_SAFE_INTEGER }, '25 size=9007199254740991\n'],
    [{ uid: 8 ** 7 - 1 }, undefined],
    [{ uid: 8 ** 7 }, '15 uid=2097152\n'],
    [{ gid: 2 ** 32 - 2 }, '18 gid=4294967294\n'],
    [{ mtimeSec: 8 ** 11 - 1 }, undefined],
    [{ mtimeSec: 8 ** 11 }, '20 mtime=8589934592\n'],
    [{ mtimeSec: -1 }, '12 mtime=-1\n'],
    [{ mtimeSec: Number.MIN_SAFE_INTEGER }, '27 mtime=-9007199254740991\n'],
  ];
  for (const [fields, record] of rows) {
    const out = encodeEntry({ ...FILE, ...fields });
    t.equal(out.length, record === undefined ? 512 : 1536, JSON.stringify(fields));
    if (record !== undefined) t.equal(out.toString('latin1', 512, 512 + record.length + 1), `${record}\0`);
  }
  t.end();
});

t.test('encodeEntry() gives record lengths that count their own digits', (t) => {
  for (const length of [
    ...Array(120).keys(),
    970,
    971,
    972,
    973,
    974,
    975,
    976,
    977,
    978,
    979,
    980,
    9969,
    9970,
    9971,
    9972,
    9973,
    99_970,
    99_968,
    99_967,
    99_966,
  ]) {
    const xattrs = [{ name: bytes('user.a'), value: Buffer.alloc(length, 'v') }];
    t.same(reread({ ...FILE, xattrs }).xattrs, xattrs, `a value of ${length} bytes`);
  }
  t.end();
});

t.test('encodeEntry() keeps attributes byte by byte', (t) => {
  const xattrs = [
    { name: bytes('security.capability'), value: Buffer.from('0100000200040000000000000000000000000000', 'hex') },
    { name: bytes('user.a=b%'), value: bytes('equals') },
    { name: bytes('user.empty'), value: Buffer.alloc(0) },
    { name: bytes('user.\xff\n'), value: bytes('\n=\0\n10 path=x\n') },
  ];
  const entry = reread({ ...FILE, xattrs });
  t.same(entry.xattrs, xattrs);
  t.ok(encodeEntry({ ...FILE, xattrs }).includes('LIBARCHIVE.xattr.user.a%3Db%25=ZXF1YWxz\n'));
  t.end();
});

t.test('encodeEntry() gives no body and no device numbers to those that have none', (t) => {
  for (const type of ['hardlink', 'symlink', 'char', 'block', 'directory', 'fifo'] as const) {
    const entry = reread({ ...FILE, type, size: 99, devMajor: 8, devMinor: 1 });
    t.equal(entry.raw.size, 0, type);
    t.same([entry.devMajor, entry.devMinor], type === 'char' || type === 'block' ? [8, 1] : [0, 0], type);
  }
  t.end();
});

t.test('encodeEntry() refuses what no reader would take', (t) => {
  const rows: [Partial<TarMember>, string][] = [
    [{ name: Buffer.alloc(0) }, 'E_ARCHIVE_NAME'],
    [{ name: bytes('a\0') }, 'E_ARCHIVE_NAME'],
    [{ name: bytes('a/') }, 'E_ARCHIVE_NAME'],
    [{ name: bytes('a/'), type: 'symlink' }, 'E_ARCHIVE_NAME'],
    [{ linkName: bytes('a\0') }, 'E_ARCHIVE_NAME'],
    [{ xattrs: [{ name: bytes('user.\0'), value: bytes('v') }] }, 'E_ARCHIVE_NAME'],
    [{ xattrs: [{ name: Buffer.alloc(0), value: bytes('v') }] }, 'E_ARCHIVE_NAME'],
    [{ mode: 0o100644 }, 'E_ARCHIVE_HEADER'],
    [{ uid: -1 }, 'E_ARCHIVE_HEADER'],
    [{ gid: 2 ** 32 - 1 }, 'E_ARCHIVE_HEADER'],
    [{ size: -1 }, 'E_ARCHIVE_HEADER'],
    [{ size: 2 ** 53 }, 'E_ARCHIVE_HEADER'],
    [{ mtimeSec: 0.5 }, 'E_ARCHIVE_HEADER'],
    [{ mtimeSec: Number.NaN }, 'E_ARCHIVE_HEADER'],
    [{ type: 'char', devMajor: 8 ** 7 }, 'E_ARCHIVE_HEADER'],
    [{ type: 'block', devMinor: -1 }, 'E_ARCHIVE_HEADER'],
    [{ xattrs: [{ name: bytes('user.a'), value: Buffer.alloc(1024 * 1024) }] }, 'E_LIMIT_XATTR'],
  ];
  for (const [fields, code] of rows) t.throws(() => encodeEntry({ ...FILE, ...fields }), { code }, JSON.stringify(fields).slice(0, 60));
  t.end();
});

t.test('padding() fills the last block, and two zero blocks end an archive', (t) => {
  t.same(
    [0, 1, 511, 512, 513, 8 ** 11 + 1].map((size) => padding(size).length),
    [0, 511, 1, 0, 511, 511],
  );
  t.ok(padding(1).every((byte) => byte === 0));
  t.same(endOfArchive, Buffer.alloc(1024));
  t.end();
});

t.test('TarReader finds in encodeEntry() what went in, for random members', (t) => {
  const random = seededRandom(7);
  const types = ['file', 'hardlink', 'symlink', 'char', 'block', 'directory', 'fifo'] as const;
  const byte = (slashes: boolean): number => {
    if (slashes && random() % 20 === 0) return 0x2f;
    const any = 1 + (random() % 255);
    return any === 0x2f ? 1 : any;
  };
  const name = (length: number, slashes: boolean): Buffer => Buffer.from(Array.from({ length }, () => byte(slashes)));
  for (let round = 0; round < 2000; round += 1) {
    const type = types[random() % types.length] ?? 'file';
    const base = name(1 + (random() % 400), true);
    const isDevice = type === 'char' || type === 'block';
    const member: TarMember = {
      // A final slash makes a directory.
      name: Buffer.concat([base, bytes(type === 'directory' ? '/' : 'x')]),
      type,
      mode: random() % 0o10000,
      uid: random() % 3 === 0 ? random() % (2 ** 32 - 1) : random() % 65536,
      gid: random() % 3 === 0 ? random() % (2 ** 32 - 1) : random() % 65536,
      size: 0,
      mtimeSec: random() % 4 === 0 ? random() - 2 ** 31 + (random() % 3) * 2 ** 32 : random(),
      linkName: type === 'symlink' || type === 'hardlink' ? name(random() % 300, true) : Buffer.alloc(0),
      devMajor: isDevice ? random() % 4096 : 0,
      devMinor: isDevice ? random() % 2 ** 20 : 0,
      xattrs: Array.from({ length: random() % 3 }, (_, at) => ({
        name: Buffer.concat([bytes(`user.${at}`), name(random() % 20, false)]),
        value: Buffer.from(Array.from({ length: random() % 300 }, () => random() & 0xff)),
      })),
    };
    const { raw, mtimeNsec, ...entry } = reread(member);
    t.same(entry, member, `round ${round}`);
    t.equal(mtimeNsec, 0);
    t.same(raw, rawHeaderOf(member));
  }
  t.end();
});
