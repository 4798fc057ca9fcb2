import { compareText, type ReferenceGraph } from './references.ts';

/**
 * Gives how often each path is needed, in a tree that starts at the paths which nothing refers to and repeats what is shared: a path scores 1 where it
 * stands, and what a path below scored is passed up increased by 1 at each level. So a path gets, for itself and for each path above it, the number of ways
 * that lead there from the top. That number doubles with each fork, hence bigint. Source: nixpkgs, referencesByPopularity.
 */
export function popularityOf(closure: ReferenceGraph): Map<string, bigint> {
  const users = usersIn(closure);
  const ways = waysTo(users);
  return new Map([...closure.keys()].map((name) => [name, sumAbove(name, users, ways)]));
}

/** Gives the paths of a closure, the most popular first; equal ones by their names with the hash in front moved behind. */
export function orderByPopularity(closure: ReferenceGraph): string[] {
  const scores = popularityOf(closure);
  const scoreOf = (name: string): bigint => scores.get(name) ?? 0n;
  return [...closure.keys()].sort((a, b) => {
    if (scoreOf(a) !== scoreOf(b)) return scoreOf(a) > scoreOf(b) ? -1 : 1;
    return compareText(packageName(a), packageName(b));
  });
}

/** Gives a path's own name with the hash, the part before its first dash, moved to the end: a package keeps its place when only its hash changes. */
export function packageName(name: string): string {
  const [start = '', ...parts] = name.slice(name.lastIndexOf('/') + 1).split('-');
  return [...parts, start].join('-');
}

/** What refers to each path. */
function usersIn(closure: ReferenceGraph): Map<string, string[]> {
  const users = new Map<string, string[]>([...closure.keys()].map((name) => [name, []]));
  for (const [name, { references }] of closure) for (const reference of references) users.get(reference)?.push(name);
  return users;
}

function waysTo(users: ReadonlyMap<string, readonly string[]>): Map<string, bigint> {
  const ways = new Map<string, bigint>();
  const count = (name: string): bigint => {
    const above = users.get(name) ?? [];
    const found = ways.get(name) ?? (above.length === 0 ? 1n : above.reduce((sum, user) => sum + count(user), 0n));
    ways.set(name, found);
    return found;
  };
  for (const name of users.keys()) count(name);
  return ways;
}

function sumAbove(name: string, users: ReadonlyMap<string, readonly string[]>, ways: ReadonlyMap<string, bigint>): bigint {
  const seen = new Set([name]);
  // A set can grow while it is gone through.
  for (const at of seen) for (const user of users.get(at) ?? []) seen.add(user);
  return [...seen].reduce((sum, at) => sum + (ways.get(at) ?? 0n), 0n);
}
