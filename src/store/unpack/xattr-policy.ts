import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { Xattr } from '../../core/tar/entry.ts';
import { isErrno } from '../../host/errno.ts';
import { setXattrFd } from '../../host/libc.ts';
import { pathError } from './entry-path.ts';

/** What is done with an attribute of a layer. */
export type XattrVerdict = 'set' | 'acl' | 'default-acl' | 'drop' | 'refuse';

/**
 * Judges an attribute by its name: `user.*` and file capabilities are kept; access control lists have a verdict of their own; what
 * steers overlayfs is refused (a layer could reveal or hide files of others by it), as is everything else in `trusted.`; labels and
 * hashes of security modules mean nothing here and are dropped. Source: spec/threats.md A39, A43, A44; xattr(7).
 */
export function judgeXattr(name: Buffer): XattrVerdict {
  const text = name.toString('latin1');
  if (text.startsWith('user.overlay.') || text.startsWith('trusted.')) return 'refuse';
  if (text.startsWith('user.') && text !== 'user.') return 'set';
  if (text === 'security.capability') return 'set';
  if (text === 'system.posix_acl_access') return 'acl';
  if (text === 'system.posix_acl_default') return 'default-acl';
  return 'drop';
}

/** Counts attributes that were left out, by name. */
export class DroppedXattrs {
  count = 0;
  readonly #names = new Set<string>();

  add(name: Buffer): void {
    this.count += 1;
    if (this.#names.size < MAX_NAMES) this.#names.add(escapeName(name, 64));
  }

  /** One sentence for people, or null when nothing was dropped. */
  warning(): string | null {
    return this.count === 0 ? null : `dropped ${this.count} extended attributes: ${[...this.#names].sort().join(', ')}`;
  }
}

/** Names in a warning; the rest only count. */
const MAX_NAMES = 16;

/**
 * Sets an attribute and gives false when the filesystem has none of its kind. Ids in a capability or an access control list are
 * translated by the kernel like owners are, since the worker is root of the user namespace. Throws `E_LIMIT_XATTR` when it is too large
 * for the filesystem, `E_ARCHIVE_XATTR` when the kernel calls the value invalid.
 */
export function applyXattr(fd: number, member: Buffer, xattr: Xattr): boolean {
  return applyXattrBy(({ name, value }) => setXattrFd(fd, name, value), member, xattr);
}

/** {@link applyXattr} for what has no descriptor: `set` is the call. */
export function applyXattrBy(set: (xattr: Xattr) => void, member: Buffer, xattr: Xattr): boolean {
  const { name, value } = xattr;
  const invalid = (): RootlayerError => pathError('E_ARCHIVE_XATTR', member, `its attribute "${escapeName(name)}" has no valid value`);
  // The kernel's word for another version is the one for a filesystem without lists.
  if (name.toString('latin1').startsWith(ACL_PREFIX) && !value.subarray(0, ACL_VERSION.length).equals(ACL_VERSION)) throw invalid();
  try {
    set(xattr);
    return true;
  } catch (error) {
    if (isErrno(error, 'EOPNOTSUPP')) return false;
    if (isErrno(error, 'E2BIG', 'ERANGE', 'ENOSPC', 'EDQUOT')) {
      throw new RootlayerError(
        'E_LIMIT_XATTR',
        `Cannot unpack member "${escapeName(member)}": attribute "${escapeName(name)}" of ${value.length} bytes does not fit`,
        { cause: error },
      );
    }
    if (isErrno(error, 'EINVAL')) throw invalid();
    throw error;
  }
}

const ACL_PREFIX = 'system.posix_acl_';
/** POSIX_ACL_XATTR_VERSION, little-endian. Source: Linux include/uapi/linux/posix_acl_xattr.h. */
const ACL_VERSION = Buffer.from([2, 0, 0, 0]);
