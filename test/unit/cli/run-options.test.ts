import { mkdirSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import path from 'node:path';
import t, { type Test } from 'tap';
import { parseBaseSource } from '../../../src/cli/base-source.ts';
import { planRun, type RunOptions } from '../../../src/cli/run-options.ts';

async function makeOptions(t: Test, options: Partial<RunOptions> = {}): Promise<RunOptions> {
  const dir = await mkdtemp('/dev/shm/rootlayer-options-');
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  writeFileSync(path.join(dir, 's'), 'echo hi\n');
  const defaults = {
    from: 'scratch',
    script: path.join(dir, 's'),
    isolation: 'auto',
    network: 'none',
    copy: [],
    file: [],
    env: [],
    keepImage: true,
    compat: 'none',
  };
  return { ...defaults, ...options };
}

t.test('planRun() makes a request with the bytes of the script', async (t) => {
  const plan = await planRun(await makeOptions(t, { env: ['A=1=2', 'B='], memory: '64m', timeout: '1h30m', cpus: '0.5', name: 'x:1' }));
  t.same(plan.request, {
    script: Buffer.from('echo hi\n').toString('base64'),
    isolation: 'auto',
    network: 'none',
    env: { A: '1=2', B: '' },
    limits: { memoryBytes: 64 * 1024 * 1024, cpus: 0.5, timeMs: 5_400_000 },
    sourceDateEpoch: null,
    name: 'x:1',
    config: null,
    compat: 'none',
    terminal: null,
  });
  t.same([plan.source, plan.items, plan.output], [{ kind: 'stored', ref: 'scratch' }, [], null]);
});

t.test('planRun() takes a variable, and SOURCE_DATE_EPOCH, from the environment', async (t) => {
  t.teardown(() => {
    delete process.env['ROOTLAYER_TEST_VALUE'];
    delete process.env['SOURCE_DATE_EPOCH'];
  });
  process.env['ROOTLAYER_TEST_VALUE'] = 'v';
  process.env['SOURCE_DATE_EPOCH'] = '315532800';
  const plan = await planRun(await makeOptions(t, { env: ['ROOTLAYER_TEST_VALUE'] }));
  t.same(plan.request.env, { ROOTLAYER_TEST_VALUE: 'v' });
  t.equal(plan.request.sourceDateEpoch, 315_532_800);
  t.equal((await planRun(await makeOptions(t, { sourceDateEpoch: '1' }))).request.sourceDateEpoch, 1);
});

t.test('planRun() refuses a wrong value and names its option', async (t) => {
  const refused: [options: Partial<RunOptions>, message: RegExp][] = [
    [{ memory: '2x' }, /^Cannot use --memory "2x": want a number with k, m, g or t/],
    [{ memory: '1k' }, /^Cannot use --memory "1k": .*16777216 bytes/],
    [{ disk: '' }, /^Cannot use --disk ""/],
    [{ cpus: 'many' }, /^Cannot use --cpus "many": want a number/],
    [{ cpus: '0' }, /^Cannot use --cpus "0"/],
    [{ pids: '2' }, /^Cannot use --pids "2"/],
    [{ pids: '1.5' }, /^Cannot use --pids "1.5"/],
    [{ inodes: '1' }, /^Cannot use --inodes "1"/],
    [{ timeout: 'soon' }, /^Cannot use --timeout "soon"/],
    [{ timeout: '900d' }, /^Cannot use --timeout "900d": .* ms/],
    [{ silence: '-1s' }, /^Cannot use --silence "-1s"/],
    [{ outputLimit: '1' }, /^Cannot use --output-limit "1"/],
    [{ isolation: 'jail' }, /^Cannot use --isolation "jail": want one of auto, userns, chroot, vm/],
    [{ network: 'slirp' }, /^Cannot use --network "slirp": want one of none, host/],
    [{ env: ['1A=x'] }, /^Cannot use --env "1A"/],
    [{ env: ['ROOTLAYER_NOT_SET'] }, /^Cannot use --env "ROOTLAYER_NOT_SET": it is not in the environment/],
    [{ sourceDateEpoch: 'now' }, /^Cannot use --source-date-epoch "now"/],
    [{ config: '[]' }, /^Cannot use --config "\[\]": want a JSON object/],
    [{ config: '{"a":1,"a":2}' }, /^Cannot read --config: the key "a" occurs twice/],
    [{ config: '@/nonexistent' }, /^Cannot use --config "@\/nonexistent"/],
    [{ script: '/nonexistent' }, /^Cannot use --script "\/nonexistent": ENOENT/],
    [{ script: '/dev/zero' }, /^Cannot use --script "\/dev\/zero": it has more than 16777216 bytes/],
    [{ script: '/' }, /^Cannot use --script "\/": EISDIR/],
    [{ from: '' }, /^Cannot use --from ""/],
    [{ from: './nonexistent.tar' }, /^Cannot use --from ".\/nonexistent.tar": there is no such file/],
    [{ copy: ['/nonexistent'] }, /^Cannot read "\/nonexistent": ENOENT/],
    [{ format: 'tar' }, /^Cannot use --format tar without --output/],
    [{ detach: true, output: 'x.tar' }, /^Cannot use --detach with --output/],
  ];
  for (const [options, message] of refused) {
    await t.rejects(planRun(await makeOptions(t, options)), { code: 'E_USAGE', message }, JSON.stringify(options));
  }
});

t.test('planRun() asks for a terminal of the usual size and kind where it prints to none', async (t) => {
  const term = process.env['TERM'];
  process.env['TERM'] = 'vt-test';
  t.teardown(() => {
    if (term === undefined) delete process.env['TERM'];
    else process.env['TERM'] = term;
  });
  const { request } = await planRun(await makeOptions(t, { tty: true, detach: true }));
  if (!process.stdout.isTTY && !process.stderr.isTTY) t.same(request.terminal, { rows: 24, columns: 80 });
  t.same(request.env, { TERM: 'vt-test' });
  t.same((await planRun(await makeOptions(t, { tty: true, detach: true, env: ['TERM=dumb'] }))).request.env, { TERM: 'dumb' });
});

t.test('planRun() keeps the value of a secret out of its message', async (t) => {
  await t.rejects(planRun(await makeOptions(t, { env: ['=canary'] })), { message: /^(?!.*canary)/s });
});

t.test('parseBaseSource() tells paths from names', async (t) => {
  const dir = await mkdtemp('/dev/shm/rootlayer-source-');
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  writeFileSync(path.join(dir, 'a.tar'), '');
  mkdirSync(path.join(dir, 'layout'));
  writeFileSync(path.join(dir, 'layout/oci-layout'), '{}');
  mkdirSync(path.join(dir, 'debian'));
  const cwd = process.cwd();
  process.chdir(dir);
  t.teardown(() => process.chdir(cwd));
  t.same(parseBaseSource('a.tar'), { kind: 'file', path: 'a.tar' });
  t.same(parseBaseSource('./a.tar'), { kind: 'file', path: './a.tar' });
  t.same(parseBaseSource('layout'), { kind: 'directory', path: 'layout' });
  t.same(parseBaseSource('debian'), { kind: 'stored', ref: 'debian' }, 'a directory that is no layout');
  t.same(parseBaseSource('a/b:1'), { kind: 'stored', ref: 'a/b:1' });
  t.same(parseBaseSource(`sha256:${'0'.repeat(64)}`), { kind: 'stored', ref: `sha256:${'0'.repeat(64)}` });
  t.throws(() => parseBaseSource('./debian'), { code: 'E_USAGE', message: /no file "oci-layout"/ });
});
