import t from 'tap';
import { splitBySize } from '../../../src/recipe/layered/auto-layer.ts';
import { closureOf, parseReferences } from '../../../src/recipe/layered/references.ts';

/** `app` needs a large `gui` with its own `font`, a `db` with its own `lib`, and both need `libc`. */
const EDGES = { app: ['gui', 'db'], gui: ['font', 'libc'], db: ['lib', 'libc'], font: [], lib: [], libc: [] };
const SIZES = { app: 1, gui: 50, font: 40, db: 30, lib: 20, libc: 10 };

function split(maxGroups: number, sizes: Record<string, number> = SIZES): string[][] {
  const references = Object.fromEntries(Object.entries(EDGES).map(([name, list]) => [`/s/${name}`, list.map((one) => `/s/${one}`)]));
  const closure = closureOf(parseReferences(references), ['/s/app'], '/s');
  const named = new Map(Object.entries(sizes).map(([name, size]): [string, number] => [`/s/${name}`, size]));
  return splitBySize(closure, named, maxGroups).map((group) => group.map((name) => name.slice(3)).sort());
}

t.test('splitBySize() splits off the heaviest path with its private dependencies first', async (t) => {
  t.strictSame(split(1), [['app', 'db', 'font', 'gui', 'lib', 'libc']]);
  t.strictSame(split(2), [
    ['font', 'gui'],
    ['app', 'db', 'lib', 'libc'],
  ]);
  t.strictSame(split(3), [
    ['font', 'gui'],
    ['db', 'lib'],
    ['app', 'libc'],
  ]);
});

t.test('splitBySize() splits a group again when that is where the weight is', async (t) => {
  t.strictSame(split(4), [['gui'], ['db', 'lib'], ['font'], ['app', 'libc']]);
});

t.test('splitBySize() gives each path one group, never an empty one, whatever the limit', async (t) => {
  for (let max = 1; max <= 9; max += 1) {
    const groups = split(max);
    t.strictSame(groups.flat().sort(), Object.keys(EDGES).sort());
    t.equal(groups.length, Math.min(max, 6));
    t.ok(groups.every((group) => group.length > 0));
  }
});

t.test('splitBySize() decides between equal weights by name', async (t) => {
  const equal = Object.fromEntries(Object.keys(SIZES).map((name) => [name, 1]));
  t.strictSame(split(3, equal), split(3, equal));
  t.strictSame(split(2, equal), [
    ['db', 'lib'],
    ['app', 'font', 'gui', 'libc'],
  ]);
});
