import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { setTimeout } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { type FileResult, runTestFile } from '../../../scripts/test-runner/test-file.ts';

const PASS = "console.log('ok 1 - a');console.log('1..1');";

function run(t: Test, code: string, timeoutMs = 60_000, signal = new AbortController().signal): Promise<FileResult> {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'runner-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const file = path.join(dir, 'file.mjs');
  writeFileSync(file, code);
  return runTestFile(file, { stateDir: path.join(dir, 'state'), timeoutMs, env: process.env }, signal);
}

t.test('runTestFile() passes a file whose tests pass, with its own state directory', async (t) => {
  const { tally } = await run(t, `import fs from 'node:fs'; if (fs.statSync(process.env.ROOTLAYER_TEST_DIR).isDirectory()) {${PASS}}`);
  t.strictSame(tally, { passed: 1, failures: [], skips: [] });
});

t.test('runTestFile() fails a file that ends with a status though its tests pass, and keeps its standard error', async (t) => {
  const { tally, errorTail } = await run(t, `${PASS} console.error('why'); process.exitCode = 3;`);
  t.strictSame(tally.failures, [{ name: 'the process', detail: 'it ended with status 3 though no test failed' }]);
  t.equal(errorTail, 'why');
});

t.test('runTestFile() fails a file that is killed', async (t) => {
  const { tally } = await run(t, `${PASS} process.kill(process.pid, 'SIGKILL');`);
  t.strictSame(tally.failures, [{ name: 'the process', detail: 'it was ended by SIGKILL' }]);
});

t.test('runTestFile() ends a file that takes too long', async (t) => {
  const { tally } = await run(t, `${PASS} setInterval(() => {}, 1000);`, 1500);
  t.strictSame(tally.failures, [{ name: 'the process', detail: 'it did not end within 1.5 s' }]);
});

t.test('runTestFile() ends a file when the run is cancelled', async (t) => {
  const { tally } = await run(t, `${PASS} setInterval(() => {}, 1000);`, 60_000, AbortSignal.timeout(1500));
  t.strictSame(tally.failures, [{ name: 'the process', detail: 'it was ended by SIGTERM' }]);
});

t.test('runTestFile() ends what a file left running, and fails it', async (t) => {
  const left = `import { spawn } from 'node:child_process'; const c = spawn('sleep', ['300'], { stdio: 'inherit' }); c.unref(); console.error(c.pid); ${PASS}`;
  const { tally, errorTail } = await run(t, left);
  t.strictSame(tally.failures, [{ name: 'the process', detail: 'it left processes running' }]);
  for (let tries = 0; isRunning(errorTail) && tries < 100; tries += 1) await setTimeout(20);
  t.notOk(isRunning(errorTail));
});

/** A zombie, which only waits for init to ask for its status, runs no more (proc_pid_stat(5)). */
function isRunning(pid: string): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}
