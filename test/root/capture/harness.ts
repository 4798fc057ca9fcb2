import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdirSync, mkdtempSync, openSync, readFileSync } from 'node:fs';
import path from 'node:path';
import type { Test } from 'tap';
import { type CaptureOptions, captureLayer, captureWorkerKind } from '../../../src/capture/capture-layer.ts';
import type { CaptureResult } from '../../../src/capture/capture-protocol.ts';
import { packTree } from '../../../src/capture/pack-tree.ts';
import type { TarEntry } from '../../../src/core/tar/entry.ts';
import { TarReader } from '../../../src/core/tar/reader.ts';
import { startWorker, type Worker } from '../../../src/host/worker.ts';

/** A member of a layer with its body. */
export type Member = TarEntry & { body: Buffer };

/** A warm capture worker and a directory for one test file; both end with the test. */
export class CaptureHarness {
  readonly directory: string;
  readonly worker: Worker;
  #count = 0;

  private constructor(directory: string, worker: Worker) {
    this.directory = directory;
    this.worker = worker;
  }

  static async start(t: Test): Promise<CaptureHarness> {
    const directory = mkdtempSync('/dev/shm/rootlayer-capture-');
    const worker = await startWorker(captureWorkerKind, [], new AbortController().signal);
    t.teardown(async () => {
      await worker[Symbol.asyncDispose]();
      // Node's own rmSync gives up on deep trees.
      execFileSync('rm', ['-rf', directory]);
    });
    return new CaptureHarness(directory, worker);
  }

  /** A path below the directory that was never given before. */
  newPath(name: string): string {
    this.#count += 1;
    return path.join(this.directory, `${name}-${this.#count}`);
  }

  /** A new directory in which a bash script has run, as root and without an overlay. The script stops at its first error. */
  makeDirectory(script = ''): string {
    const directory = this.newPath('directory');
    mkdirSync(directory);
    execFileSync('bash', ['-c', `set -e; umask 022\n${script}`], { cwd: directory, stdio: ['ignore', 'pipe', 'pipe'] });
    return directory;
  }

  /** Captures into a new file and gives its path too. */
  async capture(upper: string, lower: string | null, options: CaptureOptions = {}): Promise<CaptureResult & { tar: string }> {
    const tar = this.newPath('layer');
    const fds = { upper: openDirectory(upper), output: openSync(tar, 'wx'), lower: lower === null ? null : openDirectory(lower) };
    try {
      return { ...(await captureLayer(this.worker, fds, options, null, new AbortController().signal)), tar };
    } finally {
      for (const fd of Object.values(fds)) if (fd !== null) closeSync(fd);
    }
  }

  /** Packs a whole tree into a new file. */
  async pack(root: string, options: CaptureOptions = {}): Promise<CaptureResult & { tar: string }> {
    const tar = this.newPath('tree');
    const fds = { root: openDirectory(root), output: openSync(tar, 'wx') };
    try {
      return { ...(await packTree(this.worker, fds, options, null, new AbortController().signal)), tar };
    } finally {
      closeSync(fds.root);
      closeSync(fds.output);
    }
  }
}

function openDirectory(directory: string): number {
  return openSync(directory, constants.O_DIRECTORY);
}

/** All members of a tar, read by the strict reader. */
export function readMembers(tar: string): Member[] {
  const members: Member[] = [];
  let entry: TarEntry | null = null;
  let body: Buffer[] = [];
  const reader = new TarReader({
    entry: (next) => {
      entry = next;
      body = [];
    },
    data: (chunk) => {
      body.push(Buffer.from(chunk));
    },
    entryEnd: () => {
      if (entry !== null) members.push({ ...entry, body: Buffer.concat(body) });
    },
  });
  reader.write(readFileSync(tar));
  reader.end();
  return members;
}

/** Names of the members as latin1 text, a link with its target behind an arrow. */
export function memberNames(tar: string): string[] {
  return readMembers(tar).map(({ name, type, linkName }) => {
    const text = name.toString('latin1');
    return type === 'hardlink' || type === 'symlink' ? `${text} -> ${linkName.toString('latin1')}` : text;
  });
}
