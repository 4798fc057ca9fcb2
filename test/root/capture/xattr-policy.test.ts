import t from 'tap';
import { readXattrs } from '../../../src/capture/xattr-policy.ts';

const LIMIT = 1000;

function read(xattrs: Record<string, string>): ReturnType<typeof readXattrs> {
  const source = {
    list: () => Object.keys(xattrs).map((name) => Buffer.from(name, 'latin1')),
    get: (name: Buffer) => Buffer.from(xattrs[name.toString('latin1')] ?? '', 'latin1'),
  };
  return readXattrs(source, () => Buffer.from('etc/x'), LIMIT);
}

t.test('readXattrs() keeps, drops and ignores by name', (t) => {
  const fates: Record<string, 'keep' | 'drop' | 'ignore'> = {
    'user.a': 'keep',
    'user.overlay': 'keep',
    'user.overlay.opaque': 'drop',
    'user.overlay.overlay.opaque': 'drop',
    'system.posix_acl_access': 'keep',
    'system.posix_acl_default': 'keep',
    'system.nfs4_acl': 'drop',
    'security.selinux': 'drop',
    'security.ima': 'drop',
    'security.capability.x': 'drop',
    'trusted.overlay.origin': 'ignore',
    'trusted.overlay.impure': 'ignore',
    'trusted.overlay.overlay.redirect': 'ignore',
    'trusted.other': 'drop',
    'com.apple.x': 'drop',
  };
  for (const [name, fate] of Object.entries(fates)) {
    const { kept, dropped } = read({ [name]: 'v' });
    const found = kept.length > 0 ? 'keep' : dropped.length > 0 ? 'drop' : 'ignore';
    t.equal(found, fate, name);
  }
  t.end();
});

t.test('readXattrs() sorts by the bytes of the names', (t) => {
  const { kept } = read({ 'user.b': '1', 'user.\xff': '2', 'user.a': '3', 'user.B': '4' });
  t.strictSame(
    kept.map(({ name }) => name.toString('latin1')),
    ['user.B', 'user.a', 'user.b', 'user.\xff'],
  );
  t.end();
});

t.test('readXattrs() tells the marks of overlayfs', (t) => {
  t.strictSame(
    ['y', 'x', 'n', ''].map((value) => read({ 'trusted.overlay.opaque': value }).opaque),
    ['y', 'x', 'no', 'no'],
  );
  t.equal(read({ 'trusted.overlay.whiteout': '' }).isWhiteout, true);
  t.equal(read({ 'user.a': '' }).isWhiteout, false);
  t.end();
});

t.test('readXattrs() counts names and values up to the limit', (t) => {
  t.equal(read({ 'user.a': 'x'.repeat(LIMIT - 6) }).kept.length, 1);
  t.throws(() => read({ 'user.a': 'x'.repeat(LIMIT - 5) }), { code: 'E_LIMIT_XATTR', message: /"etc\/x"/ });
  t.end();
});
