import { createWriteStream, mkdirSync } from 'node:fs';
import path from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Test } from 'tap';
import { type IdMaps, openIdMaps } from '../../../src/host/idmap.ts';
import { close, makePipe } from '../../../src/host/libc.ts';
import { type Upper, UpperFactory, type UpperLimits } from '../../../src/overlay/upper.ts';
import { type UnpackedResult, type UnpackResultRequest, unpackResult } from '../../../src/store/unpack/unpack-result.ts';
import { storeUidBase } from '../../helpers/base-range.ts';
import { makeScratch, removeScratch } from './staging.ts';

const DEFAULT_LIMITS: UpperLimits = { diskBytes: 64 * 1024 * 1024, inodes: 16_384 };

/** What a test changes about {@link ResultHarness.unpack}. */
export type ResultOptions = Partial<Pick<UnpackResultRequest, 'limits' | 'takeWorker' | 'signal' | 'progress'>>;

/** Uppers for results, as the host makes them for one job each. */
export class ResultHarness {
  readonly scratch: string;
  readonly #maps: IdMaps;
  readonly #factory: UpperFactory;
  readonly #uppers = new Set<Upper>();
  #made = 0;

  private constructor(scratch: string, maps: IdMaps) {
    this.scratch = scratch;
    this.#maps = maps;
    const directory = path.join(scratch, 'uppers');
    mkdirSync(directory, { recursive: true });
    this.#factory = new UpperFactory(directory);
  }

  /** What it has made is closed when the test ends. */
  static async start(t: Test, name: string): Promise<ResultHarness> {
    const harness = new ResultHarness(makeScratch(name), await openIdMaps(storeUidBase, storeUidBase));
    t.teardown(async () => {
      for (const upper of harness.#uppers) await upper.close();
      harness.#maps[Symbol.dispose]();
      removeScratch(harness.scratch);
    });
    return harness;
  }

  async newUpper(limits: Partial<UpperLimits> = {}): Promise<Upper> {
    this.#made += 1;
    const upper = await this.#factory.create(
      { ...DEFAULT_LIMITS, ...limits },
      this.#maps.upperFd,
      `${path.basename(this.scratch)}-${this.#made}`,
    );
    this.#uppers.add(upper);
    return upper;
  }

  async close(upper: Upper): Promise<void> {
    this.#uppers.delete(upper);
    await upper.close();
  }

  /** Sends a tar through a pipe into an upper. A writer that goes on after an error of the reader is ended by it. */
  async unpack(upper: Upper, tar: Iterable<Buffer> | AsyncIterable<Buffer>, options: ResultOptions = {}): Promise<UnpackedResult> {
    const [tarFd, writeFd] = makePipe();
    const writing = pipeline(Readable.from(tar), createWriteStream('', { fd: writeFd })).catch(() => {});
    const signal = options.signal ?? new AbortController().signal;
    try {
      return await unpackResult({ uidBase: storeUidBase, ...options, tarFd, upper, signal });
    } finally {
      close(tarFd);
      await writing;
    }
  }
}

/** A path by which other programs reach the upper directory, with plain ids. */
export function upperPath(upper: Upper): string {
  return `/proc/${process.pid}/fd/${upper.plainDirFd}`;
}
