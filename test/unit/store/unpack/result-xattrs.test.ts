import t from 'tap';
import type { TarType } from '../../../../src/core/tar/entry.ts';
import { judgeResultXattr } from '../../../../src/store/unpack/result-xattrs.ts';

const judge = (name: string, value: string | Buffer = 'v', type: TarType = 'file'): string =>
  judgeResultXattr({ name: Buffer.from(name), value: Buffer.from(value) }, type);

/** One entry for user 1000 or for the given one. Source: acl(5). */
const acl = (id: number): Buffer => Buffer.from([2, 0, 0, 0, 2, 0, 6, 0, id & 255, (id >> 8) & 255, (id >> 16) & 255, 0]);

t.test('judgeResultXattr() keeps what a layer can hold', async (t) => {
  for (const name of ['user.a', 'user.overlayed', 'security.capability', 'system.posix_acl_access']) t.equal(judge(name), 'now', name);
  t.equal(judge('system.posix_acl_default', acl(1), 'directory'), 'later');
  t.equal(judge('system.posix_acl_access', acl(65_535)), 'now');
  t.equal(judge('system.posix_acl_access', acl(65_536)), 'later', 'an id beyond the map of the worker');
});

t.test('judgeResultXattr() takes one mark of overlayfs, on directories, and refuses the others', async (t) => {
  t.equal(judge('trusted.overlay.opaque', 'y', 'directory'), 'later');
  for (const value of ['x', 'n', '', 'yy']) t.equal(judge('trusted.overlay.opaque', value, 'directory'), 'refuse', value);
  t.equal(judge('trusted.overlay.opaque', 'y', 'file'), 'refuse');
  for (const name of ['redirect', 'metacopy', 'origin', 'impure', 'whiteout', 'overlay.opaque', '']) {
    t.equal(judge(`trusted.overlay.${name}`, 'y', 'directory'), 'refuse', name);
  }
});

t.test('judgeResultXattr() drops what a capture leaves out', async (t) => {
  for (const name of ['user.', 'user.overlay.opaque', 'trusted.a', 'security.selinux', 'security.ima', 'system.nfs4_acl', 'odd']) {
    t.equal(judge(name), 'drop', name);
  }
  t.equal(judge('system.posix_acl_default'), 'drop', 'on what is no directory');
  const capability = (rootId: number): Buffer => Buffer.from(`0100000300040000000000000000000000000000${rootId}0000000`, 'hex');
  t.equal(judge('security.capability', capability(0)), 'now');
  t.equal(judge('security.capability', capability(1)), 'drop', 'of another user namespace');
});

t.test('judgeResultXattr() refuses attributes of users on what can have none', async (t) => {
  for (const type of ['symlink', 'fifo', 'char', 'block', 'hardlink'] as const) t.equal(judge('user.a', 'v', type), 'refuse', type);
  t.equal(judge('user.a', 'v', 'directory'), 'now');
});
