import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { close, mkdirAt, O_DIRECTORY, O_RDONLY, openAt } from '../../../../src/host/libc.ts';
import { finishResult } from '../../../../src/store/unpack/finish-result.ts';
import type { LateAttributes } from '../../../../src/store/unpack/result-protocol.ts';

const DEPTH = 8_000;
const NAME = Buffer.from('a');

function makeDeepDirectory(top: number): void {
  let fd = top;
  for (let level = 0; level < DEPTH; level++) {
    mkdirAt(fd, NAME, 0o755);
    const next = openAt(fd, NAME, O_RDONLY | O_DIRECTORY);
    if (fd !== top) close(fd);
    fd = next;
  }
  close(fd);
}

t.test('finishResult() lets others have their turn, however few and deep the files are', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'finish-'));
  t.teardown(() => execFileSync('rm', ['-rf', directory]));
  const top = openSync(directory, O_RDONLY | O_DIRECTORY);
  t.teardown(() => closeSync(top));
  makeDeepDirectory(top);

  const path = Buffer.from(Array<string>(DEPTH).fill('a').join('/')).toString('base64');
  const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, mode: 0o755 };
  const attributes: LateAttributes[] = Array<LateAttributes>(200).fill({ path, owner, xattrs: [] });
  let turns = 0;
  const count = setInterval(() => {
    turns += 1;
  }, 1);
  const begin = performance.now();
  await finishResult(top, { nodes: [], attributes }, new AbortController().signal);
  clearInterval(count);
  const took = performance.now() - begin;
  t.ok(took > 50, `the work is too little to tell: ${took} ms`);
  t.ok(turns > 0, `no turn in ${took} ms`);
});
