import {
  close,
  O_DIRECTORY,
  O_NOFOLLOW,
  openAt2,
  RESOLVE_BENEATH,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_NO_SYMLINKS,
  RESOLVE_NO_XDEV,
} from '../host/libc.ts';

/** How every name below a captured directory is resolved: never out of it, through a symlink or onto another mount. Source: openat2(2). */
export const BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;

/** Directories above the deepest one that stay open. */
const WINDOW = 16;
/** Besides, every directory at a multiple of this depth stays open, so that going back up a deep tree never starts at its root. */
const CHECKPOINT = 1024;
/** Longest relative path in one call; PATH_MAX is 4096 with the NUL. */
const MAX_CALL_PATH = 4000;

const DIRECTORY_FLAGS = O_DIRECTORY | O_NOFOLLOW;
const SLASH = Buffer.from('/');

/**
 * A chain of directories from a root downwards, by descriptors, at any depth with a few dozen of them open. The root's descriptor belongs
 * to the caller. Dispose it to close the others. Throws SyscallError of openat2.
 */
export class DirectoryPath implements Disposable {
  readonly #names: Buffer[] = [];
  /** By depth, the root's at 0; null where it was closed to save descriptors. */
  readonly #fds: (number | null)[];

  constructor(rootFd: number) {
    this.#fds = [rootFd];
  }

  /** 0 for the root. */
  get depth(): number {
    return this.#names.length;
  }

  /** The descriptor of the deepest directory, valid until the next {@link enter} or {@link leave}. */
  get fd(): number {
    return this.#fdAt(this.depth) ?? this.#reopen();
  }

  /** Goes down into a directory of the deepest one. */
  enter(name: Buffer): void {
    const fd = openAt2(this.fd, name, DIRECTORY_FLAGS, BENEATH);
    this.#names.push(name);
    this.#fds.push(fd);
    this.#closeAt(this.depth - WINDOW);
  }

  /** Goes back up by one. */
  leave(): void {
    const fd = this.#fds.pop();
    if (typeof fd === 'number') close(fd);
    this.#names.pop();
  }

  [Symbol.dispose](): void {
    while (this.depth > 0) this.leave();
  }

  #fdAt(depth: number): number | null {
    return this.#fds[depth] ?? null;
  }

  #closeAt(depth: number): void {
    const fd = depth > 0 && depth % CHECKPOINT !== 0 ? this.#fdAt(depth) : null;
    if (fd === null) return;
    close(fd);
    this.#fds[depth] = null;
  }

  /** Opens the deepest directory and those of the window above it again, from the nearest one that is still open. */
  #reopen(): number {
    let depth = this.depth;
    while (this.#fdAt(depth) === null) depth -= 1;
    const start = Math.max(depth, this.depth - WINDOW + 1);
    let fd = this.#descend(depth, start);
    if (start > depth) this.#fds[start] = fd;
    for (let at = start + 1; at <= this.depth; at += 1) {
      fd = openAt2(fd, this.#names[at - 1] ?? SLASH, DIRECTORY_FLAGS, BENEATH);
      this.#fds[at] = fd;
    }
    return fd;
  }

  /** Gives the descriptor at depth `to`, below the open one at depth `from`; the ones between are closed again. */
  #descend(from: number, to: number): number {
    const first = this.#fdAt(from) ?? 0;
    let fd = first;
    for (let at = from; at < to; ) {
      const { path, next } = this.#joinNames(at, to);
      const above = fd;
      try {
        fd = openAt2(above, path, DIRECTORY_FLAGS, BENEATH);
      } finally {
        if (above !== first) close(above);
      }
      at = next;
    }
    return fd;
  }

  /** As many names from depth `from` on as go into one call, and the depth that they lead to. */
  #joinNames(from: number, to: number): { path: Buffer; next: number } {
    const parts: Buffer[] = [];
    let next = from;
    for (let length = 0; next < to; next += 1) {
      const name = this.#names[next] ?? SLASH;
      if (length + name.length >= MAX_CALL_PATH) break;
      parts.push(name, SLASH);
      length += name.length + 1;
    }
    return { path: Buffer.concat(parts), next };
  }
}
