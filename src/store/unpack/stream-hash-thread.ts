/** The thread behind a stream hash: sha256 of the slots of a ring, in order, until the process ends. */
import { createHash } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { type HashRing, RING, RING_COMMAND, slotOf } from './stream-hash-ring.ts';

serveRing(workerData as HashRing);

function serveRing({ control, slots, digest }: HashRing): never {
  let hash = createHash('sha256');
  parentPort?.postMessage('ready');
  for (let count = 0; ; count = (count + 1) | 0) {
    while (Atomics.load(control, RING.given) === count) Atomics.wait(control, RING.given, count);
    const { start, length: lengthIndex } = slotOf(count);
    const length = control[lengthIndex] ?? 0;
    if (length >= 0) {
      hash.update(slots.subarray(start, start + length));
    } else {
      if (length === RING_COMMAND.finish) digest.set(hash.digest());
      hash = createHash('sha256');
    }
    Atomics.add(control, RING.hashed, 1);
    Atomics.notify(control, RING.hashed);
  }
}
