import t from 'tap';
import { parseEntryPath, RESULT_PATH_LIMITS } from '../../../../src/store/unpack/entry-path.ts';

function split(name: string): [parent: string, name: string, hasWhiteoutParent: boolean] {
  const path = parseEntryPath(Buffer.from(name, 'latin1'));
  return [path.parent.toString('latin1'), path.name.toString('latin1'), path.hasWhiteoutParent];
}

t.test('parseEntryPath() drops slashes and dots that mean nothing', async (t) => {
  for (const name of ['a/b/c', '/a/b/c', './a/b/c', 'a//b/./c', 'a/b/c/', '././/a/b/././c/.', '//a/b/c//']) {
    t.same(split(name), ['a/b', 'c', false], name);
  }
  t.same(split('c'), ['', 'c', false]);
});

t.test('parseEntryPath() gives the root an empty name', async (t) => {
  for (const name of ['.', './', '/', '//', '/./.']) t.same(split(name), ['', '', false], name);
});

t.test('parseEntryPath() keeps any other bytes', async (t) => {
  t.same(split('..a/...\xff\n\\'), ['..a', '...\xff\n\\', false]);
});

t.test('parseEntryPath() tells a whiteout on the way from one at the end', async (t) => {
  t.same(split('a/.wh.b'), ['a', '.wh.b', false]);
  t.same(split('.wh.a/b'), ['.wh.a', 'b', true]);
  t.same(split('.wh.a/.wh.b'), ['.wh.a', '.wh.b', true]);
  t.same(split('.wh/b'), ['.wh', 'b', false]);
});

t.test('parseEntryPath() refuses what leads out or is too long, with the code asked for', async (t) => {
  for (const name of ['', '..', 'a/..', '../a', 'a/../b', '/..', 'n'.repeat(256), 'd/'.repeat(257), 'dd/'.repeat(2000)]) {
    t.throws(() => parseEntryPath(Buffer.from(name)), { code: 'E_ARCHIVE_PATH' }, name.slice(0, 20));
    t.throws(() => parseEntryPath(Buffer.from(name), 'E_ARCHIVE_LINK', Buffer.from('l')), {
      code: 'E_ARCHIVE_LINK',
      message: /member "l"/,
    });
  }
});

t.test('parseEntryPath() takes other bounds', async (t) => {
  const parse = (name: string): number =>
    parseEntryPath(Buffer.from(name), 'E_ARCHIVE_PATH', Buffer.from(name), RESULT_PATH_LIMITS).parent.length;
  t.equal(parse('d/'.repeat(32_768)), 65_533);
  for (const name of ['d/'.repeat(32_769), 'n'.repeat(256), `${`${'n'.repeat(255)}/`.repeat(256)}n`, 'd/../d']) {
    t.throws(() => parse(name), { code: 'E_ARCHIVE_PATH' }, name.slice(0, 20));
  }
});
