import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, constants, mkdirSync, mkdtempSync, openSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Test } from 'tap';
import type { DiskResult } from '../../../src/erofs/disk-protocol.ts';
import { type DiskLimits, diskWorkerKind, makeDisk } from '../../../src/erofs/make-disk.ts';
import { mountDetached } from '../../../src/host/filesystems.ts';
import { close, MOUNT_ATTR_RDONLY } from '../../../src/host/libc.ts';
import { attachLoop } from '../../../src/host/loop.ts';
import { startWorker, type Worker } from '../../../src/host/worker.ts';
import { listTree, type TreeEntry } from '../../helpers/tree.ts';

const LIVE: AbortSignal = new AbortController().signal;

/** A disk worker and a directory for one test file; both end with the test. */
export class DiskHarness {
  readonly directory: string;
  readonly worker: Worker;
  #count = 0;

  private constructor(directory: string, worker: Worker) {
    this.directory = directory;
    this.worker = worker;
  }

  static async start(t: Test): Promise<DiskHarness> {
    const directory = mkdtempSync(path.join(tmpdir(), 'rootlayer-erofs-'));
    const worker = await startWorker(diskWorkerKind, [], LIVE);
    t.teardown(async () => {
      await worker[Symbol.asyncDispose]();
      // Node's own rmSync gives up on deep trees.
      execFileSync('rm', ['-rf', directory]);
    });
    return new DiskHarness(directory, worker);
  }

  /** A path below the directory that was never given before. */
  newPath(name: string): string {
    this.#count += 1;
    return path.join(this.directory, `${name}-${this.#count}`);
  }

  /** A new directory in which a bash script has run, as root. The script stops at its first error. */
  makeTree(script: string): string {
    const directory = this.newPath('tree');
    mkdirSync(directory);
    run('bash', ['-c', `set -e; umask 022\n${script}`], directory);
    return directory;
  }

  /** Makes an image of a tree, in a new file. */
  async make(tree: string, limits: DiskLimits = {}): Promise<DiskResult & { image: string }> {
    const image = this.newPath('image');
    const fds = { root: openSync(tree, constants.O_DIRECTORY), output: openSync(image, 'wx') };
    try {
      return { ...(await makeDisk(this.worker, fds, limits, null, LIVE)), image };
    } finally {
      closeSync(fds.root);
      closeSync(fds.output);
    }
  }

  /** What the kernel shows of an image. */
  listImage(image: string): TreeEntry[] {
    return withMounted(image, (root) => listTree(root, { exact: true }));
  }
}

/** Gives work the path of an image's root while it is mounted, read-only and in no mount table. */
export function withMounted<T>(image: string, work: (root: string) => T): T {
  const mountFd = mountImage(image);
  try {
    return work(`/proc/self/fd/${mountFd}/.`);
  } finally {
    close(mountFd);
  }
}

/** A detached mount of an image. Closing the descriptor ends it, and the loop device with it. */
export function mountImage(image: string): number {
  const file = openSync(image, 'r');
  try {
    const loop = attachLoop(file, path.basename(image));
    try {
      return mountDetached('erofs', { source: loop.path, ro: true }, MOUNT_ATTR_RDONLY);
    } finally {
      close(loop.fd);
    }
  } finally {
    closeSync(file);
  }
}

/** Runs a program and gives what it says, on either stream. Throws when it fails. */
export function run(program: string, args: readonly string[], cwd = '/'): string {
  return execFileSync(program, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], timeout: 120_000 });
}

/** What fsck.erofs finds wrong with an image: an empty text is what is wanted. Its exit status alone does not tell: it is 0 for a wrong checksum. */
export function checkImage(image: string, ...args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync('fsck.erofs', [image, ...args], { encoding: 'utf8', timeout: 120_000 });
  const said = stdout + stderr;
  return status === 0 || said !== '' ? said : `it ended with ${status}`;
}
