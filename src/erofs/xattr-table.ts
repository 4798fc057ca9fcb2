import { createHash } from 'node:crypto';
import { RootlayerError } from '../core/errors.ts';
import { escapeName } from '../core/names.ts';
import type { Xattr } from '../core/tar/entry.ts';

/** Names without their prefix, which a number stands for; POSIX ACLs have nothing else. */
const PREFIXES: readonly (readonly [prefix: string, index: number])[] = [
  ['user.', 1],
  ['trusted.', 4],
  ['security.', 6],
];
const ACLS: ReadonlyMap<string, number> = new Map([
  ['system.posix_acl_access', 2],
  ['system.posix_acl_default', 3],
]);

const HEADER_BYTES = 12;
const ENTRY_BYTES = 4;
const WORD = 4;
const MAX_VALUE_BYTES = 0xffff;
const MAX_WORDS = 0xffff;
const MAX_SHARED = 0xff;
/** Longer ones are told apart by their hash. */
const MAX_KEY_BYTES = 256;

/** The attributes of one inode as they follow it. */
export type XattrBody = {
  readonly bytes: Buffer;
  /** What the inode says of them: 0 for none, else the words behind the header, plus one. */
  readonly words: number;
};

/** The body of an inode without attributes. */
export const NO_XATTRS: XattrBody = { bytes: Buffer.alloc(0), words: 0 };

/**
 * Encodes attributes. One that no earlier file had stands with its inode; from its second file on, an attribute stands once in the shared
 * area, and the inodes refer to it.
 */
export class XattrTable {
  /** Id in the shared area, or null for what was met once. */
  readonly #ids = new Map<string, number | null>();
  readonly #shared: Buffer[] = [];
  #sharedBytes = 0;

  /** The shared area; ids are offsets in it. */
  sharedArea(): Buffer {
    return Buffer.concat(this.#shared);
  }

  /**
   * Gives the body for a file's attributes, in the order of their names; those with a prefix that EROFS has no number for are left out (such as
   * the properties that btrfs shows as attributes). Throws `E_LIMIT_XATTR` for more than the format can hold.
   */
  encode(xattrs: readonly Xattr[], path: () => Buffer): XattrBody {
    if (xattrs.length === 0) return NO_XATTRS;
    const ids: number[] = [];
    const inline: Buffer[] = [];
    for (const xattr of xattrs.toSorted((a, b) => Buffer.compare(a.name, b.name))) {
      const entry = encodeEntry(xattr, path);
      if (entry === null) continue;
      const id = ids.length < MAX_SHARED ? this.#share(entry) : null;
      if (id === null) inline.push(entry);
      else ids.push(id);
    }
    if (ids.length + inline.length === 0) return NO_XATTRS;
    const header = Buffer.alloc(HEADER_BYTES + ids.length * WORD);
    header.writeUInt8(ids.length, 4);
    for (const [index, id] of ids.entries()) header.writeUInt32LE(id, HEADER_BYTES + index * WORD);
    const bytes = Buffer.concat([header, ...inline]);
    const words = (bytes.length - HEADER_BYTES) / WORD + 1;
    if (words > MAX_WORDS) throw tooLarge(path(), `${bytes.length} bytes`, `${MAX_WORDS * WORD}`);
    return { bytes, words };
  }

  /** The id of an entry that was met before, or null. */
  #share(entry: Buffer): number | null {
    const key = entry.length <= MAX_KEY_BYTES ? entry.toString('latin1') : createHash('sha256').update(entry).digest('base64');
    const known = this.#ids.get(key);
    if (known === undefined) {
      this.#ids.set(key, null);
      return null;
    }
    if (known !== null) return known;
    const id = this.#sharedBytes / WORD;
    this.#shared.push(entry);
    this.#sharedBytes += entry.length;
    this.#ids.set(key, id);
    return id;
  }
}

/** Padded to whole words; null for a name without a number. */
function encodeEntry({ name, value }: Xattr, path: () => Buffer): Buffer | null {
  if (value.length > MAX_VALUE_BYTES) throw tooLarge(path(), `a value of ${value.length} bytes`, `${MAX_VALUE_BYTES}`);
  const text = name.toString('latin1');
  const [prefix, index] = PREFIXES.find(([start]) => text.startsWith(start)) ?? [text, ACLS.get(text)];
  if (index === undefined) return null;
  const rest = name.subarray(prefix.length);
  const length = ENTRY_BYTES + rest.length + value.length;
  const entry = Buffer.alloc(Math.ceil(length / WORD) * WORD);
  entry.writeUInt8(rest.length, 0);
  entry.writeUInt8(index, 1);
  entry.writeUInt16LE(value.length, 2);
  rest.copy(entry, ENTRY_BYTES);
  value.copy(entry, ENTRY_BYTES + rest.length);
  return entry;
}

function tooLarge(path: Buffer, what: string, most: string): RootlayerError {
  return new RootlayerError(
    'E_LIMIT_XATTR',
    `Cannot put "${escapeName(path)}" on a disk: its extended attributes have ${what}, want at most ${most}`,
  );
}
