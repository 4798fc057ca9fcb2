import { RootlayerError } from '../../core/errors.ts';

/** Source: Nix, src/libutil/hash.cc, base32Chars: no e, o, t, u. */
const ALPHABET = '0123456789abcdfghijklmnpqrsvwxyz';
const BYTES = 32;
const NIX_DIGITS = 52;

/**
 * Reads a sha256 in any form that recipes have: 64 hex digits, the 52 characters of Nix's base 32, base 64, each also behind `sha256:`, or `sha256-` and base
 * 64 as in Subresource Integrity. Gives null for anything else.
 */
export function parseSha256(text: string): Buffer | null {
  const bare = text.replace(/^sha256[:-]/, '');
  if (/^[0-9a-fA-F]{64}$/.test(bare)) return Buffer.from(bare, 'hex');
  if (bare.length === NIX_DIGITS && /^[0-9a-df-np-sv-z]+$/.test(bare)) return fromNix(bare);
  if (!/^[A-Za-z0-9+/]{43}=?$/.test(bare)) return null;
  return Buffer.from(bare, 'base64');
}

/** Gives a hash as Subresource Integrity has it. Source: W3C SRI, 3.1. */
export function sriOf(sha256: Buffer): string {
  return `sha256-${sha256.toString('base64')}`;
}

/** The last digit holds the lowest five bits. Gives null when bits beyond the hash are set. */
function fromNix(text: string): Buffer | null {
  const bytes = Buffer.alloc(BYTES + 1);
  for (let n = 0; n < NIX_DIGITS; n += 1) {
    const digit = ALPHABET.indexOf(text.charAt(NIX_DIGITS - 1 - n)) << ((n * 5) % 8);
    const at = (n * 5) >> 3;
    bytes[at] = (bytes[at] ?? 0) | (digit & 0xff);
    bytes[at + 1] = (bytes[at + 1] ?? 0) | (digit >> 8);
  }
  return bytes[BYTES] === 0 ? bytes.subarray(0, BYTES) : null;
}

/** Throws `E_DIGEST` unless the archive has the hash. */
export function checkHash(image: string, found: Buffer, wanted: Buffer): void {
  if (found.equals(wanted)) return;
  throw new RootlayerError(
    'E_DIGEST',
    `Cannot use pulled image "${image}": its archive has the hash ${sriOf(found)}, want ${sriOf(wanted)}`,
    {
      hint: 'the image is what imageDigest says; "rootlayer image pull --prefetch" prints the hash of its archive',
    },
  );
}
