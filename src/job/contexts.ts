import { randomBytes } from 'node:crypto';
import { closeSync, createWriteStream, mkdirSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Caller } from '../core/engine.ts';
import { RootlayerError } from '../core/errors.ts';

/** How much one caller may have uploaded and not used yet. */
export type ContextLimits = { maxBytes: number; maxPerUid: number; lifeMs: number };

/** `tops` are the top directories that it has, once a worker has told. */
type Context = { uid: number; path: string; expiry: NodeJS.Timeout; isTaken: boolean; tops: ReadonlySet<string> | null };

/**
 * Tars of files for jobs, between their upload and their use: one job each, or an hour. They are read by nobody but the
 * confined worker that extracts them. Nothing survives a restart.
 */
export class ContextStore {
  readonly #directory: string;
  readonly #limits: ContextLimits;
  readonly #checkSpace: () => void;
  readonly #contexts = new Map<string, Context>();
  readonly #uploading = new Map<number, number>();

  /** Empties the directory, made if it is not there. `checkSpace` throws when the disk is too full to take more. */
  constructor(directory: string, limits: ContextLimits, checkSpace: () => void) {
    rmSync(directory, { recursive: true, force: true });
    mkdirSync(directory, { mode: 0o700 });
    this.#directory = directory;
    this.#limits = limits;
    this.#checkSpace = checkSpace;
  }

  /** Takes an upload whole. Throws `E_LIMIT_INGEST` when it is too large, `E_QUOTA` when the caller has too many. */
  async add(caller: Caller, tar: Readable, signal: AbortSignal): Promise<string> {
    const own =
      [...this.#contexts.values()].filter((context) => context.uid === caller.uid).length + (this.#uploading.get(caller.uid) ?? 0);
    if (own >= this.#limits.maxPerUid) {
      tar.destroy();
      throw new RootlayerError(
        'E_QUOTA',
        `Cannot take the files: ${own} uploads wait for their jobs, want at most ${this.#limits.maxPerUid}`,
      );
    }
    this.#checkSpace();
    const id = randomBytes(16).toString('hex');
    const path = join(this.#directory, id);
    this.#uploading.set(caller.uid, (this.#uploading.get(caller.uid) ?? 0) + 1);
    try {
      await pipeline(tar, byteCap(this.#limits.maxBytes), createWriteStream(path, { flags: 'wx', mode: 0o600 }), { signal });
    } catch (error) {
      rmSync(path, { force: true });
      throw error;
    } finally {
      this.#uploading.set(caller.uid, (this.#uploading.get(caller.uid) ?? 1) - 1);
    }
    const expiry = setTimeout(() => this.#drop(id), this.#limits.lifeMs).unref();
    this.#contexts.set(id, { uid: caller.uid, path, expiry, isTaken: false, tops: null });
    return id;
  }

  /** Gives a context to one job; disposing deletes it. Throws `E_NOT_FOUND` for an unknown, used or foreign one. */
  take(caller: Caller, id: string): AsyncDisposable {
    const context = this.#contexts.get(id);
    if (context === undefined || context.uid !== caller.uid || context.isTaken) throw notFound(id);
    clearTimeout(context.expiry);
    // No other job can take it; the file stays, and counts for its owner, until this one is done.
    context.isTaken = true;
    return { [Symbol.asyncDispose]: async () => this.#drop(id) };
  }

  /**
   * Lets a worker extract what is below a top directory of a taken context: calls `extract` with a descriptor that is closed afterwards, and
   * remembers which top directories it has found, so that no worker starts for one that is not there.
   */
  async extract(id: string, top: string, extract: (fd: number) => Promise<ReadonlySet<string>>): Promise<void> {
    const context = this.#contexts.get(id);
    if (context === undefined) throw notFound(id);
    if (context.tops?.has(top) === false) return;
    const fd = openSync(context.path, 'r');
    try {
      context.tops = await extract(fd);
    } finally {
      closeSync(fd);
    }
  }

  close(): void {
    for (const id of [...this.#contexts.keys()]) this.#drop(id);
  }

  #drop(id: string): void {
    const context = this.#contexts.get(id);
    if (context === undefined) return;
    clearTimeout(context.expiry);
    this.#contexts.delete(id);
    rmSync(context.path, { force: true });
  }
}

function notFound(id: string): RootlayerError {
  return new RootlayerError('E_NOT_FOUND', `Cannot find uploaded files "${id}": unknown, expired or used`, { hint: 'Upload them again.' });
}

function byteCap(maxBytes: number): Transform {
  let bytes = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      if (bytes > maxBytes) done(new RootlayerError('E_LIMIT_INGEST', `Cannot take the files: more than ${maxBytes} bytes`));
      else done(null, chunk);
    },
  });
}
