import { assertNever } from '../assert-never.ts';
import type { ErrorCode } from '../errors.ts';
import type { TarHandler } from './entry.ts';
import { foldMember, type Pending, pendingName } from './fold.ts';
import { archiveError, decodeHeader, type HeaderBlock, MAX_ID } from './header.ts';
import { BLOCK, firstNonZero, paddingLength, zeros } from './layout.ts';
import { type PaxFields, type PaxTime, parsePax } from './pax.ts';

/** Bounds of one archive. */
export type TarLimits = {
  /** Members; `E_LIMIT_ENTRIES` beyond. Default 1,000,000. */
  readonly maxEntries?: number;
  /** Body of one extended header or long name in bytes; `E_ARCHIVE_META` beyond. Default 1 MiB. */
  readonly maxMetaBytes?: number;
  /** Bytes from the first one behind the end of the archive that is not zero; `E_ARCHIVE_TRAILING` beyond. Default 1 MiB. */
  readonly maxTrailingBytes?: number;
  /** Highest user and group id; `E_ARCHIVE_ID` beyond. Default 4294967294, the highest there is. */
  readonly maxId?: number;
};

/** Extended headers in a row; a member needs at most three (`x`, `L`, `K`). */
const MAX_META_CHAIN = 16;

const MIB = 1024 * 1024;

/**
 * Reads a tar from chunks of any size and calls the handler, without waiting and without copying bodies. Strict: an archive that two common
 * readers could read in two ways is refused, and so is what a layer cannot hold. One zero block ends the archive; without it the archive is
 * truncated. After an error, be it from the archive or from the handler, the reader is of no more use and throws the same error again.
 *
 * Errors: `E_ARCHIVE_HEADER`, `E_ARCHIVE_ID`, `E_ARCHIVE_META`, `E_ARCHIVE_NAME`, `E_ARCHIVE_PAX`, `E_ARCHIVE_TRAILING`, `E_ARCHIVE_TRUNCATED`,
 * `E_ARCHIVE_TYPE`, `E_LIMIT_ENTRIES`. Paths, link targets, attribute names and devices are for whoever unpacks to judge.
 * Source: POSIX pax(1), GNU tar manual "Basic Tar Format", libarchive tar(5); where they leave a choice, Go's archive/tar.
 */
export class TarReader {
  readonly #handler: TarHandler;
  readonly #limits: Required<TarLimits>;
  readonly #block = Buffer.alloc(BLOCK);
  #state: State = 'header';
  #failure: { readonly error: unknown } | undefined;
  /** Bytes of #block, or of the body of #meta, that have come. */
  #filled = 0;
  /** Bytes of a member's body that are still to come, and the padding behind any body. */
  #bodyLeft = 0;
  #paddingLeft = 0;
  /** Offset in the archive of the next byte, and of the header last read. */
  #offset = 0;
  #headerAt = 0;
  #meta: Meta = NO_META;
  #pending: Pending = {};
  #chain = 0;
  #globalMtime: PaxTime | undefined;
  #entries = 0;
  #lastName: Buffer = Buffer.alloc(0);
  #trailing = 0;

  constructor(handler: TarHandler, limits: TarLimits = {}) {
    this.#handler = handler;
    this.#limits = { maxEntries: 1_000_000, maxMetaBytes: MIB, maxTrailingBytes: MIB, maxId: MAX_ID, ...limits };
  }

  /** Members seen so far, global headers included. */
  get entries(): number {
    return this.#entries;
  }

  /** Offset in the archive of the body of the member that was begun last. */
  get bodyAt(): number {
    return this.#headerAt + BLOCK;
  }

  /** Takes the next bytes; the chunk may be used again when this returns. */
  write(chunk: Buffer): void {
    this.#guard(() => {
      for (let at = 0; at < chunk.length; ) {
        const taken = this.#take(chunk, at);
        at += taken;
        this.#offset += taken;
      }
    });
  }

  /** Says that no more bytes come; throws `E_ARCHIVE_TRUNCATED` when the end of the archive was not among them. */
  end(): void {
    this.#guard(() => {
      if (this.#state === 'trailing') return;
      const inside =
        this.#state === 'body' || this.#state === 'padding' ? 'inside it' : 'behind it, without the zero block that ends an archive';
      throw this.#refusal('E_ARCHIVE_TRUNCATED', 'archive at member', this.#lastName, `the data ends at byte ${this.#offset}, ${inside}`);
    });
  }

  #guard(work: () => void): void {
    if (this.#failure !== undefined) throw this.#failure.error;
    try {
      work();
    } catch (error) {
      this.#failure = { error };
      throw error;
    }
  }

  /** Gives how many bytes of the chunk, from `at` on, it has used: at least one. */
  #take(chunk: Buffer, at: number): number {
    switch (this.#state) {
      case 'header':
        return this.#takeHeader(chunk, at);
      case 'meta':
        return this.#takeMeta(chunk, at);
      case 'body':
        return this.#takeBody(chunk, at);
      case 'padding':
        return this.#takePadding(chunk, at);
      case 'trailing':
        return this.#takeTrailing(chunk, at);
      default:
        return assertNever(this.#state);
    }
  }

  #takeHeader(chunk: Buffer, at: number): number {
    if (this.#filled === 0 && chunk.length - at >= BLOCK) {
      this.#headerAt = this.#offset;
      this.#header(chunk.subarray(at, at + BLOCK));
      return BLOCK;
    }
    if (this.#filled === 0) this.#headerAt = this.#offset;
    const taken = chunk.copy(this.#block, this.#filled, at, at + BLOCK - this.#filled);
    this.#filled += taken;
    if (this.#filled === BLOCK) {
      this.#filled = 0;
      this.#header(this.#block);
    }
    return taken;
  }

  #header(block: Buffer): void {
    if (block[0] === 0 && block.equals(zeros(BLOCK))) {
      this.#endOfArchive();
      return;
    }
    const header = decodeHeader(block, this.#headerAt);
    const kind = META_KINDS[header.typeflag];
    if (kind === undefined) this.#member(header);
    else this.#startMeta(kind, header);
  }

  #endOfArchive(): void {
    if (this.#isPending()) {
      throw this.#refusal('E_ARCHIVE_TRUNCATED', 'archive behind member', this.#lastName, 'an extended header has no member of its own');
    }
    this.#state = 'trailing';
  }

  /** The size counts for the extended header itself: a `size` record in an earlier one is for the member. */
  #startMeta(kind: MetaKind, header: HeaderBlock): void {
    this.#chain += 1;
    const refuse = (code: ErrorCode, why: string) => this.#refusal(code, META_WORDS[kind], header.name, why);
    if (this.#chain > MAX_META_CHAIN) throw refuse('E_ARCHIVE_META', `more than ${MAX_META_CHAIN} extended headers in a row`);
    if (header.size > this.#limits.maxMetaBytes) {
      throw refuse('E_ARCHIVE_META', `it has ${header.size} bytes, want at most ${this.#limits.maxMetaBytes}`);
    }
    if (kind === 'global' ? this.#isPending() : this.#pending[kind] !== undefined) {
      throw refuse('E_ARCHIVE_META', 'it stands between another extended header and the member of that one');
    }
    this.#meta = { kind, name: header.name, body: Buffer.allocUnsafe(header.size) };
    this.#paddingLeft = paddingLength(header.size);
    if (header.size > 0) this.#state = 'meta';
    else this.#endMeta(this.#meta);
  }

  #isPending(): boolean {
    return this.#pending.pax !== undefined || this.#pending.longName !== undefined || this.#pending.longLink !== undefined;
  }

  #takeMeta(chunk: Buffer, at: number): number {
    const meta = this.#meta;
    const taken = chunk.copy(meta.body, this.#filled, at);
    this.#filled += taken;
    if (this.#filled === meta.body.length) {
      this.#filled = 0;
      this.#endMeta(meta);
    }
    return taken;
  }

  #endMeta({ kind, name, body }: Meta): void {
    this.#meta = NO_META;
    this.#state = this.#paddingLeft > 0 ? 'padding' : 'header';
    if (kind === 'pax') this.#pending.pax = parsePax(body, false, name, this.#headerAt);
    else if (kind === 'global') this.#endGlobal(name, parsePax(body, true, name, this.#headerAt));
    else this.#pending[kind] = this.#longText(kind, name, body);
  }

  #endGlobal(name: Buffer, fields: PaxFields): void {
    this.#countEntry(name);
    this.#globalMtime = fields.mtime ?? this.#globalMtime;
    this.#handler.globalHeader?.(name);
  }

  /** GNU tar ends a long name with one NUL. Any other NUL would cut the name for some readers and not for others. */
  #longText(kind: MetaKind, name: Buffer, body: Buffer): Buffer {
    const text = body.at(-1) === 0 ? body.subarray(0, -1) : body;
    if (text.includes(0)) throw this.#refusal('E_ARCHIVE_NAME', META_WORDS[kind], text, 'it holds a NUL byte');
    if (text.length === 0) throw this.#refusal('E_ARCHIVE_NAME', META_WORDS[kind], name, 'it is empty');
    return text;
  }

  #member(header: HeaderBlock): void {
    this.#lastName = pendingName(header, this.#pending);
    this.#countEntry(this.#lastName);
    const entry = foldMember(header, this.#pending, this.#globalMtime, this.#limits.maxId, this.#headerAt);
    this.#pending = {};
    this.#chain = 0;
    this.#bodyLeft = entry.size;
    this.#paddingLeft = paddingLength(entry.size);
    this.#handler.entry(entry);
    if (entry.size > 0) this.#state = 'body';
    else this.#handler.entryEnd();
  }

  #countEntry(name: Buffer): void {
    this.#entries += 1;
    if (this.#entries <= this.#limits.maxEntries) return;
    throw this.#refusal('E_LIMIT_ENTRIES', 'member', name, `the archive has more than ${this.#limits.maxEntries} members`);
  }

  #takeBody(chunk: Buffer, at: number): number {
    const taken = Math.min(this.#bodyLeft, chunk.length - at);
    this.#handler.data(at === 0 && taken === chunk.length ? chunk : chunk.subarray(at, at + taken));
    this.#bodyLeft -= taken;
    if (this.#bodyLeft === 0) {
      this.#state = this.#paddingLeft > 0 ? 'padding' : 'header';
      this.#handler.entryEnd();
    }
    return taken;
  }

  #takePadding(chunk: Buffer, at: number): number {
    const taken = Math.min(this.#paddingLeft, chunk.length - at);
    this.#paddingLeft -= taken;
    if (this.#paddingLeft === 0) this.#state = 'header';
    return taken;
  }

  #takeTrailing(chunk: Buffer, at: number): number {
    const rest = chunk.length - at;
    if (this.#trailing > 0) {
      this.#trailing += rest;
    } else {
      const start = firstNonZero(chunk.subarray(at));
      if (start >= 0) this.#trailing = rest - start;
    }
    if (this.#trailing > this.#limits.maxTrailingBytes) {
      const why = `more than ${this.#limits.maxTrailingBytes} bytes of other data follow the end of the archive`;
      throw this.#refusal('E_ARCHIVE_TRAILING', 'archive behind member', this.#lastName, why);
    }
    return rest;
  }

  #refusal(code: ErrorCode, what: string, name: Buffer, why: string): Error {
    return archiveError(code, what, name, this.#headerAt, why);
  }
}

type State = 'header' | 'meta' | 'body' | 'padding' | 'trailing';

type MetaKind = 'pax' | 'longName' | 'longLink' | 'global';

type Meta = { readonly kind: MetaKind; readonly name: Buffer; readonly body: Buffer };

const NO_META: Meta = { kind: 'pax', name: Buffer.alloc(0), body: Buffer.alloc(0) };

const META_WORDS: Record<MetaKind, string> = {
  pax: 'PAX header',
  global: 'global PAX header',
  longName: 'GNU long name',
  longLink: 'GNU long link',
};

/** By the byte of the type. */
const META_KINDS: Readonly<Record<number, MetaKind>> = { 120: 'pax', 103: 'global', 76: 'longName', 75: 'longLink' };
