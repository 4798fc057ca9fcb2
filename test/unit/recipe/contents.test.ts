import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t, { type Test } from 'tap';
import { type CopyOptions, copyToRoot } from '../../../src/recipe/tree/contents.ts';
import { Tree } from '../../../src/recipe/tree/tree.ts';
import { requires } from '../../helpers/requires.ts';

const signal = new AbortController().signal;
const dir = mkdtempSync(path.join(tmpdir(), 'contents-'));
t.teardown(() => {
  spawnSync('chmod', ['-R', 'u+rwX', dir]);
  rmSync(dir, { recursive: true, force: true });
});

/** What makes an item: text for a file, `-> target` for a link, null for a directory; names that end in `!` are made read-only directories. */
type Spec = Record<string, string | null>;

const TIME = 1_000_000;

function makeItem(root: string, spec: Spec): void {
  mkdirSync(root, { recursive: true });
  for (const [name, content] of Object.entries(spec)) {
    const full = path.join(root, name);
    mkdirSync(content === null ? full : path.dirname(full), { recursive: true });
    if (content?.startsWith('-> ')) symlinkSync(content.slice(3), full);
    else if (content !== null) {
      writeFileSync(full, content);
      utimesSync(full, TIME, TIME);
    }
  }
}

function options(keepDirlinks: boolean, more: Partial<CopyOptions> = {}): CopyOptions {
  return { keepDirlinks, quickCheck: true, place: 'copyToRoot', onItem: () => {}, onSkip: () => {}, ...more };
}

/** One line a file: path, type, mode, and what is in it. */
function linesOf(tree: Tree): string[] {
  return [...tree.entries()].map(({ path, node }) => {
    const start = `${path.toString('latin1')} ${node.type} ${node.type === 'symlink' ? '' : node.mode.toString(8)}`;
    if (node.type === 'symlink') return `${start}${node.target.toString('latin1')}`;
    if (node.type !== 'file' || node.source.kind !== 'path') return start;
    return `${start} ${readFileSync(node.source.path, 'latin1')} ${node.mtimeSec}`;
  });
}

function linesOnDisk(root: string): string[] {
  const lines: string[] = [];
  const walk = (inside: Buffer): void => {
    const full = Buffer.concat([Buffer.from(`${root}/`), inside]);
    const stats = lstatSync(full);
    const name = inside.toString('latin1');
    const mode = (stats.mode & 0o7777).toString(8);
    if (stats.isSymbolicLink()) lines.push(`${name} symlink ${readlinkSync(full, 'latin1')}`);
    else if (stats.isFile()) lines.push(`${name} file ${mode} ${readFileSync(full, 'latin1')} ${Math.floor(stats.mtimeMs / 1000)}`);
    else lines.push(`${name} ${stats.isDirectory() ? 'directory' : 'fifo'} ${mode}`);
    if (!stats.isDirectory()) return;
    for (const child of readdirSync(full, { encoding: 'buffer' }).sort(Buffer.compare)) {
      walk(inside.length === 0 ? child : Buffer.concat([inside, Buffer.from('/'), child]));
    }
  };
  walk(Buffer.alloc(0));
  return lines;
}

let cases = 0;

/** Makes the items, gives them to rsync one after the other and to copyToRoot, and compares. */
async function compare(
  t: Test,
  keepDirlinks: boolean,
  specs: Spec[],
  prepare: (root: string) => void = () => {},
): Promise<string[] | null> {
  cases += 1;
  const root = path.join(dir, `case-${cases}`);
  const items = specs.map((spec, index) => {
    const item = path.join(root, `item${index}`);
    makeItem(item, spec);
    return item;
  });
  prepare(root);
  const layer = path.join(root, 'layer');
  mkdirSync(layer);
  let status = 0;
  for (const item of items) {
    status ||= spawnSync('rsync', [`-a${keepDirlinks ? 'K' : 'k'}`, '--chown=0:0', `${item}/`, `${layer}/`]).status ?? 1;
  }
  const tree = new Tree();
  if (status !== 0) {
    await t.rejects(copyToRoot(tree, items, options(keepDirlinks), signal), { code: 'E_CONFLICT' }, `rsync ends with ${status}`);
    return null;
  }
  await copyToRoot(tree, items, options(keepDirlinks), signal);
  const lines = linesOf(tree);
  t.same(lines, linesOnDisk(layer));
  return lines;
}

const DIRLINK: Spec = { 'real/file': 'text', link: '-> real' };

t.test('copyToRoot() with -k makes a directory of a link to a directory of the item', async (t) => {
  if (!requires(t, 'rsync')) return;
  const lines = await compare(t, false, [DIRLINK]);
  t.ok(lines?.includes(`link/file file 644 text ${TIME}`));
});

t.test('copyToRoot() with -K keeps a link to a directory of the item', async (t) => {
  if (!requires(t, 'rsync')) return;
  const lines = await compare(t, true, [DIRLINK]);
  t.ok(lines?.includes('link symlink real'));
});

for (const keep of [false, true]) {
  const flag = keep ? '-K' : '-k';
  t.test(`copyToRoot() with ${flag} keeps links to files and links that lead nowhere`, async (t) => {
    if (!requires(t, 'rsync')) return;
    await compare(t, keep, [{ file: 'x', 'to-file': '-> file', nowhere: '-> missing/one' }]);
  });

  t.test(`copyToRoot() with ${flag} where a later item brings a directory in the place of a link to one`, async (t) => {
    if (!requires(t, 'rsync')) return;
    const lines = await compare(t, keep, [DIRLINK, { 'link/more': 'new' }]);
    t.ok(lines?.includes(keep ? `real/more file 644 new ${TIME}` : `link/more file 644 new ${TIME}`));
  });

  t.test(`copyToRoot() with ${flag} where a later item brings a directory in the place of a link that led nowhere before`, async (t) => {
    if (!requires(t, 'rsync')) return;
    await compare(t, keep, [{ link: '-> real' }, { 'link/more': 'new' }]);
    await compare(t, keep, [{ link: '-> real' }, { 'real/file': 'text' }, { 'link/more': 'new' }]);
    await compare(t, keep, [{ file: 'text', link: '-> file' }, { 'link/more': 'new' }]);
  });

  t.test(`copyToRoot() with ${flag} where a later item brings a link to a directory in the place of a filled one`, async (t) => {
    if (!requires(t, 'rsync')) return;
    const lines = await compare(t, keep, [{ 'link/a': '1' }, DIRLINK]);
    t.equal(lines === null, keep, 'the two differ');
  });

  t.test(`copyToRoot() with ${flag} refuses a link to a file in the place of a filled directory`, async (t) => {
    if (!requires(t, 'rsync')) return;
    t.equal(await compare(t, keep, [{ 'd/a': '1' }, { file: 'x', d: '-> file' }]), null);
    t.equal(await compare(t, keep, [{ 'd/a': '1' }, { d: '-> nowhere' }]), null);
    t.equal(await compare(t, keep, [{ 'd/a': '1' }, { d: 'a file' }]), null);
  });

  t.test(`copyToRoot() with ${flag} replaces an empty directory, and a file by a directory`, async (t) => {
    if (!requires(t, 'rsync')) return;
    await compare(t, keep, [
      { d: null, e: null, f: 'text' },
      { d: 'now a file', e: '-> d', 'f/x': 'in a directory' },
    ]);
  });

  t.test(`copyToRoot() with ${flag} merges directories and takes modes from the later item`, async (t) => {
    if (!requires(t, 'rsync')) return;
    await compare(
      t,
      keep,
      [
        { 'd/a': '1', 'd/b': '1' },
        { 'd/b': 'later', 'd/c': '2' },
      ],
      (root) => {
        chmodSync(path.join(root, 'item0/d/a'), 0o4755);
        chmodSync(path.join(root, 'item0/d'), 0o555);
        chmodSync(path.join(root, 'item1/d'), 0o700);
        chmodSync(path.join(root, 'item1'), 0o750);
      },
    );
  });

  t.test(`copyToRoot() with ${flag} takes names with spaces, quotes and bytes that are no UTF-8, and fifos`, async (t) => {
    if (!requires(t, 'rsync')) return;
    await compare(t, keep, [{ 'with space': '1', 'quote\'"': '2', 'sub dir/x': '3' }], (root) => {
      writeFileSync(Buffer.concat([Buffer.from(`${root}/item0/`), Buffer.from([0xff, 0xfe])]), 'raw');
      spawnSync('mkfifo', [path.join(root, 'item0/pipe')]);
    });
  });

  t.test(`copyToRoot() with ${flag} keeps the bytes of a file of the same size and time, as rsync's quick check does`, async (t) => {
    if (!requires(t, 'rsync')) return;
    const lines = await compare(t, keep, [
      { f: 'first', g: 'one' },
      { f: 'later', g: 'longer' },
    ]);
    t.ok(lines?.includes(`f file 644 first ${TIME}`));
  });
}

t.test('copyToRoot() without quick check lets the later file win', async (t) => {
  const first = path.join(dir, 'win1');
  const later = path.join(dir, 'win2');
  makeItem(first, { f: 'first' });
  makeItem(later, { f: 'later' });
  const tree = new Tree();
  await copyToRoot(tree, [first, later], options(false, { quickCheck: false }), signal);
  t.ok(linesOf(tree).includes(`f file 644 later ${TIME}`));
});

t.test('copyToRoot() with -k follows links to directories outside of the item, and refuses a loop', async (t) => {
  const item = path.join(dir, 'outside');
  makeItem(path.join(dir, 'elsewhere'), { 'deep/file': 'text' });
  makeItem(item, { link: '-> ../elsewhere' });
  const tree = new Tree();
  await copyToRoot(tree, [item], options(false), signal);
  t.ok(linesOf(tree).includes(`link/deep/file file 644 text ${TIME}`));
  symlinkSync('.', path.join(item, 'self'));
  await t.rejects(copyToRoot(new Tree(), [item], options(false), signal), {
    code: 'E_CONFLICT',
    message: /its link leads to a directory that it is in/,
  });
});

t.test('copyToRoot() with -K resolves links within the tree and never writes outside', async (t) => {
  const target = path.join(dir, 'host-target');
  makeItem(target, {});
  const linking = path.join(dir, 'linking');
  makeItem(linking, { inside: '-> /opt/../opt/real', 'opt/real/a': '1', outside: `-> ${target}` });
  const through = path.join(dir, 'through');
  makeItem(through, { 'inside/b': '2' });
  const tree = new Tree();
  await copyToRoot(tree, [linking, through], options(true), signal);
  t.ok(linesOf(tree).includes(`opt/real/b file 644 2 ${TIME}`));
  const escaping = path.join(dir, 'escaping');
  makeItem(escaping, { 'outside/c': '3' });
  await t.rejects(copyToRoot(tree, [escaping], options(true), signal), { code: 'E_CONFLICT', message: /which is not in the layer/ });
  t.same(readdirSync(target), []);
});

t.test('copyToRoot() puts an item that is a plain file into the root', async (t) => {
  const file = path.join(dir, 'single file');
  writeFileSync(file, 'alone', { mode: 0o600 });
  utimesSync(file, TIME, TIME);
  const tree = new Tree();
  await copyToRoot(tree, [file], options(false), signal);
  t.same(linesOf(tree), [' directory 755', `single file file 600 alone ${TIME}`]);
});

t.test('copyToRoot() names the place of an item that is not there', async (t) => {
  await t.rejects(copyToRoot(new Tree(), [path.join(dir, 'win1'), path.join(dir, 'missing')], options(false), signal), {
    code: 'E_RECIPE',
    message: /^Cannot use recipe: \/copyToRoot\/1: there is no file or directory ".*missing" that you may read$/,
  });
});

t.test('copyToRoot() leaves sockets out and says so', async (t) => {
  const item = path.join(dir, 'with-socket');
  makeItem(item, { f: '1' });
  const server = createServer().listen(path.join(item, 's'));
  await once(server, 'listening');
  const skipped: string[] = [];
  const tree = new Tree();
  await copyToRoot(tree, [item], options(false, { onSkip: (at) => skipped.push(path.basename(at.toString())) }), signal);
  server.close();
  t.same(skipped, ['s']);
  t.equal(tree.lookup(Buffer.from('s')), undefined);
});

t.test('copyToRoot() takes trees among its items, by the same rules', async (t) => {
  const item = path.join(dir, 'for-tree');
  makeItem(item, { link: '-> real', 'real/a': '1', 'd/full': '2' });
  const more = new Tree();
  const bytes = Buffer.from('3');
  const file = { type: 'file', mode: 0o644, uid: 0, gid: 0, mtimeSec: 0, size: 1, source: { kind: 'bytes', bytes } } as const;
  more.insertParents(Buffer.from('link/b'));
  more.insert(Buffer.from('link/b'), file);
  const tree = new Tree();
  await copyToRoot(tree, [item, more], options(true), signal);
  t.same(tree.names(Buffer.from('real')).map(String), ['a', 'b']);
  const wrong = new Tree();
  wrong.insert(Buffer.from('d'), file);
  await t.rejects(copyToRoot(tree, [wrong], options(true), signal), { code: 'E_CONFLICT' });
});
