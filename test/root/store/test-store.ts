import { execFileSync } from 'node:child_process';
import { createReadStream, existsSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { Test } from 'tap';
import type { ImageRecord } from '../../../src/core/image.ts';
import type { IngestSource } from '../../../src/store/ingest/ingest.ts';
import { Store, type StoreOptions } from '../../../src/store/store.ts';
import { storeUidBase } from '../../helpers/base-range.ts';
import { assertNoLeak, takeCensus } from '../../helpers/census.ts';

export const LIVE: AbortSignal = new AbortController().signal;

/** A fresh directory in memory, gone at the end of the test. */
export function scratchFor(t: Test): string {
  const dir = mkdtempSync(path.join(existsSync('/dev/shm') ? '/dev/shm' : os.tmpdir(), 'rootlayer-store-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** Runs the work with a store in `<dir>/state`, closes the store, and asserts that nothing but files is left. */
export async function withStore(t: Test, dir: string, work: (store: Store) => Promise<void>, options: StoreOptions = {}): Promise<void> {
  const before = takeCensus(dir);
  const problems: unknown[] = [];
  const store = Store.open(path.join(dir, 'state'), storeUidBase, { onProblem: (error) => void problems.push(error), ...options });
  try {
    await store.recover();
    await work(store);
  } finally {
    await store[Symbol.asyncDispose]();
  }
  t.same(problems, [], 'nothing went wrong behind the scenes');
  await assertNoLeak(t, dir, before);
}

export async function importFrom(
  store: Store,
  source: IngestSource | string,
  select: string | null = null,
  uid = 1000,
): Promise<ImageRecord> {
  const stream = typeof source === 'string' ? createReadStream(source) : source;
  return await store.importArchive(uid, stream, { name: null, select, shared: false }, () => {}, LIVE);
}

/** Runs a program and gives what it prints; what it says on standard error is in the error. */
export function run(program: string, args: readonly string[], env: Record<string, string> = {}): string {
  return execFileSync(program, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
    timeout: 60_000,
  });
}

export function skopeoCopy(from: string, to: string, ...more: string[]): void {
  run('skopeo', ['--insecure-policy', 'copy', '-q', ...more, from, to]);
}
