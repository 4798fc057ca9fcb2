import { createHash } from 'node:crypto';

/** Source: Nix, src/libutil/hash.cc, base32Chars: no e, o, t, u. */
const ALPHABET = '0123456789abcdfghijklmnpqrsvwxyz';
const HASH_BYTES = 20;
const DIGITS = 32;

/** Gives 32 characters that stand for a text, spelt as the hash in front of a store path: the tag of an image that was given none. */
export function hashTag(text: string): string {
  const folded = Buffer.alloc(HASH_BYTES);
  for (const [at, byte] of createHash('sha256').update(text).digest().entries()) {
    folded[at % HASH_BYTES] = (folded[at % HASH_BYTES] ?? 0) ^ byte;
  }
  return Array.from({ length: DIGITS }, (_, n) => digitAt(folded, DIGITS - 1 - n)).join('');
}

/** Five bits, counted from the end of the number that the bytes are. */
function digitAt(bytes: Buffer, n: number): string {
  const bit = n * 5;
  const at = bit >> 3;
  const pair = (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8);
  return ALPHABET.charAt((pair >> (bit & 7)) & 0x1f);
}
