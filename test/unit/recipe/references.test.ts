import t from 'tap';
import { closureOf, parseReferences, referencesSchema, storePathOf } from '../../../src/recipe/layered/references.ts';

const A = '/nix/store/a-1';
const B = '/nix/store/b-1';
const C = '/nix/store/c-1';

t.test('parseReferences() takes lists by path, and the output of nix path-info as a list and as an object', async (t) => {
  const plain = parseReferences(referencesSchema.parse({ [A]: [A, B], [B]: [] }));
  const list = parseReferences(
    referencesSchema.parse([
      { path: A, references: [A, B], narHash: 'sha256:x', narSize: 7, signatures: [] },
      { path: B, references: [], narSize: 5 },
    ]),
  );
  const map = parseReferences(referencesSchema.parse({ [A]: { references: [A, B], narSize: 7 }, [B]: { references: [], narSize: 5 } }));
  const edges = [
    [A, [B]],
    [B, []],
  ];
  for (const graph of [plain, list, map])
    t.strictSame(
      [...graph].map(([name, node]) => [name, node.references]),
      edges,
    );
  t.strictSame(
    [...list.values()].map(({ sizeBytes }) => sizeBytes),
    [7, 5],
  );
  t.strictSame(
    [...map.values()].map(({ sizeBytes }) => sizeBytes),
    [7, 5],
  );
  t.strictSame(
    [...plain.values()].map(({ sizeBytes }) => sizeBytes),
    [null, null],
  );
});

t.test('parseReferences() refuses a path that the store does not hold, and one without an entry', async (t) => {
  const gone = {
    code: 'E_RECIPE',
    message: `Cannot use recipe: /references/${A.replaceAll('/', '~1')}: the store it was listed from does not hold this path`,
  };
  t.throws(() => parseReferences({ [A]: null }), gone);
  t.throws(() => parseReferences([{ path: A, references: [], valid: false }]), gone);
  t.throws(() => parseReferences({ [A]: { references: [B] } }), { code: 'E_RECIPE', message: /which has no entry$/, hint: /--recursive/ });
});

t.test('referencesSchema refuses what is neither form, in words', async (t) => {
  for (const value of [3, 'x', { a: [] }, { [A]: 'x' }, [{ references: [] }], { [A]: [B], [B]: { references: [] } }]) {
    const result = referencesSchema.safeParse(value);
    t.equal(result.success, false, JSON.stringify(value));
    t.match(result.error?.issues[0]?.message, /nix path-info/);
  }
});

t.test('closureOf() gives what the roots need and no more, in the order of the paths', async (t) => {
  const graph = parseReferences({ [C]: [B], [A]: [], [B]: [] });
  t.strictSame([...closureOf(graph, [C], '/nix/store').keys()], [B, C]);
  t.strictSame([...closureOf(new Map(), [C, A], '/nix/store/').keys()], [A, C]);
  t.strictSame([...closureOf(graph, [], '/nix/store').keys()], []);
});

t.test('closureOf() follows a chain that is longer than the stack of calls', async (t) => {
  const name = (n: number): string => `/nix/store/${String(n).padStart(6, '0')}`;
  const chain = Object.fromEntries(Array.from({ length: 30_000 }, (_link, n) => [name(n), [name(n + 1)]]));
  t.equal(closureOf(parseReferences(chain), [name(0)], '/nix/store').size, 30_001);
});

t.test('closureOf() refuses a member outside the store directory, and a circle', async (t) => {
  t.throws(() => closureOf(parseReferences({ [A]: ['/opt/x'] }), [A], '/nix/store'), {
    code: 'E_RECIPE',
    message: 'Cannot use recipe: /references/~1nix~1store~1a-1: Expecting absolute paths from /nix/store, but got: "/opt/x"',
  });
  t.throws(() => closureOf(new Map(), ['/nix/storeroom/a'], '/nix/store'), { message: /^Cannot use recipe: \/closure: / });
  t.throws(() => closureOf(parseReferences({ [A]: [B], [B]: [A] }), [A], '/nix/store'), { message: /refers to itself by way of/ });
});

t.test('storePathOf() gives the path right below the store directory', async (t) => {
  const samples: [name: string, found: string | null][] = [
    [A, A],
    [`${A}/bin/x`, A],
    [`${A}/`, A],
    ['/nix/store', null],
    ['/nix/store/', null],
    ['/nix/store/../x', null],
    ['/usr/bin', null],
  ];
  for (const [name, found] of samples) t.equal(storePathOf(name, '/nix/store'), found, name);
});
