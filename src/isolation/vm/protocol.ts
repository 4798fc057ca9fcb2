/** The numbers of the stream between host and guest. Source: vm/protocol.md, which both sides follow. */

/** What the guest answers with first. */
export const PROTOCOL_VERSION = 1;

/** Type byte and length of a frame. */
export const HEADER_BYTES = 5;

/** Longest payload of a frame. */
export const MAX_PAYLOAD_BYTES = 65_536;

/** Types of frames from host to guest. */
export const TO_GUEST = { seed: 'S', job: 'J', script: 'P', go: 'G', input: 'I', window: 'W' } as const;

/** Marks of a guest on its way to the script, in this order. */
export const MARKS = ['seeded', 'bound', 'mounted', 'started'] as const;
export type Mark = (typeof MARKS)[number];
