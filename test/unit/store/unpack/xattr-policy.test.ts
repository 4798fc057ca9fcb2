import t from 'tap';
import { DroppedXattrs, judgeXattr } from '../../../../src/store/unpack/xattr-policy.ts';

t.test('judgeXattr() knows each name space', async (t) => {
  const verdicts = {
    'user.x': 'set',
    'user.overlay': 'set',
    'security.capability': 'set',
    'system.posix_acl_access': 'acl',
    'system.posix_acl_default': 'default-acl',
    'user.overlay.opaque': 'refuse',
    'trusted.overlay.redirect': 'refuse',
    'trusted.x': 'refuse',
    'security.selinux': 'drop',
    'security.capability.x': 'drop',
    'system.other': 'drop',
    'user.': 'drop',
    'USER.x': 'drop',
    x: 'drop',
  };
  for (const [name, verdict] of Object.entries(verdicts)) t.equal(judgeXattr(Buffer.from(name)), verdict, name);
});

t.test('DroppedXattrs.warning() names each attribute once, escaped, and a few at most', async (t) => {
  const dropped = new DroppedXattrs();
  t.equal(dropped.warning(), null);
  for (const name of ['b', 'a\n', 'b']) dropped.add(Buffer.from(name));
  t.equal(dropped.warning(), 'dropped 3 extended attributes: a\\x0a, b');
  for (let more = 0; more < 1000; more += 1) dropped.add(Buffer.from(`name-${more}`));
  t.match(dropped.warning(), /^dropped 1003 extended attributes: /);
  t.ok((dropped.warning() ?? '').length < 1200);
});
