import { compareText, type ReferenceGraph } from './references.ts';

/**
 * Gives how often each path is needed, in a tree that starts at the paths which nothing refers to and repeats what is shared: a path scores 1 where it
 * stands, and what a path below scored is passed up increased by 1 at each level. Scores grow with the number of ways through the graph, hence bigint.
 * Source: nixpkgs, referencesByPopularity.
 */
export function popularityOf(closure: ReferenceGraph): Map<string, bigint> {
  const referred = new Set([...closure.values()].flatMap(({ references }) => references));
  const contests = new Map<string, Map<string, bigint>>();
  const contest = (children: readonly string[]): Map<string, bigint> => {
    const scores = new Map<string, bigint>();
    for (const child of children) {
      add(scores, child, 1n);
      for (const [name, score] of below(child)) add(scores, name, score + 1n);
    }
    return scores;
  };
  const below = (name: string): Map<string, bigint> => {
    const known = contests.get(name) ?? contest(closure.get(name)?.references ?? []);
    contests.set(name, known);
    return known;
  };
  return contest([...closure.keys()].filter((name) => !referred.has(name)));
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

function add(scores: Map<string, bigint>, name: string, score: bigint): void {
  scores.set(name, (scores.get(name) ?? 0n) + score);
}
