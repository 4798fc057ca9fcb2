import t from 'tap';
import { orderByPopularity, packageName, popularityOf } from '../../../src/recipe/layered/popularity.ts';
import { closureOf, parseReferences, type ReferenceGraph } from '../../../src/recipe/layered/references.ts';

const at = (name: string): string => `/nix/store/${name}`;

/** `A: 'BG'` is A, which refers to B and G. */
function graphOf(edges: Record<string, readonly string[]>, roots: readonly string[]): ReferenceGraph {
  const references = Object.fromEntries(Object.entries(edges).map(([name, list]) => [at(name), list.map(at)]));
  return closureOf(parseReferences(references), roots.map(at), '/nix/store');
}

function scores(graph: ReferenceGraph): Record<string, number> {
  return Object.fromEntries([...popularityOf(graph)].map(([name, score]) => [name.slice('/nix/store/'.length), Number(score)]));
}

const LETTERS = { A: ['B', 'G'], B: ['C', 'E'], C: ['D', 'E'], D: ['F'], E: ['F'] };

t.test('popularityOf() passes each score up increased by 1 a level, and adds what is shared', async (t) => {
  t.strictSame(scores(graphOf(LETTERS, ['A'])), { A: 1, B: 2, C: 3, D: 4, E: 5, F: 9, G: 2 });
  t.strictSame(scores(graphOf({ foo: ['bar', 'baz'], bar: ['baz'], baz: ['tux'] }, ['foo'])), { foo: 1, bar: 2, baz: 4, tux: 6 });
});

t.test('popularityOf() ignores that a path refers to itself', async (t) => {
  t.strictSame(scores(graphOf({ a: ['a', 'b'], b: ['b'] }, ['a'])), { a: 1, b: 2 });
});

t.test('popularityOf() counts beyond 2^53 without an error of rounding', async (t) => {
  const edges = Object.fromEntries(Array.from({ length: 80 }, (_, n) => [`n${n}`, [`l${n}`, `r${n}`]]));
  for (let n = 0; n < 80; n += 1) Object.assign(edges, { [`l${n}`]: [`n${n + 1}`], [`r${n}`]: [`n${n + 1}`] });
  const score = popularityOf(graphOf(edges, ['n0'])).get(at('n80')) ?? 0n;
  // From 4 right above the last pair, each pair of levels doubles it and adds 4; the root adds 1.
  t.equal(score, 2n ** 82n - 3n);
});

t.test('orderByPopularity() puts the highest score first, and equal ones by name', async (t) => {
  t.strictSame(orderByPopularity(graphOf(LETTERS, ['A'])), [...'FEDCBGA'].map(at));
});

t.test('orderByPopularity() orders equal scores by the name behind the hash', async (t) => {
  t.strictSame(
    orderByPopularity(graphOf({ 'zz-a': [], 'aa-b': [], 'bb-a': [] }, ['zz-a', 'aa-b', 'bb-a'])),
    ['bb-a', 'zz-a', 'aa-b'].map(at),
  );
});

t.test('packageName() moves what stands before the first dash behind', async (t) => {
  t.strictSame(packageName('/nix/store/abc-hello-2.12'), 'hello-2.12-abc');
  t.strictSame(packageName('/my-tools/abc'), 'abc');
});
