/** Opcodes of classic BPF that filters of rootlayer use. Source: `<linux/bpf_common.h>`. */
export const OP = {
  /** A = the 32-bit word of the input at offset k. */
  load: 0x20,
  /** A = A & k. */
  and: 0x54,
  /** Goes k instructions further. */
  jump: 0x05,
  /** Branches on A == k. */
  ifEqual: 0x15,
  /** Branches on A >= k, both unsigned. */
  ifAtLeast: 0x35,
  /** Branches on (A & k) != 0. */
  ifAnyBit: 0x45,
  /** Ends with k. */
  return: 0x06,
} as const;

/** Where a branch goes: a label, or `next` for the instruction that follows. */
export type Target = string;

/** One line of a program. A label names the instruction after it; branches only lead downwards. */
export type Line =
  | { readonly label: string }
  | { readonly op: typeof OP.load | typeof OP.and | typeof OP.return; readonly k: number }
  | {
      readonly op: typeof OP.ifEqual | typeof OP.ifAtLeast | typeof OP.ifAnyBit;
      readonly k: number;
      readonly yes: Target;
      readonly no: Target;
    };

/** Bytes of one `struct sock_filter`. */
export const INSTRUCTION_BYTES = 8;

/** BPF_MAXINSNS of `<linux/bpf_common.h>`: the kernel takes no longer program. */
export const MAX_INSTRUCTIONS = 4096;

/** A branch's offsets are bytes. One less, because the hop of its other way may stand in between. */
const MAX_BRANCH = 254;

type Instruction = { readonly op: number; readonly yes: number; readonly no: number; readonly k: number };

/**
 * Gives a program as an array of `struct sock_filter`, little endian. Where a branch leads further than its 8-bit offset can,
 * it goes to an unconditional jump placed right behind it.
 */
export function assemble(lines: readonly Line[]): Buffer {
  // From the last line to the first, the distance to every target is known when a branch needs it.
  const reversed: Instruction[] = [];
  const places = new Map<string, number>();
  for (const line of [...lines].reverse()) {
    if ('label' in line) define(places, line.label, reversed.length);
    else if ('yes' in line) pushBranch(reversed, places, line);
    else reversed.push({ op: line.op, yes: 0, no: 0, k: line.k });
  }
  if (reversed.length > MAX_INSTRUCTIONS) {
    throw new Error(`filter of ${reversed.length} instructions is longer than ${MAX_INSTRUCTIONS}`);
  }
  return encode(reversed.reverse());
}

function define(places: Map<string, number>, label: string, place: number): void {
  if (label === 'next' || places.has(label)) throw new Error(`filter defines label "${label}" twice`);
  places.set(label, place);
}

type Branch = Extract<Line, { yes: Target }>;

function pushBranch(reversed: Instruction[], places: ReadonlyMap<string, number>, line: Branch): void {
  const next = reversed.length;
  const yes = bringNear(reversed, placeOf(places, line.yes, next));
  const no = bringNear(reversed, placeOf(places, line.no, next));
  reversed.push({ op: line.op, yes: reversed.length - yes, no: reversed.length - no, k: line.k });
}

function placeOf(places: ReadonlyMap<string, number>, target: Target, next: number): number {
  const place = target === 'next' ? next : places.get(target);
  if (place === undefined) throw new Error(`filter has no label "${target}" below its use`);
  return place;
}

/** Gives a place within reach of the next instruction to be written that leads to the given one. */
function bringNear(reversed: Instruction[], place: number): number {
  if (reversed.length - place <= MAX_BRANCH) return place;
  reversed.push({ op: OP.jump, yes: 0, no: 0, k: reversed.length - place });
  return reversed.length;
}

function encode(instructions: readonly Instruction[]): Buffer {
  const bytes = Buffer.alloc(instructions.length * INSTRUCTION_BYTES);
  for (const [index, { op, yes, no, k }] of instructions.entries()) {
    const at = index * INSTRUCTION_BYTES;
    bytes.writeUInt16LE(op, at);
    bytes.writeUInt8(yes, at + 2);
    bytes.writeUInt8(no, at + 3);
    bytes.writeUInt32LE(k, at + 4);
  }
  return bytes;
}
