import type { TarEntry, Xattr } from '../../core/tar/entry.ts';
import { pathError } from './entry-path.ts';
import type { LateAttributes, LateNode, LateWork } from './result-protocol.ts';
import { MAX_WORKER_ID } from './result-xattrs.ts';

const MIB = 1024 * 1024;
/** The daemon's only thread parses the list in one go: so much takes it some tens of milliseconds. */
const MAX_BYTES = 4 * MIB;
/** The words around a path or a value. */
const RECORD_BYTES = 160;

/** Collects what a worker in a user namespace cannot do itself. Paths are latin1, without symlinks; empty for the root. */
export class LateList {
  readonly #nodes: LateNode[] = [];
  readonly #attributes: LateAttributes[] = [];
  readonly #paths = new Set<string>();
  #bytes = 0;

  /** A device, which only the host's root can make. Throws `E_LIMIT_RESULT` when the list becomes too long, like the other calls. */
  device(path: string, kind: 'char' | 'block', entry: TarEntry): void {
    this.#count(entry, path.length);
    this.#paths.add(path);
    const { devMajor: major, devMinor: minor, mtimeSec, mtimeNsec } = entry;
    this.#nodes.push({ kind, path: encode(path), major, minor, owner: ownerOf(entry), mtimeSec, mtimeNsec });
  }

  /** Another name of a device. */
  link(path: string, target: string, entry: TarEntry): void {
    this.#count(entry, path.length + target.length);
    this.#paths.add(path);
    this.#nodes.push({ kind: 'link', path: encode(path), target: encode(target) });
  }

  /** Tells whether a path is one of a device. */
  hasNode(path: string): boolean {
    return this.#paths.has(path);
  }

  /** Owner and mode where the owner is beyond the worker's map, and attributes; nothing when there is neither. */
  attributes(path: string, entry: TarEntry, xattrs: readonly Xattr[]): void {
    const owner = hasForeignOwner(entry) ? ownerOf(entry) : null;
    if (owner === null && xattrs.length === 0) return;
    this.#count(
      entry,
      xattrs.reduce((sum, { value }) => sum + value.length + RECORD_BYTES, path.length),
    );
    this.#attributes.push({
      path: encode(path),
      owner,
      xattrs: xattrs.map(({ name, value }) => ({ name: name.toString('latin1'), value: value.toString('base64') }) as LateXattr),
    });
  }

  work(): LateWork {
    return { nodes: this.#nodes, attributes: this.#attributes };
  }

  #count(entry: TarEntry, bytes: number): void {
    this.#bytes += RECORD_BYTES + bytes * 1.4;
    if (this.#bytes <= MAX_BYTES) return;
    const what = 'devices, owners above 65535 and directories with marks of overlayfs or default access lists';
    const why = `up to it, the list of ${what} is longer than ${MAX_BYTES / MIB} MiB`;
    throw pathError('E_LIMIT_RESULT', entry.name, why);
  }
}

type LateXattr = LateAttributes['xattrs'][number];

/** Tells whether an entry's owner is none that a worker can give. */
export function hasForeignOwner({ uid, gid }: TarEntry): boolean {
  return uid > MAX_WORKER_ID || gid > MAX_WORKER_ID;
}

function ownerOf({ uid, gid, mode }: TarEntry): { uid: number; gid: number; mode: number } {
  return { uid, gid, mode };
}

function encode(path: string): string {
  return Buffer.from(path, 'latin1').toString('base64');
}
