import { setImmediate } from 'node:timers/promises';
import { RootlayerError } from '../../core/errors.ts';
import { isErrno } from '../../host/errno.ts';
import {
  chmodAt,
  chownAt,
  close,
  linkAt,
  mknodAt,
  S_IFBLK,
  S_IFCHR,
  S_IFLNK,
  S_IFMT,
  setXattrHere,
  statAt,
  statFd,
  utimesAt,
} from '../../host/libc.ts';
import { parseEntryPath, pathError, RESULT_PATH_LIMITS } from './entry-path.ts';
import type { LateAttributes, LateNode, LateWork } from './result-protocol.ts';
import { openDirectory } from './staging-dirs.ts';
import { applyXattrBy } from './xattr-policy.ts';

/** Others get their turn on the daemon's only thread after so long: a file with a deep path can take a hundred times as long as another. */
const TURN_MS = 10;

/**
 * Does, as root of the host, what a confined worker has left of a guest's result: devices, owners above 65535, marks of overlayfs and default lists.
 * `upperFd` is the upper directory with plain ids, on a mount with `nodev` and `nosuid`, and nobody else may write to it any more. Every parent is
 * opened below it over no symlink, and nothing is followed. Throws `E_ARCHIVE_PATH` when a device's name is taken, `E_ARCHIVE_XATTR`,
 * `E_LIMIT_XATTR`, `E_SYSCALL`.
 */
export async function finishResult(upperFd: number, { nodes, attributes }: LateWork, signal: AbortSignal): Promise<void> {
  // Devices first: a default list would change what is made in its directory.
  await eachOf(nodes, (node) => makeNode(upperFd, node), signal);
  await eachOf(attributes, (late) => setAttributes(upperFd, late), signal);
}

async function eachOf<T>(list: readonly T[], work: (item: T) => void, signal: AbortSignal): Promise<void> {
  let begin = performance.now();
  for (const item of list) {
    if (performance.now() - begin > TURN_MS) {
      await setImmediate();
      begin = performance.now();
    }
    signal.throwIfAborted();
    work(item);
  }
}

/** A name in an open directory; `.` for the root itself. */
type Place = { readonly dirFd: number; readonly name: Buffer; readonly path: Buffer };

function makeNode(upperFd: number, node: LateNode): void {
  at(upperFd, node.path, (place) => {
    const { mtimeSec, mtimeNsec } = statFd(place.dirFd);
    try {
      if (node.kind === 'link') at(upperFd, node.target, (target) => linkAt(target.dirFd, target.name, place.dirFd, place.name));
      else makeDevice(place, node);
    } catch (error) {
      throw isErrno(error, 'EEXIST') ? pathError('E_ARCHIVE_PATH', place.path, 'another member has the same path') : error;
    }
    utimesAt(place.dirFd, '', mtimeSec, mtimeNsec);
  });
}

function makeDevice({ dirFd, name }: Place, device: Exclude<LateNode, { kind: 'link' }>): void {
  mknodAt(dirFd, name, device.kind === 'char' ? S_IFCHR : S_IFBLK, device.major, device.minor);
  chownAt(dirFd, name, device.owner.uid, device.owner.gid);
  chmodAt(dirFd, name, device.owner.mode);
  utimesAt(dirFd, name, device.mtimeSec, device.mtimeNsec);
}

function setAttributes(upperFd: number, { path, owner, xattrs }: LateAttributes): void {
  at(upperFd, path, (place) => {
    if (owner !== null) {
      chownAt(place.dirFd, place.name, owner.uid, owner.gid);
      // The change of the owner has taken set-user-id and set-group-id away.
      if ((statAt(place.dirFd, place.name).mode & S_IFMT) !== S_IFLNK) chmodAt(place.dirFd, place.name, owner.mode);
    }
    // Only calls by name set attributes of what is never opened; below the descriptor's link there is one component, which is not followed.
    const byName = Buffer.concat([Buffer.from(`/proc/self/fd/${place.dirFd}/`), place.name]);
    for (const { name, value } of xattrs) {
      const xattr = { name: Buffer.from(name), value: Buffer.from(value, 'base64') };
      const isSet = applyXattrBy((each) => setXattrHere(byName, each.name, each.value), place.path, xattr);
      if (!isSet)
        throw new RootlayerError('E_MISSING_FEATURE', `Cannot set attribute "${name}": the filesystem of the upper has none such`);
    }
  });
}

function at(upperFd: number, base64: string, use: (place: Place) => void): void {
  const path = Buffer.from(base64, 'base64');
  const { parent, name } = path.length === 0 ? ROOT : parseEntryPath(path, 'E_ARCHIVE_PATH', path, RESULT_PATH_LIMITS);
  const dirFd = openDirectory(upperFd, parent);
  try {
    use({ dirFd, name: name.length === 0 ? ROOT.name : name, path });
  } finally {
    close(dirFd);
  }
}

const ROOT = { parent: Buffer.alloc(0), name: Buffer.from('.') };
