import type { TarType, Xattr } from '../../core/tar/entry.ts';

/** What is done with an attribute in the result of a guest: by the worker, later by the daemon, not at all, or the result is refused. */
export type ResultXattrVerdict = 'now' | 'later' | 'drop' | 'refuse';

/** The highest id in the user namespace of a worker. */
export const MAX_WORKER_ID = 65_535;

/** Overlayfs' mark of a directory that hides what lower layers have in it. */
const OPAQUE_NAME = 'trusted.overlay.opaque';

const CAPABILITY = 'security.capability';
const ACCESS_ACL = 'system.posix_acl_access';
const DEFAULT_ACL = 'system.posix_acl_default';

/**
 * Judges an attribute of a file as it lay in the upper directory of a guest. Opaque directories keep their mark; any other mark of overlayfs is
 * refused, because an honest guest sends none: it would say of the tree what no layer can hold; so is `user.*` on what can have none. Other `user.*`,
 * file capabilities and access control lists are kept. What a capture would leave out is left out here already: `user.overlay.*`, the rest of `trusted.` and of `security.`, and
 * capabilities for other user namespaces.
 *
 * Later, by the daemon, come marks of overlayfs, which need its privilege, default lists, which new files would inherit, and values with ids
 * above those of the worker. Source: spec/threats.md A39, A43, A44, U08 to U12; xattr(7).
 */
export function judgeResultXattr({ name, value }: Xattr, type: TarType): ResultXattrVerdict {
  const text = name.toString('latin1');
  const isDirectory = type === 'directory';
  if (text === OPAQUE_NAME) return isDirectory && value.toString('latin1') === 'y' ? 'later' : 'refuse';
  if (text.startsWith('trusted.overlay.')) return 'refuse';
  if (text.startsWith('user.') && !isDirectory && type !== 'file') return 'refuse';
  if (text.startsWith('user.') && !text.startsWith('user.overlay.') && text !== 'user.') return 'now';
  if (text === CAPABILITY) return isForeignCapability(value) ? 'drop' : 'now';
  if (text === ACCESS_ACL) return hasForeignId(value) ? 'later' : 'now';
  return text === DEFAULT_ACL && isDirectory ? 'later' : 'drop';
}

/** A change of the owner takes a file's capabilities away, also when root makes it. */
export function isLostWithOwner({ name }: Xattr): boolean {
  return name.toString('latin1') === CAPABILITY;
}

/** Size and root id of revision 3. Source: linux/capability.h, struct vfs_ns_cap_data. */
const REVISION_3_BYTES = 24;
const ROOT_ID_AT = 20;

function isForeignCapability(value: Buffer): boolean {
  return value.length === REVISION_3_BYTES && value.readUInt32LE(ROOT_ID_AT) !== 0;
}

/** Source: Linux include/uapi/linux/posix_acl_xattr.h; a version, then tag, permissions and id of each entry. */
const ACL_HEADER_BYTES = 4;
const ACL_ENTRY_BYTES = 8;
const ACL_ID_AT = 4;
const ACL_USER = 0x02;
const ACL_GROUP = 0x08;

function hasForeignId(acl: Buffer): boolean {
  for (let at = ACL_HEADER_BYTES; at + ACL_ENTRY_BYTES <= acl.length; at += ACL_ENTRY_BYTES) {
    const tag = acl.readUInt16LE(at);
    if ((tag === ACL_USER || tag === ACL_GROUP) && acl.readUInt32LE(at + ACL_ID_AT) > MAX_WORKER_ID) return true;
  }
  return false;
}
