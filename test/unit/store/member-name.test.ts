import t from 'tap';
import { parseMemberName, resolveLink } from '../../../src/store/ingest/member-name.ts';

const HEX = 'ab'.repeat(32);

t.test('parseMemberName() takes the names of all image archives', async (t) => {
  const rows: [string, string][] = [
    ['manifest.json', 'manifest.json'],
    ['./manifest.json', 'manifest.json'],
    ['././manifest.json', 'manifest.json'],
    ['./', ''],
    ['.', ''],
    ['', ''],
    [`${HEX}/`, HEX],
    [`./${HEX}/layer.tar`, `${HEX}/layer.tar`],
    [`blobs/sha256/${HEX}`, `blobs/sha256/${HEX}`],
    [`sha256:${HEX}`, `sha256:${HEX}`],
    ['abc.tar.gz', 'abc.tar.gz'],
  ];
  for (const [name, parsed] of rows) t.equal(parseMemberName(Buffer.from(name)), parsed, name);
});

t.test('parseMemberName() refuses all others (A64)', async (t) => {
  const rows = [
    ...[
      '..',
      '../x',
      'a/../b',
      'a/..',
      './..',
      '/etc/shadow',
      '//x',
      'a//b',
      'a/./b',
      '.hidden',
      'a/.wh.b',
      'a\nb',
      'a\0b',
      'a b',
      'a\\b',
      '-x',
    ],
    ...['\u00e9', 'a/b/c/d/e/f', 'x'.repeat(256), `${'a/'.repeat(4)}${'b'.repeat(256)}`, 'a//', './/', '/'],
  ];
  for (const name of rows) t.throws(() => parseMemberName(Buffer.from(name)), { code: 'E_ARCHIVE_PATH' }, JSON.stringify(name));
  t.throws(() => parseMemberName(Buffer.from([0x61, 0xff])), { code: 'E_ARCHIVE_PATH', message: /a\\xff/ });
});

t.test('resolveLink() counts symlinks from their directory and hard links from the root', async (t) => {
  t.equal(resolveLink('a/layer.tar', 'symlink', Buffer.from('../b.tar')), 'b.tar');
  t.equal(resolveLink('a/layer.tar', 'symlink', Buffer.from('b.tar')), 'a/b.tar');
  t.equal(resolveLink('a/layer.tar', 'symlink', Buffer.from('./../c/./layer.tar')), 'c/layer.tar');
  t.equal(resolveLink('a/layer.tar', 'hardlink', Buffer.from('b/layer.tar')), 'b/layer.tar');
  t.equal(resolveLink('a/layer.tar', 'hardlink', Buffer.from('./b.tar')), 'b.tar');
});

t.test('resolveLink() never leaves the archive (A64)', async (t) => {
  const rows = ['../../x', '../..', '/x', '/', '//x', '../../../etc/shadow', '../../a/b.tar', 'x\0', '..\\x', '../.hidden', '../\xff'];
  for (const target of rows) {
    t.throws(
      () => resolveLink('a/layer.tar', 'symlink', Buffer.from(target, 'latin1')),
      { code: 'E_ARCHIVE_LINK' },
      JSON.stringify(target),
    );
  }
  t.throws(() => resolveLink('a/layer.tar', 'hardlink', Buffer.from('../x')), { code: 'E_ARCHIVE_LINK' });
});
