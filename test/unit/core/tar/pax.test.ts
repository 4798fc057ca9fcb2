import t from 'tap';
import { archive, header, outcomeOf, pax, paxRaw, paxRecord } from '../../../helpers/tar-builder.ts';

const outcome = (body: string | Buffer): string => outcomeOf(archive(paxRaw(body), header()));

t.test('A20 a malformed PAX body is E_ARCHIVE_PAX, never skipped', (t) => {
  const good = paxRecord('comment', 'c').toString('latin1');
  const bodies = [
    'x',
    '\n',
    ' ',
    '\0',
    '=',
    '0 ',
    '0 a=b\n',
    '1 ',
    '2 \n',
    '3 =\n',
    '4 a=\n',
    '4 =b\n',
    '5 a=b\n',
    '6 a=b',
    '6 a=bc',
    '7 a=b\n',
    '06 a=b\n',
    '+6 a=b\n',
    '-6 a=b\n',
    ' 6 a=b\n',
    '6\ta=b\n',
    '6a=b\n',
    '6  a=b\n',
    '0x6 a=b\n',
    '6.0 a=b\n',
    '1e1 a=b\n',
    '9 comment\n',
    '10 comment\n',
    '11 comment=\n',
    '13 comment=x\r\n',
    '99 comment=x\n',
    '99999999999999999999 comment=x\n',
    '18446744073709551615 a=b\n',
    '4294967308 comment=x\n',
    `${good}x`,
    `${good}\0`,
    `${good}\n`,
    `${good}${'\0'.repeat(100)}`,
    `${good}5 a=b`,
    `${good}${good.slice(0, -1)}`,
    `${good.slice(0, -1)} ${good}`,
    'é',
    '٦ a=b\n',
    '1'.repeat(5000),
  ];
  for (const body of bodies) t.equal(outcome(Buffer.from(body)), 'E_ARCHIVE_PAX', JSON.stringify(body.slice(0, 40)));
  t.equal(outcome(`${good}${good}`), 'f:', 'control');
  t.equal(outcome(''), 'f:', 'control: no record at all');
  t.end();
});

t.test('A20 values of typed keys must be of their type', (t) => {
  const rows: [string, string][] = [
    ['size', ''],
    ['size', '-1'],
    ['size', '1.5'],
    ['size', '1e3'],
    ['size', '0x10'],
    ['size', ' 1'],
    ['size', '1\n'],
    ['size', '9007199254740992'],
    ['size', '18446744073709551616'],
    ['size', '9'.repeat(1000)],
    ['path', ''],
    ['linkpath', ''],
    ['hdrcharset', 'ISO-8859-1'],
    ['hdrcharset', ''],
    ['SCHILY.devmajor', 'x'],
    ['SCHILY.xattr.', 'x'],
    ['LIBARCHIVE.xattr.', 'eA'],
    ['LIBARCHIVE.xattr.user.a', 'no base64!'],
    ['LIBARCHIVE.xattr.user.a', 'eHl6e'],
    ['LIBARCHIVE.xattr.user.a', 'e==='],
    ['LIBARCHIVE.xattr.user.%', 'eA'],
    ['LIBARCHIVE.xattr.user.%4', 'eA'],
    ['LIBARCHIVE.xattr.user.%zz', 'eA'],
    ['LIBARCHIVE.creationtime', 'x'],
  ];
  for (const [key, value] of rows)
    t.equal(outcomeOf(archive(pax([[key, value]]), header())), 'E_ARCHIVE_PAX', `${key}=${value.slice(0, 30)}`);
  t.end();
});

t.test('A20 a path of digits is a name', (t) => {
  t.equal(outcomeOf(archive(pax([['path', '12345']]), header())), '12345:');
  t.equal(outcomeOf(archive(pax([['path', '1e3']]), header())), '1e3:');
  t.end();
});

t.test('A20 unknown keys are E_ARCHIVE_PAX', (t) => {
  for (const key of [
    'unknown',
    'Path',
    'PATH',
    'path ',
    ' path',
    'realtime.x',
    'security.x',
    'mode',
    'type',
    'SCHILY',
    'rht.x',
    'x.Y',
    '.x',
    '__proto__',
    'constructor',
  ]) {
    t.equal(outcomeOf(archive(pax([[key, '1']]), header())), 'E_ARCHIVE_PAX', key);
  }
  t.end();
});

t.test('parsePax() leaves alone what does not change a layer', (t) => {
  const rows: [string, string][] = [
    ['comment', 'any\0thing'],
    ['atime', '1.5'],
    ['ctime', '-1.5'],
    ['charset', 'ISO-IR 8859 1 1998'],
    ['hdrcharset', 'BINARY'],
    ['hdrcharset', 'ISO-IR 10646 2000 UTF-8'],
    ['uname', 'root'],
    ['gname', ''],
    ['LIBARCHIVE.creationtime', '1700000000.5'],
    ['LIBARCHIVE.symlinktype', 'file'],
    ['SCHILY.dev', '1'],
    ['SCHILY.ino', '2'],
    ['SCHILY.nlink', '3'],
    ['SCHILY.fflags', 'nodump'],
    ['SCHILY.acl.access', 'user::rwx'],
    ['RHT.security.selinux', 'system_u:object_r:etc_t:s0\0'],
    ['MSWINDOWS.fileattr', '32'],
    ['VENDOR.key', '='],
  ];
  for (const [key, value] of rows) t.equal(outcomeOf(archive(pax([[key, value]]), header())), 'f:', `${key}=${value}`);
  t.end();
});
