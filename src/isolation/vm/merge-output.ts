import type { GuestEvent } from './stream-reader.ts';

type Piece = Extract<GuestEvent, { kind: 'output' | 'result' }>;
type Held = { first: Piece; parts: Buffer[] };

/**
 * Joins pieces that came together, of each output and of the result: as from a pipe, many small writes become one, so that a guest cannot make a log of single
 * bytes. The order within a stream stays; that between standard output and error is lost, as it is with pipes.
 */
export function* mergeOutput(events: Iterable<GuestEvent>): Generator<GuestEvent, void> {
  const held = new Map<string, Held>();
  for (const event of events) {
    if (event.kind === 'output' || event.kind === 'result') {
      hold(held, event);
      continue;
    }
    yield* flush(held);
    yield event;
  }
  yield* flush(held);
}

function hold(held: Map<string, Held>, piece: Piece): void {
  const key = piece.kind === 'output' ? piece.stream : piece.kind;
  const known = held.get(key);
  if (known === undefined) held.set(key, { first: piece, parts: [piece.bytes] });
  else known.parts.push(piece.bytes);
}

function* flush(held: Map<string, Held>): Generator<GuestEvent, void> {
  for (const { first, parts } of held.values()) yield parts.length === 1 ? first : { ...first, bytes: Buffer.concat(parts) };
  held.clear();
}
