import { RootlayerError } from '../../src/core/errors.ts';
import type { TarEntry } from '../../src/core/tar/entry.ts';
import { type TarLimits, TarReader } from '../../src/core/tar/reader.ts';

type Bytes = string | Buffer;

/** The fields of a header as they are to be stored: text becomes latin1 bytes, a number octal digits with a NUL behind them. */
export type HeaderParts = {
  name?: Bytes;
  mode?: Bytes | number;
  uid?: Bytes | number;
  gid?: Bytes | number;
  size?: Bytes | number;
  mtime?: Bytes | number;
  /** Instead of the right checksum. */
  checksum?: Bytes;
  type?: Bytes;
  linkName?: Bytes;
  /** Magic and version: `ustar\0` and `00` when absent. */
  magic?: Bytes;
  uname?: Bytes;
  gname?: Bytes;
  devMajor?: Bytes | number;
  devMinor?: Bytes | number;
  prefix?: Bytes;
  /** The last 12 bytes. */
  tail?: Bytes;
};

/** Two zero blocks. */
export const END: Buffer = Buffer.alloc(1024);

/** GNU's magic and version. */
export const GNU = 'ustar  \0';

/** One header block made by hand, byte for byte as told, with the checksum that belongs to it. */
export function header(parts: HeaderParts = {}): Buffer {
  const block = Buffer.alloc(512);
  put(block, 0, 100, parts.name ?? 'f');
  put(block, 100, 8, parts.mode ?? 0o644);
  put(block, 108, 8, parts.uid ?? 0);
  put(block, 116, 8, parts.gid ?? 0);
  put(block, 124, 12, parts.size ?? 0);
  put(block, 136, 12, parts.mtime ?? 0);
  put(block, 156, 1, parts.type ?? '0');
  put(block, 157, 100, parts.linkName ?? '');
  put(block, 257, 8, parts.magic ?? 'ustar\u000000');
  put(block, 265, 32, parts.uname ?? '');
  put(block, 297, 32, parts.gname ?? '');
  put(block, 329, 8, parts.devMajor ?? '');
  put(block, 337, 8, parts.devMinor ?? '');
  put(block, 345, 155, parts.prefix ?? '');
  if (parts.tail !== undefined) put(block, 500, 12, parts.tail);
  seal(block, parts.checksum);
  return block;
}

/** Sets the checksum of a header block to the right one, or to the bytes given. */
export function seal(block: Buffer, checksum?: Bytes): void {
  block.fill(' ', 148, 156);
  const sum = block.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  put(block, 148, 8, checksum ?? `${sum.toString(8).padStart(6, '0')}\0 `);
}

/** A header, its body and the padding; the size field is the body's length when the parts do not say otherwise. */
export function member(parts: HeaderParts = {}, body: Bytes = ''): Buffer {
  const bytes = toBytes(body);
  return Buffer.concat([header({ size: bytes.length, ...parts }), padded(bytes)]);
}

/** An extended header with these records. */
export function pax(records: readonly (readonly [key: Bytes, value: Bytes])[], type: 'x' | 'g' = 'x'): Buffer {
  return paxRaw(Buffer.concat(records.map(([key, value]) => paxRecord(key, value))), type);
}

/** An extended header with any body. */
export function paxRaw(body: Bytes, type: 'x' | 'g' = 'x'): Buffer {
  return member({ name: type === 'x' ? 'PaxHeaders/f' : 'pax_global_header', type }, body);
}

/** One record with the right length in front. */
export function paxRecord(key: Bytes, value: Bytes): Buffer {
  const rest = Buffer.concat([toBytes(' '), toBytes(key), toBytes('='), toBytes(value), toBytes('\n')]);
  let length = rest.length;
  while (length !== rest.length + String(length).length) length = rest.length + String(length).length;
  return Buffer.concat([toBytes(String(length)), rest]);
}

/** A GNU long name (`L`) or long link (`K`), with the NUL that GNU tar puts behind it. */
export function gnuLong(type: 'L' | 'K', text: Bytes, tail: Bytes = '\0'): Buffer {
  return member({ name: '././@LongLink', type, magic: GNU }, Buffer.concat([toBytes(text), toBytes(tail)]));
}

/** A base-256 field: big-endian two's complement with the first bit set. */
export function base256(value: bigint, length = 12): Buffer {
  const out = Buffer.alloc(length);
  let rest = BigInt.asUintN(8 * length, value);
  for (let at = length - 1; at >= 0; at -= 1) {
    out[at] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  out[0] = (out[0] ?? 0) | 0x80;
  return out;
}

/** The parts one after the other, and two zero blocks. */
export function archive(...parts: readonly Buffer[]): Buffer {
  return Buffer.concat([...parts, END]);
}

/** A member as a test compares it: the entry and the whole of its body. */
export type ReadMember = { entry: TarEntry; body: Buffer };

/** Reads a whole archive, in chunks as `sizes` says (one piece when absent). Throws what the reader throws. */
export function readTar(tar: Buffer, limits: TarLimits = {}, sizes: Iterable<number> = [tar.length]): ReadMember[] {
  const members: ReadMember[] = [];
  let pieces: Buffer[] = [];
  const reader = new TarReader(
    {
      entry: (entry) => members.push({ entry, body: Buffer.alloc(0) }),
      data: (chunk) => pieces.push(Buffer.from(chunk)),
      entryEnd: () => {
        const last = members.at(-1);
        if (last !== undefined) last.body = Buffer.concat(pieces);
        pieces = [];
      },
    },
    limits,
  );
  let at = 0;
  for (const size of sizes) {
    if (at >= tar.length) break;
    // A fresh copy that is wiped afterwards shows a reader that keeps views of its input.
    const chunk = Buffer.from(tar.subarray(at, at + size));
    reader.write(chunk);
    chunk.fill(0xaa);
    at += size;
  }
  reader.end();
  return members;
}

/** The error that reading the archive ends in; fails when it does not. */
export function readError(tar: Buffer, limits: TarLimits = {}): RootlayerError {
  try {
    readTar(tar, limits);
  } catch (error) {
    if (error instanceof RootlayerError) return error;
    throw error;
  }
  throw new Error('the archive was read without an error');
}

/** What becomes of an archive, in one word a member: the error's code, or name and body of each member. */
export function outcomeOf(tar: Buffer, limits: TarLimits = {}): string {
  try {
    return readTar(tar, limits)
      .map(({ entry, body }) => `${entry.name.toString('latin1')}:${body.toString('latin1')}`)
      .join(' ');
  } catch (error) {
    if (error instanceof RootlayerError) return error.code;
    throw error;
  }
}

/** A generator of numbers below 2^32 that gives the same ones for the same seed (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)]);
}

function toBytes(text: Bytes): Buffer {
  return typeof text === 'string' ? Buffer.from(text, 'latin1') : text;
}

function put(block: Buffer, start: number, length: number, value: Bytes | number): void {
  const bytes = typeof value === 'number' ? toBytes(`${value.toString(8).padStart(length - 1, '0')}\0`) : toBytes(value);
  if (bytes.length > length) throw new Error(`${bytes.length} bytes do not fit a field of ${length}`);
  bytes.copy(block, start);
}
