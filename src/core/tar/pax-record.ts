import type { Xattr } from './entry.ts';
import { LIBARCHIVE_XATTR, SCHILY_XATTR } from './layout.ts';

/**
 * Gives one PAX record, `LENGTH KEY=VALUE` and a newline; the length counts the whole record, its own digits included. The key is ASCII
 * without `=`. Source: POSIX pax(1), "pax Extended Header".
 */
export function record(key: string, value: Buffer): Buffer {
  const rest = key.length + value.length + 3;
  let length = rest + String(rest).length;
  // Its own digits may have made the number one digit longer.
  if (String(length).length > String(rest).length) length += 1;
  const out = Buffer.allocUnsafe(length);
  const start = out.write(`${length} ${key}=`, 'latin1');
  value.copy(out, start);
  out[length - 1] = 0x0a;
  return out;
}

/** Gives a record whose value is the number in decimal. */
export function numberRecord(key: string, value: number): Buffer {
  return record(key, Buffer.from(String(value)));
}

/**
 * Gives the record of an extended attribute: the raw value under `SCHILY.xattr.`, or, because a key ends at its first `=`, base64 under
 * `LIBARCHIVE.xattr.` when the name holds one. Source: star(5), libarchive tar(5).
 */
export function xattrRecord({ name, value }: Xattr): Buffer {
  const text = name.toString('latin1');
  if (!name.includes('=')) return record(SCHILY_XATTR + text, value);
  return record(LIBARCHIVE_XATTR + percentEncoded(text), Buffer.from(value.toString('base64').replace(/=+$/, '')));
}

function percentEncoded(text: string): string {
  return text.replace(/[^A-Za-z0-9._-]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`);
}
