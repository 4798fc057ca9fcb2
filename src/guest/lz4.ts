/** First bytes of the older frame of lz4, which Linux uses. Source: LZ4 frame format description, "Legacy frame". */
export const LZ4_LEGACY_MAGIC = 0x184c2102;

/** Bytes that a block of a legacy frame decompresses to, at most. */
const BLOCK_BYTES = 8 * 1024 * 1024;
const MIN_MATCH = 4;

/** Gives what a legacy frame holds, or null when it is damaged. What follows the last block is left alone: the kernel puts its size there. */
export function decodeLz4Legacy(frame: Buffer): Buffer | null {
  const blocks: Buffer[] = [];
  for (let at = 4; at + 4 <= frame.length; ) {
    const size = frame.readUInt32LE(at);
    const end = at + 4 + size;
    if (size === 0 || end > frame.length) break;
    const block = decodeBlock(frame.subarray(at + 4, end));
    if (block === null) return null;
    blocks.push(block);
    at = end;
    if (block.length < BLOCK_BYTES) break;
  }
  return blocks.length === 0 ? null : Buffer.concat(blocks);
}

/** Literals and matches in turn. Source: LZ4 block format description. */
function decodeBlock(from: Buffer): Buffer | null {
  const to = Buffer.allocUnsafe(BLOCK_BYTES);
  let at = 0;
  let used = 0;
  while (at < from.length) {
    const token = from[at] ?? 0;
    const literals = lengthAt(from, at + 1, token >> 4);
    const literalsEnd = literals.next + literals.length;
    if (literalsEnd > from.length || used + literals.length > BLOCK_BYTES) return null;
    used += from.copy(to, used, literals.next, literalsEnd);
    if (literalsEnd === from.length) return to.subarray(0, used);
    const distance = (from[literalsEnd] ?? 0) | ((from[literalsEnd + 1] ?? 0) << 8);
    const match = lengthAt(from, literalsEnd + 2, token & 15);
    const length = match.length + MIN_MATCH;
    if (distance === 0 || distance > used || used + length > BLOCK_BYTES) return null;
    copyWithin(to, used, distance, length);
    used += length;
    at = match.next;
  }
  return null;
}

/** A length of 15 goes on in further bytes, up to one below 255. */
function lengthAt(from: Buffer, at: number, start: number): { length: number; next: number } {
  let length = start;
  let next = at;
  if (start === 15) {
    for (let byte = 255; byte === 255; next += 1) {
      byte = from[next] ?? 0;
      length += byte;
    }
  }
  return { length, next };
}

/** A match may reach into what it makes: it is then a repetition. */
function copyWithin(to: Buffer, used: number, distance: number, length: number): void {
  if (distance >= length) {
    to.copyWithin(used, used - distance, used - distance + length);
    return;
  }
  for (let index = used; index < used + length; index += 1) to[index] = to[index - distance] ?? 0;
}
