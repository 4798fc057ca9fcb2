/** Revisions and the effective flag of `security.capability`. Source: linux/capability.h, VFS_CAP_REVISION_1 to _3. */
const REVISION_1 = 0x01000000;
const REVISION_2 = 0x02000000;
const REVISION_3 = 0x03000000;
const REVISION_MASK = 0xff000000;
const EFFECTIVE = 0x000001;

const LENGTHS: Readonly<Record<number, number>> = { [REVISION_1]: 12, [REVISION_2]: 20, [REVISION_3]: 24 };

/**
 * Gives a file capability in the form for layers, revision 2 (20 bytes): from revision 1, from 2 as it is, and from 3 when its root
 * is uid 0. Null for anything else: a value that the kernel would not read, or one for another user namespace.
 */
export function toRevision2(value: Buffer): Buffer | null {
  const magic = value.length >= 4 ? value.readUInt32LE(0) : 0;
  const revision = (magic & REVISION_MASK) >>> 0;
  if (LENGTHS[revision] !== value.length || (magic & ~(REVISION_MASK | EFFECTIVE)) !== 0) return null;
  if (revision === REVISION_2) return value;
  if (revision === REVISION_3 && value.readUInt32LE(20) !== 0) return null;
  const out = Buffer.alloc(20);
  value.copy(out, 4, 4, Math.min(value.length, 20));
  out.writeUInt32LE(REVISION_2 | (magic & EFFECTIVE), 0);
  return out;
}
