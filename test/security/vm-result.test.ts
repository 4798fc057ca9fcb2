/**
 * Hostile guests, as far as the tar goes that one sends as its result: the archives of spec/threats.md A, and what only a guest can do. All through the
 * real worker, by a pipe.
 */
import { readdirSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import { RootlayerError } from '../../src/core/errors.ts';
import type { Upper } from '../../src/overlay/upper.ts';
import { finishResult } from '../../src/store/unpack/finish-result.ts';
import type { LateNode } from '../../src/store/unpack/result-protocol.ts';
import { requires } from '../helpers/requires.ts';
import { archive, END, header, seededRandom } from '../helpers/tar-builder.ts';
import { ResultHarness, type ResultOptions, upperPath } from '../root/unpack/result-harness.ts';
import { census, codeOf, removeScratch, sketch, WorkerShare } from '../root/unpack/staging.ts';
import {
  type ArchiveRow,
  canary,
  device,
  dir,
  file,
  hardLink,
  makeSurroundings,
  outside,
  rows,
  scratch,
  store,
  symlink,
} from './hostile-archives.ts';

requires(t, 'root', 'userns', 'launcher', 'loop');
t.setTimeout(300_000);

const results = await ResultHarness.start(t, 'vm-result');
t.before(makeSurroundings);
t.teardown(() => removeScratch(scratch));

const root = dir('./');

/** Sends archives to a new upper each, and gives their outcome in the words of the table. */
async function outcome(tar: Iterable<Buffer>, options: ResultOptions = {}): Promise<string | string[]> {
  const upper = await results.newUpper();
  try {
    const code = await codeOf(() => results.unpack(upper, tar, options));
    return code === 'none' ? sketch(upperPath(upper)) : code;
  } finally {
    t.same(besides(upper), ['lost+found', 'up', 'work'], 'nothing is made next to the upper directory');
    await results.close(upper);
  }
}

function besides(upper: Upper): string[] {
  return [...readdirSync(`${upperPath(upper)}/..`).sort(), ...readdirSync(`${upperPath(upper)}/../work`)];
}

async function failure(tar: Iterable<Buffer>, options: ResultOptions = {}): Promise<RootlayerError | null> {
  const upper = await results.newUpper();
  try {
    await results.unpack(upper, tar, options);
    return null;
  } catch (error) {
    if (error instanceof RootlayerError) return error;
    throw error;
  } finally {
    await results.close(upper);
  }
}

/** Whose trees come about only by what a result may not do: replace, go over symlinks, begin with a slash, leave out directories. */
const ONLY_FOR_LAYERS = new Set(['A02', 'A03', 'A04', 'A05', 'A12', 'A16', 'A47']);

/** Whiteouts of layers: as names of an upper directory they mean nothing, until the capture refuses them. */
const WHITEOUT_NAMES = new Set(['A34', 'A35', 'A36', 'A37', 'A38']);

/** What else is not for results as it is for layers. */
const DIFFERENT: Readonly<Record<string, string | string[]>> = {
  'A01 names that only look like the parent': 'E_ARCHIVE_PATH',
  'A07 backslashes and drives': 'E_ARCHIVE_PATH',
  'A08 to an absolute path in the layer': 'E_ARCHIVE_LINK',
  'A11 to a symlink, then written through': 'E_ARCHIVE_PATH',
  'A13 to itself': 'E_ARCHIVE_PATH',
  'A13 to a skipped device': 'E_ARCHIVE_PATH',
  'A13 of a symlink that is taken away': 'E_ARCHIVE_PATH',
  'A14 a directory named "./"': 'E_ARCHIVE_PATH',
  'A15 a directory over a link': 'E_ARCHIVE_PATH',
  'A15 a file over a link': 'E_ARCHIVE_PATH',
  'A15 a FIFO over a link': 'E_ARCHIVE_PATH',
  'A15 a link with mode, owner and attributes': 'E_ARCHIVE_XATTR',
  'A28 a second archive behind the first': 'E_ARCHIVE_TRAILING',
  'A39 the attribute user.overlay.opaque': ['f=x'],
  'A39 the attribute user.overlay.redirect': ['f=x'],
  'A39 the attribute trusted.other': ['f=x'],
  'A39 a refused attribute on a directory': ['d/ opaque'],
  'A39 a whiteout node': ['x!'],
  'A39 a whiteout node below dev': 'E_ARCHIVE_PATH',
  'A40 a disk': ['sda%'],
  'A40 a disk below dev': 'E_ARCHIVE_PATH',
  'A40 below a dev that is not the root’s': 'E_ARCHIVE_PATH',
  'A40 below a name that starts like dev': 'E_ARCHIVE_PATH',
  'A40 dev itself': ['dev%'],
  'A40 through a link to dev': 'E_ARCHIVE_PATH',
  'A45 the uid 65536': ['f='],
  'A45 the gid 65536': ['f='],
  'A45 the uid 2^21-1': ['f='],
  'A45 the gid 2^21-1': ['f='],
  'A49 256 components': 'E_ARCHIVE_PATH',
  'A49 a path of 4,095 bytes': 'E_ARCHIVE_PATH',
};

function wantOf({ id, what, want }: ArchiveRow): string | string[] {
  const different = DIFFERENT[`${id} ${what}`];
  if (different !== undefined) return different;
  return typeof want === 'string' ? want : ONLY_FOR_LAYERS.has(id) ? 'E_ARCHIVE_PATH' : [...want].sort();
}

t.test('unpackResult() keeps to its directory, whatever archive a guest sends', async (t) => {
  // The first child process of a Node process opens descriptors that stay.
  await outcome([root, END]);
  const before = await census();
  {
    await using workers = new WorkerShare(40);
    for (const row of rows) {
      if (row.isWorkerOnly === true) continue;
      const name = `${row.id}: ${row.what}`;
      const canaries = outside();
      const found = await outcome([root, row.tar], { takeWorker: workers.take });
      if (WHITEOUT_NAMES.has(row.id)) hidesNothing(t, found, name);
      else t.same(found, wantOf(row), name);
      t.same(outside(), canaries, `${name}: nothing outside has changed`);
    }
  }
  t.same(await census(), before, 'no process and no descriptor is left');
});

function hidesNothing(t: Test, found: string | string[], name: string): void {
  if (typeof found === 'string') t.equal(found, 'E_ARCHIVE_PATH', name);
  else
    t.notOk(
      found.some((line) => line.endsWith('!') || line.endsWith(' opaque')),
      `${name}: ${found.join(' ')}`,
    );
}

t.test('unpackResult() refuses what breaks the order of a result', async (t) => {
  await using workers = new WorkerShare(20);
  const cases: Record<string, Buffer[]> = {
    'no member': [],
    'a file before the root': [file('f'), root],
    'the root twice': [root, file('f'), root],
    'a file before its directory': [root, file('d/f'), dir('d')],
    'a device twice': [root, device('x', '3', 1, 3), device('x', '3', 1, 3)],
    'a device, then a file': [root, device('x', '4', 8, 0), file('x', '1')],
    'a file, then a device': [root, file('x', '1'), device('x', '4', 8, 0)],
    'a device as a directory': [root, device('x', '4', 8, 0), file('x/y')],
    'a whiteout, then a file': [root, device('x', '3', 0, 0), file('x', '1')],
    'a whiteout as a directory': [root, device('x', '3', 0, 0), file('x/y', '1')],
    'a device over a link': [root, symlink('l', canary), device('l/x', '4', 8, 0)],
    'a name above 64 KiB': [root, file(`${'d/'.repeat(32_768)}f`)],
  };
  for (const [what, members] of Object.entries(cases)) {
    t.equal(await outcome([archive(...members)], { takeWorker: workers.take }), 'E_ARCHIVE_PATH', what);
  }
  const links: Record<string, Buffer[]> = {
    'to a device that comes later': [hardLink('b', 'a'), device('a', '3', 1, 3)],
    'to an absolute device': [device('a', '3', 1, 3), hardLink('b', '/a')],
    'out of it': [device('a', '3', 1, 3), hardLink('b', '../a')],
  };
  for (const [what, members] of Object.entries(links)) {
    t.equal(await outcome([root, archive(...members)], { takeWorker: workers.take }), 'E_ARCHIVE_LINK', `a hard link ${what}`);
  }
});

t.test('unpackResult() says that the guest sent it', async (t) => {
  const error = await failure([root, archive(file('a\n/../x'))]);
  t.equal(
    error?.message,
    'Cannot take the result of the virtual machine: cannot unpack member "a\\x0a/../x": a component of its path is ".."',
  );
  t.match(error?.hint, /^No untouched guest sends that/);
});

function* endless(first: readonly Buffer[], piece: Buffer): Generator<Buffer> {
  yield* first;
  for (;;) yield piece;
}

t.test('unpackResult() ends a guest that floods, at its limits', async (t) => {
  const mib = Buffer.alloc(1024 * 1024, 'x');
  const limits = { maxBytes: 32 * 1024 * 1024, maxEntries: 5000 };
  const huge = header({ name: 'f', size: limits.maxBytes });
  const floods: Record<string, Iterable<Buffer>> = {
    'one endless file': endless([root, header({ name: 'f', size: 8 ** 11 - 1 })], mib),
    'a file as long as the limit, and its header': endless([root, huge], mib),
    'a file of endless zeros': endless([root, huge], Buffer.alloc(mib.length)),
    'zeros behind the end': endless([root, END], Buffer.alloc(mib.length)),
    'endless members': (function* () {
      yield root;
      for (let n = 0; ; n += 1) yield file(`f${n}`);
    })(),
  };
  for (const [what, flood] of Object.entries(floods)) {
    const error = await failure(flood, { limits });
    t.equal(error?.code, 'E_LIMIT_RESULT', what);
    t.match(error?.message, /^Cannot take the result of the virtual machine: /, what);
  }
  const garbage = await failure(endless([root, END], mib), { limits });
  t.equal(garbage?.code, 'E_ARCHIVE_TRAILING', 'garbage behind the end');
});

t.test('unpackResult() bounds what the worker leaves to the daemon', async (t) => {
  const devices = (function* () {
    yield root;
    for (let n = 0; n < 200_000; n += 1) yield device(`d${n}`, '3', 1, 3);
    yield END;
  })();
  t.equal((await failure(devices))?.code, 'E_LIMIT_RESULT');
});

t.test('unpackResult() tells a full disk', async (t) => {
  const body = Buffer.alloc(1024 * 1024, 'x');
  const big = Array.from({ length: 80 }, (_unused, n) => file(`f${n}`, body.toString('latin1')));
  t.equal((await failure([root, archive(...big)]))?.code, 'E_LIMIT_DISK');
});

t.test('unpackResult() ends with its signal when a guest never ends', async (t) => {
  const late = new RootlayerError('E_LIMIT_TIME', 'too late');
  for (const first of [[], [root], [root, header({ name: 'f', size: 1000 })]]) {
    const controller = new AbortController();
    const timer = setTimeout(() => controller.abort(late), 400);
    // A guest that has nothing more to say, and one that goes on.
    const silence = (async function* () {
      yield* first;
      await new Promise((resolve) => controller.signal.addEventListener('abort', resolve));
    })();
    const upper = await results.newUpper();
    await t.rejects(results.unpack(upper, silence, { signal: controller.signal }), late);
    clearTimeout(timer);
    await results.close(upper);
  }
});

t.test('unpackResult() refuses each cut and each kind of garbage', async (t) => {
  await using workers = new WorkerShare(100);
  const whole = Buffer.concat([root, archive(dir('d'), file('d/f', 'x'.repeat(600)), symlink('d/l', 'f'), device('w', '3', 0, 0))]);
  for (let length = 0; length <= whole.length - END.length; length += 512) {
    t.equal(await outcome([whole.subarray(0, length)], { takeWorker: workers.take }), 'E_ARCHIVE_TRUNCATED', `${length} bytes`);
  }
  const random = seededRandom(11);
  for (let round = 0; round < 150; round += 1) {
    const tar = Buffer.from(whole);
    for (let flips = 1 + (random() % 4); flips > 0; flips -= 1) tar[random() % tar.length] = random() & 0xff;
    const cut = tar.subarray(0, random() % 4 === 0 ? random() % tar.length : tar.length);
    const found = await outcome([cut], { takeWorker: workers.take });
    t.ok(typeof found !== 'string' || found.startsWith('E_ARCHIVE_'), `round ${round}: ${String(found)}`);
  }
  const noise = Buffer.alloc(100_000, 0).map(() => random() & 0xff);
  t.equal(await outcome([Buffer.from(noise)], { takeWorker: workers.take }), 'E_ARCHIVE_HEADER', 'noise');
});

t.test('finishResult() stays in the directory, whatever a worker that was taken over asks for', async (t) => {
  const upper = await results.newUpper();
  for (const [name, target] of [
    ['l', path.join(store, 'victim')],
    ['parent', '..'],
  ] as const) {
    symlinkSync(target, `${upperPath(upper)}/${name}`);
  }
  const owner = { uid: 0, gid: 0, mode: 0o666 };
  const encoded = (name: string): string => Buffer.from(name).toString('base64');
  const node = (name: string): LateNode => ({ kind: 'char', path: encoded(name), major: 1, minor: 3, owner, mtimeSec: 0, mtimeNsec: 0 });
  const before = outside();
  const { signal } = new AbortController();
  for (const name of ['../x', 'l/x', 'parent/x', 'd/../../x', '..', 'a\0/../../x', `l/${'y/'.repeat(3000)}x`]) {
    const attributes = { path: encoded(name), owner, xattrs: [{ name: 'trusted.overlay.opaque' as const, value: encoded('y') }] };
    await t.rejects(finishResult(upper.plainDirFd, { nodes: [node(name)], attributes: [] }, signal), RootlayerError, `a device at ${name}`);
    await t.rejects(
      finishResult(upper.plainDirFd, { nodes: [], attributes: [attributes] }, signal),
      RootlayerError,
      `attributes of ${name}`,
    );
    const link: LateNode = { kind: 'link', path: encoded('new'), target: encoded(name) };
    await t.rejects(finishResult(upper.plainDirFd, { nodes: [link], attributes: [] }, signal), RootlayerError, `a link to ${name}`);
  }
  const attributes = { path: encoded('l'), owner: { uid: 70_000, gid: 7, mode: 0o4777 }, xattrs: [] };
  await finishResult(upper.plainDirFd, { nodes: [], attributes: [attributes] }, signal);
  t.same(outside(), before, 'what a symlink points to is not touched either');
  t.same(sketch(upperPath(upper)), [`l->${store}/victim`, 'parent->..']);
  t.same(besides(upper), ['lost+found', 'up', 'work']);
  await results.close(upper);
});
