import { randomBytes } from 'node:crypto';
import { fsync, fsyncSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { type Digest, hexOf } from '../core/digest.ts';
import { RootlayerError } from '../core/errors.ts';
import { isErrno } from '../host/errno.ts';
import {
  AT_FDCWD,
  chmodFd,
  chownAt,
  close,
  mkdirAt,
  O_CREAT,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_PATH,
  O_RDONLY,
  O_RDWR,
  openAt,
  RENAME_NOREPLACE,
  readDirectory,
  renameAt,
  S_IFMT,
  S_IFREG,
  statAt,
  tryLockFd,
  unlinkAt,
} from '../host/libc.ts';
import { closeAll } from '../host/worker.ts';
import { removeTree } from './remove-tree.ts';

/** A directory of ingest work: nothing in it is visible, and a crash leaves it to the next start to delete. */
export type WorkDir = { readonly name: string; readonly fd: number; readonly path: string };

/** A file that is complete and on disk, of the filesystem of the store, and whose digest somebody vouches for. */
export type SealedFile = { readonly dirFd: number; readonly name: string; readonly digest: Digest };

/** Makes a finished file root's, read-only, and has it on disk when the promise resolves. Throws `E_SIZE` when it is no file of that many bytes. */
export async function sealFile(dirFd: number, name: string, sizeBytes: number): Promise<void> {
  const fd = openAt(dirFd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  try {
    const { mode, size } = statAt(fd, '');
    if ((mode & S_IFMT) !== S_IFREG || size !== sizeBytes) {
      throw new RootlayerError('E_SIZE', `Cannot store file "${name}": it has ${size} bytes, want a file of ${sizeBytes}`);
    }
    chownAt(fd, '', 0, 0);
    chmodFd(fd, 0o400);
    await fsyncAsync(fd);
  } finally {
    close(fd);
  }
}

const fsyncAsync = promisify(fsync);

/**
 * The directories of the store below a state directory (0700, owned by the daemon), all used by descriptor:
 * `blobs/sha256/<hex>`, `layers/<hex of the diffID>` (a root directory each), `disks/`, `ingest/`, `trash/`. One process at a time.
 */
export class StateLayout {
  readonly path: string;
  readonly #fds: Parts;

  /** Makes what is missing. Throws `E_STATE` when another process has it open, or it cannot be made. */
  constructor(stateDir: string) {
    this.path = path.resolve(stateDir);
    try {
      this.#fds = openParts(this.path);
    } catch (error) {
      if (error instanceof RootlayerError && error.code === 'E_STATE') throw error;
      throw new RootlayerError('E_STATE', `Cannot use state directory "${this.path}": ${String(error)}`, { cause: error });
    }
  }

  close(): void {
    for (const fd of Object.values(this.#fds)) close(fd);
  }

  /** Makes a directory in `ingest/`, owned by `uid`. The caller gives it to {@link dropWork}. */
  makeWork(uid: number, mode: number): WorkDir {
    const name = randomBytes(16).toString('hex');
    mkdirAt(this.#fds.ingest, name, 0o700);
    const fd = openAt(this.#fds.ingest, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    chownAt(fd, '', uid, uid);
    chmodFd(fd, mode);
    return { name, fd, path: path.join(this.path, 'ingest', name) };
  }

  /** Deletes what is left of a work directory; it may have become a layer meanwhile. */
  async dropWork(work: WorkDir): Promise<void> {
    close(work.fd);
    await removeTree(this.#fds.ingest, work.name, this.#fds.trash);
  }

  /** Where a layer is, or will be. */
  layerPath(diffId: Digest): string {
    return path.join(this.path, 'layers', hexOf(diffId));
  }

  /** A descriptor (O_PATH) of a layer's root directory; the caller closes it. Throws `E_STORE_CORRUPT` when it is not there. */
  openLayer(diffId: Digest): number {
    return this.#open(this.#fds.layers, 'layer', diffId, O_PATH | O_DIRECTORY | O_NOFOLLOW);
  }

  /** A descriptor of a blob, for reading; the caller closes it. Throws `E_STORE_CORRUPT` when it is not there. */
  openBlob(digest: Digest): number {
    return this.#open(this.#fds.blobs, 'blob', digest, O_RDONLY | O_NOFOLLOW);
  }

  #open(dirFd: number, what: string, digest: Digest, flags: number): number {
    try {
      return openAt(dirFd, hexOf(digest), flags);
    } catch (error) {
      if (!isErrno(error, 'ENOENT')) throw error;
      throw new RootlayerError('E_STORE_CORRUPT', `Cannot open ${what} "${digest}": the store lists it, and it is not there`, {
        cause: error,
      });
    }
  }

  /** Makes sealed files blobs: on disk when this returns, and gone from where they were. An equal blob that is there already stays. */
  placeBlobs(files: readonly SealedFile[]): void {
    for (const { dirFd, name, digest } of files) {
      try {
        renameAt(dirFd, name, this.#fds.blobs, hexOf(digest), RENAME_NOREPLACE);
      } catch (error) {
        if (!isErrno(error, 'EEXIST')) throw error;
        unlinkAt(dirFd, name);
      }
    }
    fsyncSync(this.#fds.blobs);
  }

  /** Makes an unpacked and synced work directory the layer with this diffID. Gives false when there is one already. */
  placeLayer(work: WorkDir, diffId: Digest): boolean {
    try {
      renameAt(this.#fds.ingest, work.name, this.#fds.layers, hexOf(diffId), RENAME_NOREPLACE);
    } catch (error) {
      if (isErrno(error, 'EEXIST', 'ENOTEMPTY')) return false;
      throw error;
    }
    fsyncSync(this.#fds.layers);
    return true;
  }

  /** Deletes a blob; nothing happens when there is none. */
  removeBlob(name: string): void {
    this.#unlink(this.#fds.blobs, name);
  }

  #unlink(dirFd: number, name: string): void {
    try {
      unlinkAt(dirFd, Buffer.from(name, 'latin1'));
    } catch (error) {
      if (!isErrno(error, 'ENOENT')) throw error;
    }
  }

  /** Deletes a layer's tree; nothing happens when there is none. It is out of the way at once, and gone when the promise resolves. */
  async removeLayer(name: string): Promise<void> {
    await removeTree(this.#fds.layers, Buffer.from(name, 'latin1'), this.#fds.trash);
  }

  /** A descriptor of a file in `disks/`, for reading, or null when there is none. The caller closes it. */
  tryOpenDisk(name: string): number | null {
    try {
      return openAt(this.#fds.disks, Buffer.from(name, 'latin1'), O_RDONLY | O_NOFOLLOW);
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return null;
      throw error;
    }
  }

  /** Moves a sealed file of a work directory to `disks/`: on disk when this returns. */
  placeDisk(work: WorkDir, file: string, name: string): void {
    renameAt(work.fd, file, this.#fds.disks, name);
    fsyncSync(this.#fds.disks);
  }

  /** Deletes a file in `disks/`; nothing happens when there is none. */
  removeDisk(name: string): void {
    this.#unlink(this.#fds.disks, name);
  }

  /** Names in a part of the store, in no order, one character a byte. */
  list(part: 'blobs' | 'layers' | 'disks'): string[] {
    return namesIn(this.#fds[part]);
  }

  /** Deletes all that is unfinished or thrown away. Gives how many things there were. */
  async clear(): Promise<number> {
    let count = 0;
    for (const dirFd of [this.#fds.ingest, this.#fds.trash]) {
      for (const name of namesIn(dirFd)) {
        await removeTree(dirFd, Buffer.from(name, 'latin1'), this.#fds.trash);
        count += 1;
      }
    }
    return count;
  }
}

/** Open descriptors: the directories, and the lock that lasts as long as it is open. */
type Parts = Record<'lock' | 'blobs' | 'layers' | 'disks' | 'ingest' | 'trash', number>;

function openParts(directory: string): Parts {
  const opened: number[] = [];
  const keep = (fd: number): number => {
    opened.push(fd);
    return fd;
  };
  try {
    const top = keep(makeDirectory(AT_FDCWD, directory));
    const lock = keep(openAt(top, 'lock', O_RDWR | O_CREAT | O_NOFOLLOW, 0o600));
    if (!tryLockFd(lock)) throw new RootlayerError('E_STATE', `Cannot use state directory "${directory}": another rootlayer has it open`);
    const outer = keep(makeDirectory(top, 'blobs'));
    const blobs = keep(makeDirectory(outer, 'sha256'));
    const [layers, disks, ingest, trash] = [
      keep(makeDirectory(top, 'layers')),
      keep(makeDirectory(top, 'disks')),
      keep(makeDirectory(top, 'ingest')),
      keep(makeDirectory(top, 'trash')),
    ];
    closeAll([top, outer]);
    return { lock, blobs, layers, disks, ingest, trash };
  } catch (error) {
    closeAll(opened);
    throw error;
  }
}

/** Makes a directory 0700 if it is missing. Gives a descriptor of it, following no symlink. */
function makeDirectory(parentFd: number, name: string): number {
  try {
    mkdirAt(parentFd, name, 0o700);
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
  }
  return openAt(parentFd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

/** One character a byte: a name can be anything in a directory that somebody else wrote to. */
function namesIn(dirFd: number): string[] {
  return readDirectory(dirFd).map((entry) => entry.name.toString('latin1'));
}
