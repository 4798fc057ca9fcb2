/** A member of the archive: its whole mode, type bits included, and for a device its numbers. */
export type NewcEntry = { name: string; mode: number; data?: Buffer; device?: readonly [major: number, minor: number] };

const TRAILER = 'TRAILER!!!';

/**
 * Gives a cpio archive in the "newc" form, which the kernel unpacks as its first root. Same entries, same bytes: owner 0:0, time 0, inode
 * numbers counted. Parents come before children, in the order given. Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
 */
export function writeNewc(entries: readonly NewcEntry[]): Buffer {
  const parts = entries.flatMap((entry, index) => encode(entry, index + 1));
  return Buffer.concat([...parts, ...encode({ name: TRAILER, mode: 0 }, 0)]);
}

function encode({ name, mode, data = Buffer.alloc(0), device = [0, 0] }: NewcEntry, inode: number): Buffer[] {
  const bytes = Buffer.from(`${name}\0`);
  const links = isDirectory(mode) ? 2 : 1;
  const fields = [inode, mode, 0, 0, links, 0, data.length, 0, 0, ...device, bytes.length, 0];
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`);
  return [header, bytes, padding(header.length + bytes.length), data, padding(data.length)];
}

function isDirectory(mode: number): boolean {
  return (mode & 0o170000) === 0o040000;
}

/** Names and bodies end at a multiple of four bytes. */
function padding(length: number): Buffer {
  return Buffer.alloc(-length & 3);
}
