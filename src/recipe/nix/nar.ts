import { createHash, type Hash } from 'node:crypto';
import { closeSync, lstatSync, openSync, readdirSync, readlinkSync, readSync } from 'node:fs';
import { recipeError } from '../recipe-error.ts';
import { joined } from '../tree/tree.ts';

/** sha256 (hex) and length in bytes of a path as a NAR. */
export type NarSum = { readonly hex: string; readonly sizeBytes: number };

/**
 * Sums a path as Nix does to know it again: its files, modes reduced to executable or not, links, and names in order; no times and owners. Source: E. Dolstra,
 * "The Purely Functional Software Deployment Model", figure 5.2.
 */
export function narSumOf(path: Buffer): NarSum {
  const sink = new NarSink();
  sink.text('nix-archive-1');
  writeNode(sink, path);
  return sink.sum();
}

/** Gives 64 hex digits for a hash as Nix spells it: `sha256:` with base 16 or 32, or `sha256-` with base64. Throws `E_RECIPE`. */
export function narHashHex(text: string): string {
  const [, kind, digits = ''] = /^sha256([:-])(.+)$/.exec(text) ?? [];
  if (kind === '-' && /^[A-Za-z0-9+/]{43}=$/.test(digits)) return Buffer.from(digits, 'base64').toString('hex');
  if (kind === ':' && /^[0-9a-f]{64}$/.test(digits)) return digits;
  if (kind === ':' && new RegExp(`^[${BASE32}]{52}$`).test(digits)) return hexOfBase32(digits);
  throw recipeError(['references'], `the narHash ${JSON.stringify(text.slice(0, 100))} is none of sha256`);
}

const BASE32 = '0123456789abcdfghijklmnpqrsvwxyz';
const CHUNK_BYTES = 1024 * 1024;

/** The last digit holds the lowest five bits of the first byte. */
function hexOfBase32(digits: string): string {
  const value = [...digits].reduce((sum, digit) => sum * 32n + BigInt(BASE32.indexOf(digit)), 0n);
  return Buffer.from(value.toString(16).padStart(64, '0'), 'hex').reverse().toString('hex');
}

/** Texts with their length in front, filled up to 8 bytes. */
class NarSink {
  readonly #hash: Hash = createHash('sha256');
  #sizeBytes = 0;

  text(...texts: readonly (string | Buffer)[]): void {
    for (const text of texts) {
      const bytes = Buffer.from(text);
      this.length(bytes.length);
      this.raw(bytes);
      this.fill(bytes.length);
    }
  }

  length(value: number): void {
    const field = Buffer.alloc(8);
    field.writeBigUInt64LE(BigInt(value));
    this.raw(field);
  }

  raw(bytes: Buffer): void {
    this.#hash.update(bytes);
    this.#sizeBytes += bytes.length;
  }

  fill(length: number): void {
    this.raw(Buffer.alloc((8 - (length % 8)) % 8));
  }

  sum(): NarSum {
    return { hex: this.#hash.digest('hex'), sizeBytes: this.#sizeBytes };
  }
}

function writeNode(sink: NarSink, path: Buffer): void {
  const found = lstatSync(path);
  sink.text('(', 'type');
  if (found.isSymbolicLink()) sink.text('symlink', 'target', readlinkSync(path, { encoding: 'buffer' }));
  else if (found.isDirectory()) {
    sink.text('directory');
    for (const name of readdirSync(path, { encoding: 'buffer' }).sort(Buffer.compare)) {
      sink.text('entry', '(', 'name', name, 'node');
      writeNode(sink, joined(path, name));
      sink.text(')');
    }
  } else {
    sink.text('regular');
    if ((found.mode & 0o100) !== 0) sink.text('executable', '');
    sink.text('contents');
    writeContents(sink, path, found.size);
  }
  sink.text(')');
}

function writeContents(sink: NarSink, path: Buffer, size: number): void {
  const fd = openSync(path, 'r');
  try {
    sink.length(size);
    const chunk = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, size));
    for (let at = 0; at < size; ) {
      const count = readSync(fd, chunk, 0, Math.min(chunk.length, size - at), at);
      if (count === 0) throw recipeError([], `${JSON.stringify(path.toString())} became shorter meanwhile`);
      sink.raw(chunk.subarray(0, count));
      at += count;
    }
    sink.fill(size);
  } finally {
    closeSync(fd);
  }
}
