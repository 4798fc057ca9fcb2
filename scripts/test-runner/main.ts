import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, statfsSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { readMountsBelow } from './leftovers.ts';
import { formatFile, formatSummary } from './report.ts';
import { emptyTally, type Tally } from './tally.ts';
import { runTestFile } from './test-file.ts';

/**
 * Runs the compiled tests below `dist/test`: those of `unit` side by side, then the others one after the other, because they
 * share mounts, loop devices and cgroups. Arguments are parts of file names; without any, all tests run.
 * The last line is `N passed, N failed, N skipped`; the status is 1 when a test failed, 130 when the run was ended.
 */
async function main(): Promise<number> {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { 'timeout-s': { type: 'string', default: '900' } } });
  const timeoutMs = Number(values['timeout-s']) * 1000;
  if (!(timeoutMs > 0)) throw new Error(`Cannot use the time limit "${values['timeout-s']}": want seconds`);
  const files = findTests(positionals);
  if (files.length === 0) throw new Error(`Cannot find tests for "${positionals.join(' ')}": want part of a file name below test/`);
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(name, () => stop.abort());
  const stateDir = makeStateDir();
  try {
    const total = emptyTally();
    const run = (batch: readonly string[], jobs: number): Promise<void> => runAll(batch, jobs, stateDir, timeoutMs, total, stop.signal);
    await run(files.filter(isUnit), os.availableParallelism());
    await run(
      files.filter((file) => !isUnit(file)),
      1,
    );
    process.stdout.write(formatSummary(total));
    if (stop.signal.aborted) return 130;
    return total.failures.length === 0 ? 0 : 1;
  } finally {
    removeStateDir(stateDir);
  }
}

const testRoot = path.join(import.meta.dirname, '../../test');

/** Sorted, so that each run has the same order. */
function findTests(filters: readonly string[]): string[] {
  const wanted = filters.map((filter) => filter.replace(/^.*\btest\//, '').replace(/\.ts$/, '.js'));
  return readdirSync(testRoot, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.js'))
    .filter((file) => wanted.length === 0 || wanted.some((part) => file.includes(part)))
    .sort();
}

function isUnit(file: string): boolean {
  return file.startsWith('unit/');
}

async function runAll(
  files: readonly string[],
  jobs: number,
  stateDir: string,
  timeoutMs: number,
  total: Tally,
  signal: AbortSignal,
): Promise<void> {
  const waiting = [...files];
  const work = async (): Promise<void> => {
    for (let file = waiting.shift(); file !== undefined && !signal.aborted; file = waiting.shift()) {
      const options = { stateDir: path.join(stateDir, String(nextDir++)), timeoutMs, env: process.env };
      const result = await runTestFile(path.join(testRoot, file), options, signal);
      process.stdout.write(formatFile(file, result));
      addTo(total, file, result.tally);
    }
  };
  await Promise.all(Array.from({ length: jobs }, work));
}

let nextDir = 0;

function addTo(total: Tally, file: string, tally: Tally): void {
  total.passed += tally.passed;
  total.failures.push(...tally.failures.map((failure) => ({ ...failure, name: `${file}: ${failure.name}` })));
  total.skips.push(...tally.skips.map((skip) => ({ ...skip, name: `${file}: ${skip.name}` })));
}

/** Below /dev/shm, where creating and deleting many files is fast, unless it is smaller than the tests need (1 GiB). */
function makeStateDir(): string {
  const { bavail, bsize } = statfsSync('/dev/shm');
  const parent = bavail * bsize >= 2 ** 30 ? '/dev/shm' : os.tmpdir();
  const dir = mkdtempSync(path.join(parent, 'rootlayer-test-'));
  // Tests run clients as other users, who must get through to what is meant for them.
  chmodSync(dir, 0o711);
  return dir;
}

/** NOTE: `fs.rm` fails on deep trees, and must never walk into a mount. */
function removeStateDir(dir: string): void {
  for (const mount of readMountsBelow(dir)) spawnSync('umount', [mount], { stdio: 'pipe' });
  spawnSync('rm', ['-rf', '--one-file-system', '--', dir], { stdio: 'pipe' });
}

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`test: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 2;
}
