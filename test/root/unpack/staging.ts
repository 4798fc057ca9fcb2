import { execFileSync } from 'node:child_process';
import {
  chownSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { RootlayerError } from '../../../src/core/errors.ts';
import type { Compression } from '../../../src/core/image.ts';
import { escapeName } from '../../../src/core/names.ts';
import { TarReader } from '../../../src/core/tar/reader.ts';
import {
  AT_FDCWD,
  close,
  getXattrFd,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openAt,
  readDirectory,
  readlinkAt,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  setXattrFd,
  statAt,
} from '../../../src/host/libc.ts';
import { startWorker, type Worker } from '../../../src/host/worker.ts';
import { Extractor } from '../../../src/store/unpack/extractor.ts';
import { type UnpackedLayer, type UnpackLayerRequest, unpackLayer, unpackWorkerKind } from '../../../src/store/unpack/unpack-layer.ts';
import { storeUidBase } from '../../helpers/base-range.ts';

/** A fresh directory for one test file's state, in memory where there is a tmpfs for it. */
export function makeScratch(name: string): string {
  return mkdtempSync(path.join(existsSync('/dev/shm') ? '/dev/shm' : os.tmpdir(), `rootlayer-${name}-`));
}

/** What a test changes about {@link unpackTo}. */
export type UnpackOptions = Partial<Pick<UnpackLayerRequest, 'limits' | 'takeWorker' | 'signal' | 'progress'>> & {
  compression?: Compression;
};

/** Unpacks a blob through the real worker into a fresh directory, which must not exist yet. */
export async function unpackTo(directory: string, blob: Buffer | string, options: UnpackOptions = {}): Promise<UnpackedLayer> {
  const file = typeof blob === 'string' ? blob : `${directory}.blob`;
  if (typeof blob !== 'string') writeFileSync(file, blob);
  makeStaging(directory, storeUidBase);
  const blobFd = openSync(file, constants.O_RDONLY);
  const stagingDirFd = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    const signal = options.signal ?? new AbortController().signal;
    return await unpackLayer({ compression: 'none', uidBase: storeUidBase, ...options, blobFd, stagingDirFd, signal });
  } finally {
    closeSync(blobFd);
    closeSync(stagingDirFd);
    if (typeof blob !== 'string') rmSync(file);
  }
}

/** An empty staging directory as the store makes it. */
export function makeStaging(directory: string, owner: number): void {
  mkdirSync(directory, { mode: 0o755 });
  chownSync(directory, owner, owner);
}

/**
 * Extracts a tar in this very process: as root of the host, with all of its files in reach. What is safe here is safe by the extractor
 * alone, without the walls around the worker.
 */
export function extractBare(directory: string, tar: Buffer): void {
  makeStaging(directory, 0);
  const umask = process.umask(0);
  const stagingFd = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  const extractor = new Extractor(stagingFd, { keepAcls: true, rootTimes: 'epoch', lowerFd: null, followsLowerLinks: false });
  try {
    const reader = new TarReader(extractor, { maxId: 65_535 });
    reader.write(tar);
    reader.end();
    for (const name of extractor.finish().opaqueDirectories) markOpaque(stagingFd, name);
  } finally {
    extractor.abort();
    closeSync(stagingFd);
    process.umask(umask);
  }
}

/**
 * Gives workers to several calls each, to save their starts. That a worker goes on after any error is a property of its own, and shown
 * by every test that uses this.
 */
export class WorkerShare implements AsyncDisposable {
  readonly #usesEach: number;
  #worker: Worker | null = null;
  #uses = 0;

  constructor(usesEach: number) {
    this.#usesEach = usesEach;
  }

  readonly take = async (signal: AbortSignal): Promise<Worker> => {
    if (this.#uses % this.#usesEach === 0) await this[Symbol.asyncDispose]();
    this.#uses += 1;
    this.#worker ??= await startWorker(unpackWorkerKind(storeUidBase), [], signal);
    const worker = this.#worker;
    return {
      isFresh: worker.isFresh,
      hasEnded: worker.hasEnded,
      call: (...args) => worker.call(...args),
      async [Symbol.asyncDispose](): Promise<void> {},
    };
  };

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#worker?.[Symbol.asyncDispose]();
    this.#worker = null;
  }
}

/** The code that a promise or a call fails with, or `none`; anything but a RootlayerError is thrown. */
export async function codeOf(work: () => unknown): Promise<string> {
  try {
    await work();
    return 'none';
  } catch (error) {
    if (error instanceof RootlayerError) return error.code;
    throw error;
  }
}

/**
 * A tree in a few words, sorted: `dir/`, `dir/ opaque`, `file=content`, `link->target`, `fifo|`, `name!` for a whiteout, `name==other`
 * for a second name of a file, and `name%` for anything else. Bytes are escaped, long contents cut.
 */
export function sketch(directory: string): string[] {
  const lines: string[] = [];
  const firstNames = new Map<bigint, string>();
  const walk = (fd: number, prefix: string): void => {
    if (getXattrFd(fd, 'trusted.overlay.opaque')?.toString('latin1') === 'y') lines.push(`${prefix === '' ? './' : prefix} opaque`);
    else if (prefix !== '') lines.push(prefix);
    const names = readDirectory(fd).map((entry) => entry.name);
    for (const name of names.sort(Buffer.compare)) {
      const shown = prefix + escapeName(name, 5000);
      const stat = statAt(fd, name);
      const first = firstNames.get(stat.ino);
      const type = stat.mode & S_IFMT;
      if (type === S_IFDIR) {
        const child = openAt(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        walk(child, `${shown}/`);
        close(child);
      } else if (first !== undefined) {
        lines.push(`${shown}==${first}`);
      } else {
        if (stat.nlink > 1) firstNames.set(stat.ino, shown);
        if (type === S_IFREG) lines.push(`${shown}=${escapeName(contentAt(fd, name), 40)}`);
        else if (type === S_IFLNK) lines.push(`${shown}->${escapeName(readlinkAt(fd, name), 5000)}`);
        else if (type === S_IFIFO) lines.push(`${shown}|`);
        else if (type === S_IFCHR && stat.rdevMajor === 0 && stat.rdevMinor === 0) lines.push(`${shown}!`);
        else lines.push(`${shown}%`);
      }
    }
  };
  const root = openAt(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY);
  walk(root, '');
  close(root);
  return lines.sort();
}

/**
 * What must be the same before and after a test file: this process's children and open descriptors. Children that were just killed, and
 * streams that were just destroyed, get a moment to go.
 */
export async function census(): Promise<{ children: string[]; fds: number }> {
  const look = (): { children: string[]; fds: number } => ({ children: childrenOf('self'), fds: readdirSync('/proc/self/fd').length });
  const deadline = performance.now() + 5000;
  let found = look();
  for (let calm = 0; calm < 5 && performance.now() < deadline; ) {
    await setTimeout(10);
    const next = look();
    calm = next.children.length === 0 && next.fds === found.fds ? calm + 1 : 0;
    found = next;
  }
  return found;
}

/** The children of a process, by their ids; none when it is gone. */
export function childrenOf(pid: string): string[] {
  const tasks = existsSync(`/proc/${pid}/task`) ? readdirSync(`/proc/${pid}/task`) : [];
  return tasks.flatMap((task) => readOrEmpty(`/proc/${pid}/task/${task}/children`).split(' ').filter(Boolean));
}

/** A file of proc, or nothing when its process has just ended. */
export function readOrEmpty(file: string): string {
  try {
    return readFileSync(file, 'latin1');
  } catch {
    return '';
  }
}

/** Removes a scratch directory, whatever a layer left in it (deep trees, odd modes, any names). */
export function removeScratch(directory: string): void {
  execFileSync('/bin/rm', ['-rf', '--one-file-system', '--', directory]);
}

function markOpaque(stagingFd: number, name: Buffer): void {
  const fd = openAt(stagingFd, name.length === 0 ? '.' : name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  setXattrFd(fd, 'trusted.overlay.opaque', Buffer.from('y'));
  close(fd);
}

function contentAt(dirFd: number, name: Buffer): Buffer {
  const fd = openAt(dirFd, name, O_RDONLY | O_NOFOLLOW);
  try {
    return readFileSync(fd);
  } finally {
    close(fd);
  }
}
