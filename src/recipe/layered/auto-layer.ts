import { packageName } from './popularity.ts';
import { compareText, type ReferenceGraph } from './references.ts';

/** A path with what only it brings into the closure, itself included. */
type Piece = { readonly name: string; readonly parent: Piece | null; weight: number; isHead: boolean };

/**
 * Splits a closure into at most `maxGroups` groups by size: again and again, the path that weighs most together with its private dependencies (those
 * that nothing else of its group needs) gets a group of its own. Large programs and what only they need end up side by side, and the rest, which changes
 * least together, stays in the last group. `sizes` are in bytes. Equal weights go by name, so the same closure gives the same groups.
 */
export function splitBySize(closure: ReferenceGraph, sizes: ReadonlyMap<string, number>, maxGroups: number): string[][] {
  const pieces = piecesOf(closure, sizes);
  const heads: Piece[] = [];
  while (heads.length < maxGroups - 1) {
    const next = heaviest(pieces.filter((piece) => canSplit(piece, pieces)));
    if (next === undefined) break;
    next.isHead = true;
    heads.push(next);
    for (let above = next.parent; above !== null; above = above.parent) {
      above.weight -= next.weight;
      if (above.isHead) break;
    }
  }
  const members = (head: Piece | null): string[] => pieces.filter((piece) => headOf(piece) === head).map(({ name }) => name);
  return [...heads, null].map(members).filter((group) => group.length > 0);
}

/** Only what leaves something behind in its group makes one group more. */
function canSplit(piece: Piece, pieces: readonly Piece[]): boolean {
  if (piece.isHead) return false;
  const head = piece.parent === null ? null : headOf(piece.parent);
  return pieces.some((other) => headOf(other) === head && !isBelow(other, piece));
}

function heaviest(pieces: readonly Piece[]): Piece | undefined {
  return [...pieces].sort((a, b) => b.weight - a.weight || compareText(packageName(a.name), packageName(b.name)))[0];
}

function headOf(piece: Piece): Piece | null {
  let at: Piece | null = piece;
  while (at !== null && !at.isHead) at = at.parent;
  return at;
}

function isBelow(piece: Piece, top: Piece): boolean {
  let at: Piece | null = piece;
  while (at !== null && at !== top) at = at.parent;
  return at === top;
}

/** The tree of dominators: each path below the nearest one that every way to it passes through. */
function piecesOf(closure: ReferenceGraph, sizes: ReadonlyMap<string, number>): Piece[] {
  const order = topDown(closure);
  const users = new Map<string, string[]>(order.map((name) => [name, []]));
  for (const name of order) for (const used of closure.get(name)?.references ?? []) users.get(used)?.push(name);
  const pieces = new Map<string, Piece>();
  for (const name of order) {
    const above = (users.get(name) ?? []).map((user) => pieces.get(user) ?? null);
    const parent = above.reduce((a, b) => common(a, b), above[0] ?? null);
    pieces.set(name, { name, parent, weight: sizes.get(name) ?? 0, isHead: false });
  }
  for (const name of [...order].reverse()) {
    const piece = pieces.get(name);
    if (piece !== undefined && piece.parent !== null) piece.parent.weight += piece.weight;
  }
  return [...pieces.values()];
}

function common(a: Piece | null, b: Piece | null): Piece | null {
  const aboveA = new Set<Piece>();
  for (let at = a; at !== null; at = at.parent) aboveA.add(at);
  let at = b;
  while (at !== null && !aboveA.has(at)) at = at.parent;
  return at;
}

/** Each path in front of what it refers to. */
function topDown(closure: ReferenceGraph): string[] {
  const done = new Set<string>();
  const order: string[] = [];
  const visit = (name: string): void => {
    if (done.has(name)) return;
    done.add(name);
    for (const reference of closure.get(name)?.references ?? []) visit(reference);
    order.push(name);
  };
  for (const name of [...closure.keys()].sort(compareText).reverse()) visit(name);
  return order.reverse();
}
