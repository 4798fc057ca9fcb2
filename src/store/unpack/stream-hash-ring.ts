/** The memory that a stream hash and its thread share. */
export type HashRing = {
  /** Counters and lengths, see {@link RING}; waited on with Atomics. */
  readonly control: Int32Array;
  /** `RING.slots` times `RING.slotBytes`. */
  readonly slots: Uint8Array;
  /** 32 bytes. */
  readonly digest: Uint8Array;
};

/**
 * Sizes of the ring (small enough to stay in the processor's cache until it is hashed), and the places of its numbers in `control`: two
 * counters that only grow (and wrap), then a length for each slot.
 */
export const RING = { slots: 16, slotBytes: 128 * 1024, given: 0, hashed: 1, lengths: 2 } as const;

/** Instead of a length: end the hash and store its digest; or drop what was hashed. */
export const RING_COMMAND = { finish: -1, reset: -2 } as const;

/** A fresh ring. */
export function makeHashRing(): HashRing {
  return {
    control: new Int32Array(new SharedArrayBuffer(4 * (RING.lengths + RING.slots))),
    slots: new Uint8Array(new SharedArrayBuffer(RING.slots * RING.slotBytes)),
    digest: new Uint8Array(new SharedArrayBuffer(32)),
  };
}

/** Where in `slots` the bytes of the nth slot given lie, and the index of its length in `control`. */
export function slotOf(count: number): { start: number; length: number } {
  const slot = (count >>> 0) % RING.slots;
  return { start: slot * RING.slotBytes, length: RING.lengths + slot };
}
