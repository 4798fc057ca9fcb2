import { createHash, type Hash } from 'node:crypto';
import { RootlayerError } from './errors.ts';
import type { RawHeader, TarHandler } from './tar/entry.ts';
import { TarReader } from './tar/reader.ts';

/**
 * `tarsum` (0) covers times and no attributes, `tarsum.v1` (1) attributes and no times; `tarsum.dev` is today the same as 1.
 * Source: moby, package tarsum, "Versioning".
 */
export const TARSUM_VERSIONS = ['tarsum', 'tarsum.v1', 'tarsum.dev'] as const;

/** The label of a version; see {@link TARSUM_VERSIONS}. */
export type TarsumVersion = (typeof TARSUM_VERSIONS)[number];

/** The hashes there are values for. */
export const TARSUM_HASHES = ['sha256', 'sha512', 'sha384', 'sha224', 'sha1', 'md5'] as const;

/** See {@link TARSUM_HASHES}. */
export type TarsumHash = (typeof TARSUM_HASHES)[number];

/** What to sum with: `tarsum.v1` and sha256 when nothing is said; `extra` bytes are hashed before the sums (in moby the layer's json). */
export type TarsumOptions = { readonly version?: TarsumVersion; readonly hash?: TarsumHash; readonly extra?: Buffer };

/** The hashes that a label may name; the others are for callers in code, as in moby. */
const LABEL_HASHES: readonly TarsumHash[] = ['sha256', 'sha512'];

/**
 * Sums the members of an archive regardless of their order. For comparing, not for security: keys and values are joined without separators, so
 * different archives can have one sum; give a digest beside it. Feed each member's raw header, body pieces and end, in the order of the archive.
 * Source: moby, package tarsum; nixpkgs' `tarsum` prints version 1 with sha256.
 */
export class TarSum {
  readonly #version: TarsumVersion;
  readonly #algorithm: TarsumHash;
  readonly #extra: Buffer | undefined;
  readonly #sums: string[] = [];
  /** Positions of the members by normalised name. */
  readonly #names = new Map<string, number[]>();
  #current: Hash | undefined;
  #hasDuplicates = false;

  constructor(options: TarsumOptions = {}) {
    this.#version = options.version ?? 'tarsum.v1';
    this.#algorithm = options.hash ?? 'sha256';
    this.#extra = options.extra;
  }

  /**
   * True when two members have one name. The reference then sorts by a rule that is no order: for more than 12 members its result depends on its
   * sorting algorithm, and ours may differ.
   */
  get hasDuplicateNames(): boolean {
    return this.#hasDuplicates;
  }

  /** Begins a member. */
  entry(header: RawHeader): void {
    const hash = createHash(this.#algorithm);
    hash.update(headerText(header, this.#version === 'tarsum'), 'latin1');
    if (this.#version !== 'tarsum') {
      for (const { name, value } of header.xattrs) hash.update(name).update(value);
    }
    this.#current = hash;
    this.#addName(normalised(header.name.toString('latin1')));
  }

  /** Adds a piece of the member's body. */
  data(chunk: Buffer): void {
    this.#current?.update(chunk);
  }

  /** Ends the member. */
  entryEnd(): void {
    if (this.#current === undefined) return;
    this.#sums.push(this.#current.digest('hex'));
    this.#current = undefined;
  }

  /** Adds a global PAX header, which Go reports as a member of type `g` with nothing but a name, and with the year 1 as its time. */
  globalHeader(name: Buffer): void {
    this.entry({ ...GLOBAL_HEADER, name });
    this.entryEnd();
  }

  /** Gives label, `+`, hash, `:` and the lower-case hex digits. */
  digest(): string {
    const hash = createHash(this.#algorithm);
    if (this.#extra !== undefined) hash.update(this.#extra);
    for (const sum of this.#sorted()) hash.update(sum);
    return `${this.#version}+${this.#algorithm}:${hash.digest('hex')}`;
  }

  #addName(name: string): void {
    const position = this.#sums.length;
    const others = this.#names.get(name);
    if (others === undefined) {
      this.#names.set(name, [position]);
    } else {
      others.push(position);
      this.#hasDuplicates = true;
    }
  }

  #sorted(): string[] {
    if (!this.#hasDuplicates) return [...this.#sums].sort();
    return this.#sums.length <= MAX_INSERTION ? this.#sortedAsReference() : this.#sortedByGroups();
  }

  /** Go sorts up to 12 elements by insertion, with this comparison: by position within a name, else by sum. */
  #sortedAsReference(): string[] {
    const nameAt = this.#nameAt();
    const order: number[] = [];
    const sum = (position: number): string => this.#sums[position] ?? '';
    const isLess = (a: number, b: number): boolean => (nameAt[a] === nameAt[b] ? a < b : sum(a) < sum(b));
    for (let position = 0; position < this.#sums.length; position += 1) {
      let slot = order.length;
      while (slot > 0 && isLess(position, order[slot - 1] ?? 0)) slot -= 1;
      order.splice(slot, 0, position);
    }
    return order.map(sum);
  }

  /** By sum, and then the members of one name in the order of the archive among the places they have got. */
  #sortedByGroups(): string[] {
    const nameAt = this.#nameAt();
    const sums = this.#sums;
    const order = sums.map((_sum, position) => position).sort((a, b) => compare(sums[a] ?? '', sums[b] ?? '') || a - b);
    const used = new Map<string, number>();
    return order.map((position) => {
      const name = nameAt[position] ?? '';
      const nth = used.get(name) ?? 0;
      used.set(name, nth + 1);
      return sums[this.#names.get(name)?.[nth] ?? position] ?? '';
    });
  }

  #nameAt(): string[] {
    const names: string[] = [];
    for (const [name, positions] of this.#names) {
      for (const position of positions) names[position] = name;
    }
    return names;
  }
}

/**
 * Gives the tarsum of an uncompressed archive. No bytes at all count as an archive without members, as they do for moby. Throws what
 * {@link TarReader} throws.
 */
export async function tarsumOf(chunks: AsyncIterable<Buffer> | Iterable<Buffer>, options: TarsumOptions = {}): Promise<string> {
  const sum = new TarSum(options);
  const reader = new TarReader(tarsumHandler(sum));
  let isEmpty = true;
  for await (const chunk of chunks) {
    reader.write(chunk);
    if (chunk.length > 0) isEmpty = false;
  }
  if (!isEmpty) reader.end();
  return sum.digest();
}

/** Gives the handler that feeds a sum from a {@link TarReader}. */
export function tarsumHandler(sum: TarSum): TarHandler {
  return {
    entry: (entry) => sum.entry(entry.raw),
    data: (chunk) => sum.data(chunk),
    entryEnd: () => sum.entryEnd(),
    globalHeader: (name) => sum.globalHeader(name),
  };
}

/**
 * Reads a label such as `tarsum.v1+sha512`. Only sha256 and sha512 can be chosen by label, as in moby. Throws `E_USAGE` for a text without `+`, an
 * unknown version or another hash.
 */
export function parseTarsumLabel(label: string): { version: TarsumVersion; hash: TarsumHash } {
  const plus = label.indexOf('+');
  if (plus < 0) refuse('tarsum label', label, 'it has no "+", want a version, "+" and a hash, such as "tarsum.v1+sha256"');
  const version = TARSUM_VERSIONS.find((known) => known === label.slice(0, plus));
  const hash = LABEL_HASHES.find((known) => known === label.slice(plus + 1));
  if (version === undefined) return refuse('tarsum label', label, `its version is unknown, want one of ${TARSUM_VERSIONS.join(', ')}`);
  return hash === undefined ? refuse('tarsum label', label, `its hash is unknown, want ${LABEL_HASHES.join(' or ')}`) : { version, hash };
}

/** Gives the version of a sum or label: what stands before its first `+`, or all of it. Throws `E_USAGE` when that is no version. */
export function tarsumVersionOf(text: string): TarsumVersion {
  const name = text.split('+', 1)[0];
  return TARSUM_VERSIONS.find((known) => known === name) ?? refuse('tarsum', text, 'it does not begin with a tarsum version');
}

/** Gives the label in front of a checksum's first `+`, whatever it says; a checksum without `+` has the empty one. */
export function tarsumLabelOf(checksum: string): string {
  const plus = checksum.indexOf('+');
  return plus < 0 ? '' : checksum.slice(0, plus);
}

function refuse(noun: string, value: string, why: string): never {
  throw new RootlayerError('E_USAGE', `Cannot read ${noun} ${JSON.stringify(value.slice(0, 100))}: ${why}`);
}

/** Up to this many elements Go's sort is an insertion sort. Source: Go, package sort, pdqsort. */
const MAX_INSERTION = 12;

/** 0001-01-01T00:00:00Z in seconds since 1970: the zero value of Go's time. */
const GO_ZERO_TIME_SEC = -62135596800;

const GLOBAL_HEADER: RawHeader = {
  name: Buffer.alloc(0),
  mode: 0,
  uid: 0,
  gid: 0,
  size: 0,
  mtimeSec: GO_ZERO_TIME_SEC,
  typeflag: 'g',
  linkName: Buffer.alloc(0),
  devMajor: 0,
  devMinor: 0,
  xattrs: [],
};

/** Keys and values without anything between them; of the names of user and group only the keys count. */
function headerText(header: RawHeader, withMtime: boolean): string {
  const mtime = withMtime ? `mtime${header.mtimeSec}` : '';
  return (
    `name${header.name.toString('latin1')}mode${header.mode}uid${header.uid}gid${header.gid}size${header.size}${mtime}` +
    `typeflag${header.typeflag}linkname${header.linkName.toString('latin1')}unamegname` +
    `devmajor${header.devMajor}devminor${header.devMinor}`
  );
}

/** Made absolute, cleaned of ".", "..", double and final slashes, then relative again; latin1 in and out. */
function normalised(name: string): string {
  if (!UNCLEAN.test(name)) return name;
  const parts: string[] = [];
  for (const part of name.split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  }
  return parts.join('/');
}

/** A first, final or double slash, or a part that is "." or "..". */
const UNCLEAN = /^\/|\/$|\/\/|(?:^|\/)\.\.?(?:\/|$)/;

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
