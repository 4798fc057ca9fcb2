import { createHash } from 'node:crypto';
import { readSync } from 'node:fs';
import { escapeName } from '../../src/core/names.ts';
import {
  AT_FDCWD,
  close,
  getXattrHere,
  listXattrsHere,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_NONBLOCK,
  openAt,
  readDirectory,
  readlinkAt,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_IFSOCK,
  type Stat,
  statAt,
} from '../../src/host/libc.ts';

/** What one file of a tree looks like, in plain values: two equal trees give deeply equal lists. */
export type TreeEntry = {
  /** Escaped by `escapeName`, without a leading slash; `.` for the root. */
  path: string;
  type: 'file' | 'directory' | 'symlink' | 'fifo' | 'socket' | 'char' | 'block' | 'unknown';
  /** Octal permission bits. */
  mode: string;
  /** `UID:GID` */
  owner: string;
  mtimeSec: number;
  /** With `exact` only. */
  mtimeNsec?: number;
  /** Of files only. */
  size?: number;
  sha256?: string;
  target?: string;
  /** `MAJOR:MINOR` */
  device?: string;
  /** Escaped name to the value in hex; `trusted.overlay.*` only with `exact`. */
  xattrs?: Record<string, string>;
  /** The path of the first other name (in the order of the list) of the same inode. */
  linkOf?: string;
};

/** What {@link listTree} leaves out or adds. */
export type TreeOptions = {
  /** Leave the mtime of the root out of the comparison (it becomes 0). */
  ignoreRootMtime?: boolean;
  /** Subtract this from every owner, for trees with shifted ids. */
  uidBase?: number;
  /** Leaves sockets out: layers cannot hold them. */
  ignoreSockets?: boolean;
  /** Also gives what no tar layer holds: nanoseconds of times, and overlayfs' own attributes. */
  exact?: boolean;
};

/** Lists all files of a tree, sorted by the bytes of their names, parents first; it walks by descriptors, so any name and any depth goes. */
export function listTree(directory: string | Buffer, options: TreeOptions = {}): TreeEntry[] {
  const fd = openAt(AT_FDCWD, Buffer.from(directory), O_DIRECTORY | O_NOFOLLOW);
  const lister = new Lister(options);
  try {
    lister.root(fd);
  } finally {
    close(fd);
  }
  return lister.entries;
}

/** Gives a readable report of what differs between two lists, one line a file, or an empty array when nothing does. */
export function diffTrees(expected: readonly TreeEntry[], actual: readonly TreeEntry[]): string[] {
  const wanted = new Map(expected.map((entry) => [entry.path, entry]));
  const found = new Map(actual.map((entry) => [entry.path, entry]));
  const paths = [...new Set([...wanted.keys(), ...found.keys()])].sort();
  return paths.flatMap((path) => {
    const [before, after] = [wanted.get(path), found.get(path)];
    if (after === undefined) return [`missing: ${path} (${before?.type})`];
    if (before === undefined) return [`unexpected: ${path} (${after.type})`];
    const changes = diffEntries(before, after);
    return changes === '' ? [] : [`differs: ${path}: ${changes}`];
  });
}

function diffEntries(before: TreeEntry, after: TreeEntry): string {
  const keys = [...new Set([...Object.keys(before), ...Object.keys(after)])] as (keyof TreeEntry)[];
  return keys
    .map((key) => [key, JSON.stringify(before[key]), JSON.stringify(after[key])])
    .filter(([, want, got]) => want !== got)
    .map(([key, want, got]) => `${key} is ${got}, want ${want}`)
    .join('; ');
}

const TYPES = new Map<number, TreeEntry['type']>([
  [S_IFREG, 'file'],
  [S_IFDIR, 'directory'],
  [S_IFLNK, 'symlink'],
  [S_IFIFO, 'fifo'],
  [S_IFSOCK, 'socket'],
  [S_IFCHR, 'char'],
  [S_IFBLK, 'block'],
]);

class Lister {
  readonly entries: TreeEntry[] = [];
  readonly #options: TreeOptions;
  readonly #firstNames = new Map<string, string>();
  readonly #buffer = Buffer.alloc(1024 * 1024);

  constructor(options: TreeOptions) {
    this.#options = options;
  }

  root(fd: number): void {
    const entry = this.#describe(fd, Buffer.from('.'), '.', statAt(fd, ''));
    this.entries.push(this.#options.ignoreRootMtime === true ? { ...entry, mtimeSec: 0 } : entry);
    this.#children(fd, '');
  }

  #children(fd: number, prefix: string): void {
    const names = readDirectory(fd)
      .map((entry) => entry.name)
      .sort(Buffer.compare);
    for (const name of names) {
      const path = prefix + escapeName(name, 4096);
      const stat = statAt(fd, name);
      if (this.#options.ignoreSockets === true && (stat.mode & S_IFMT) === S_IFSOCK) continue;
      this.entries.push(this.#describe(fd, name, path, stat));
      if ((stat.mode & S_IFMT) !== S_IFDIR) continue;
      const child = openAt(fd, name, O_DIRECTORY | O_NOFOLLOW);
      try {
        this.#children(child, `${path}/`);
      } finally {
        close(child);
      }
    }
  }

  #describe(dirFd: number, name: Buffer, path: string, stat: Stat): TreeEntry {
    const type = TYPES.get(stat.mode & S_IFMT) ?? 'unknown';
    const base = this.#options.uidBase ?? 0;
    const entry: TreeEntry = {
      path,
      type,
      mode: (stat.mode & 0o7777).toString(8).padStart(4, '0'),
      owner: `${stat.uid - base}:${stat.gid - base}`,
      mtimeSec: stat.mtimeSec,
    };
    if (this.#options.exact === true) entry.mtimeNsec = stat.mtimeNsec;
    if (type === 'file') Object.assign(entry, { size: stat.size, sha256: this.#sha256(dirFd, name) });
    if (type === 'symlink') entry.target = escapeName(readlinkAt(dirFd, name), 65_536);
    if (type === 'char' || type === 'block') entry.device = `${stat.rdevMajor}:${stat.rdevMinor}`;
    const xattrs = readXattrs(dirFd, name, this.#options.exact === true);
    if (Object.keys(xattrs).length > 0) entry.xattrs = xattrs;
    if (type !== 'directory' && stat.nlink > 1) this.#noteLink(entry, stat);
    return entry;
  }

  #noteLink(entry: TreeEntry, stat: Stat): void {
    const key = `${stat.devMajor}:${stat.devMinor}:${stat.ino}`;
    const first = this.#firstNames.get(key);
    if (first === undefined) this.#firstNames.set(key, entry.path);
    else entry.linkOf = first;
  }

  #sha256(dirFd: number, name: Buffer): string {
    const fd = openAt(dirFd, name, O_NOFOLLOW | O_NONBLOCK);
    try {
      const hash = createHash('sha256');
      for (;;) {
        const length = readSync(fd, this.#buffer, 0, this.#buffer.length, null);
        if (length === 0) return hash.digest('hex');
        hash.update(this.#buffer.subarray(0, length));
      }
    } finally {
      close(fd);
    }
  }
}

/** By way of /proc/self/fd, so that a symlink's own attributes can be read without changing the current directory. */
function readXattrs(dirFd: number, name: Buffer, withMarks: boolean): Record<string, string> {
  const path = Buffer.concat([Buffer.from(`/proc/self/fd/${dirFd}/`), name]);
  const names = listXattrsHere(path)
    .filter((attribute) => withMarks || !attribute.toString('latin1').startsWith('trusted.overlay.'))
    .sort(Buffer.compare);
  return Object.fromEntries(names.map((attribute) => [escapeName(attribute), getXattrHere(path, attribute)?.toString('hex') ?? '']));
}
