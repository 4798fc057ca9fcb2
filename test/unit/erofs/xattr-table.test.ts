import t from 'tap';
import { XattrTable } from '../../../src/erofs/xattr-table.ts';

const at = (): Buffer => Buffer.from('some/file');
const xattr = (name: string, value: string | Buffer): { name: Buffer; value: Buffer } => ({
  name: Buffer.from(name),
  value: Buffer.from(value),
});

t.test('XattrTable.encode() writes an attribute with its file at first, and shares it from the second file on', async (t) => {
  const table = new XattrTable();
  t.same(table.encode([], at), { bytes: Buffer.alloc(0), words: 0 });
  const first = table.encode([xattr('user.a', 'xyz')], at);
  t.equal(first.bytes.toString('hex'), `${'00'.repeat(12)}01010300${Buffer.from('axyz').toString('hex')}`);
  t.equal(first.words, 3);
  t.equal(table.sharedArea().length, 0);
  const second = table.encode([xattr('user.a', 'xyz')], at);
  t.same(second, table.encode([xattr('user.a', 'xyz')], at));
  t.equal(second.bytes.toString('hex'), '000000000100000000000000' + '00000000');
  t.equal(second.words, 2);
  t.equal(table.sharedArea().toString('hex'), `01010300${Buffer.from('axyz').toString('hex')}`);
});

t.test('XattrTable.encode() gives each prefix its number, sorts by name, and leaves out what has none', async (t) => {
  const names = [
    'trusted.t',
    'user.u',
    'security.s',
    'system.posix_acl_default',
    'system.posix_acl_access',
    'btrfs.compression',
    'system.other',
  ];
  const { bytes } = new XattrTable().encode(
    names.map((name) => xattr(name, '')),
    at,
  );
  const entries: string[] = [];
  for (let offset = 12; offset < bytes.length; ) {
    const length = bytes.readUInt8(offset);
    entries.push(`${bytes.readUInt8(offset + 1)} ${bytes.toString('latin1', offset + 4, offset + 4 + length)}`);
    offset += Math.ceil((4 + length) / 4) * 4;
  }
  t.same(entries, ['6 s', '2 ', '3 ', '4 t', '1 u']);
  t.same(new XattrTable().encode([xattr('btrfs.compression', 'zstd')], at), { bytes: Buffer.alloc(0), words: 0 });
});

t.test('XattrTable.encode() refuses what the format cannot hold', async (t) => {
  const table = new XattrTable();
  t.throws(() => table.encode([xattr('user.a', Buffer.alloc(65_536))], at), { code: 'E_LIMIT_XATTR', message: /some\/file/ });
  const many = ['a', 'b', 'c', 'd', 'e'].map((name) => xattr(`user.${name}`, Buffer.alloc(60_000, name)));
  t.equal(table.encode(many.slice(0, 4), at).bytes.length, 12 + 4 * 60_008);
  t.throws(() => new XattrTable().encode(many, at), { code: 'E_LIMIT_XATTR' });
});
