import { RootlayerError } from '../core/errors.ts';
import { escapeName } from '../core/names.ts';
import type { Xattr } from '../core/tar/entry.ts';
import { isErrno } from '../host/errno.ts';
import { toRevision2 } from './capability.ts';

/** How a file's attributes are read: by descriptor, or by name in the current directory. */
export type XattrSource = { list(): Buffer[]; get(name: Buffer): Buffer | null };

/** What becomes of an attribute in a layer. */
type Fate = 'keep' | 'capability' | 'opaque' | 'whiteout' | 'ignore' | 'refuse' | 'drop';

/** What the attributes of one file say. */
export type FileXattrs = {
  /** For the layer, sorted by the bytes of their names. */
  readonly kept: readonly Xattr[];
  /** `y`: overlayfs hides the lower directory; `x`: the directory may hold whiteouts in the form of a file. */
  readonly opaque: 'no' | 'y' | 'x';
  /** Overlayfs' mark of a whiteout in the form of an empty file. */
  readonly isWhiteout: boolean;
  /** Names of attributes that do not go into the layer, escaped; overlayfs' own are not among them. */
  readonly dropped: readonly string[];
};

const NONE: FileXattrs = { kept: [], opaque: 'no', isWhiteout: false, dropped: [] };

/** Names with a fate of their own; overlayfs escapes its own names as `overlay.overlay.` when it is nested, which stays `drop`. */
const BY_NAME: ReadonlyMap<string, Fate> = new Map<string, Fate>([
  ['security.capability', 'capability'],
  ['system.posix_acl_access', 'keep'],
  ['system.posix_acl_default', 'keep'],
  ['trusted.overlay.opaque', 'opaque'],
  ['trusted.overlay.whiteout', 'whiteout'],
  ['trusted.overlay.redirect', 'refuse'],
  ['trusted.overlay.metacopy', 'refuse'],
]);

/** First match wins. */
const BY_PREFIX: readonly (readonly [string, Fate])[] = [
  ['trusted.overlay.', 'ignore'],
  ['user.overlay.', 'drop'],
  ['user.', 'keep'],
];

/** Bytes of one value: the kernel's XATTR_SIZE_MAX. */
const MAX_VALUE_BYTES = 64 * 1024;

/**
 * Reads the attributes of one file through the policy: `user.*` (but not `user.overlay.*`), POSIX ACLs and file capabilities (as revision 2) are
 * kept, overlayfs' own are interpreted, all others are dropped. Throws `E_CAPTURE_OVERLAY` for marks that a layer cannot express (a redirect or
 * data left below), `E_LIMIT_XATTR` when names and values have more than `maxBytes`, or more than the kernel lists.
 * Source: Linux Documentation/filesystems/overlayfs.rst; spec of threats, U08 to U12.
 */
export function readXattrs(source: XattrSource, path: () => Buffer, maxBytes: number): FileXattrs {
  const names = listNames(source, path);
  if (names.length === 0) return NONE;
  const kept: Xattr[] = [];
  const dropped: string[] = [];
  let opaque: FileXattrs['opaque'] = 'no';
  let isWhiteout = false;
  let bytes = 0;
  const keep = (name: Buffer, value: Buffer): void => {
    bytes += name.length + value.length;
    if (value.length > MAX_VALUE_BYTES || bytes > maxBytes) throw tooLarge(path(), `more than ${maxBytes} bytes`);
    kept.push({ name, value });
  };
  for (const name of names) {
    const fate = fateOf(name.toString('latin1'));
    if (fate === 'ignore') continue;
    if (fate === 'refuse') throw notExpressible(path(), name);
    const value = fate === 'drop' ? null : source.get(name);
    if (fate === 'opaque') opaque = value?.toString('latin1') === 'y' ? 'y' : value?.toString('latin1') === 'x' ? 'x' : 'no';
    else if (fate === 'whiteout') isWhiteout = true;
    else if (fate === 'keep' && value !== null) keep(name, value);
    else {
      const capability = fate === 'capability' && value !== null ? toRevision2(value) : null;
      if (capability === null) dropped.push(escapeName(name));
      else keep(name, capability);
    }
  }
  kept.sort((a, b) => Buffer.compare(a.name, b.name));
  return { kept, opaque, isWhiteout, dropped };
}

function listNames(source: XattrSource, path: () => Buffer): Buffer[] {
  try {
    return source.list();
  } catch (error) {
    if (isErrno(error, 'E2BIG', 'ERANGE')) throw tooLarge(path(), 'names of more than 65536 bytes');
    throw error;
  }
}

function fateOf(name: string): Fate {
  return BY_NAME.get(name) ?? BY_PREFIX.find(([prefix]) => name.startsWith(prefix))?.[1] ?? 'drop';
}

function tooLarge(path: Buffer, what: string): RootlayerError {
  return new RootlayerError('E_LIMIT_XATTR', `Cannot capture "${escapeName(path)}": its extended attributes have ${what}, want less`);
}

function notExpressible(path: Buffer, name: Buffer): RootlayerError {
  return new RootlayerError('E_CAPTURE_OVERLAY', `Cannot capture "${escapeName(path)}": it has the mark "${escapeName(name)}", want none`, {
    hint: 'The root was mounted with redirect_dir or metacopy; rootlayer mounts without them.',
  });
}
