import type { GuestEvent } from './stream-reader.ts';

type Output = { stream: 'stdout' | 'stderr'; parts: Buffer[] };

/** Joins pieces of output that came together: as from a pipe, many small writes become one, so that a guest cannot make a log of single bytes. */
export function* mergeOutput(events: Iterable<GuestEvent>): Generator<GuestEvent, void> {
  let held: Output | null = null;
  for (const event of events) {
    if (event.kind === 'output' && held?.stream === event.stream) {
      held.parts.push(event.bytes);
      continue;
    }
    if (held !== null) yield joined(held);
    held = event.kind === 'output' ? { stream: event.stream, parts: [event.bytes] } : null;
    if (event.kind !== 'output') yield event;
  }
  if (held !== null) yield joined(held);
}

function joined({ stream, parts }: Output): GuestEvent {
  return { kind: 'output', stream, bytes: parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts) };
}
