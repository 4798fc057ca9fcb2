import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import type { Test } from 'tap';
import type { Isolation } from '../../src/core/job.ts';
import { encodeEntry, endOfArchive, padding } from '../../src/core/tar/writer.ts';
import { namesIn, ROOT, readTar, type TestEngine } from '../helpers/engine.ts';

/** What every isolation must do alike: the contract of a job. */
export function jobBehaviour(t: Test, env: TestEngine, isolation: Isolation): void {
  const run = (script: string, over: Record<string, unknown> = {}) => env.run({ script, isolation, ...over });
  const MIB = 1024 * 1024;

  t.test('a script that changes nothing gives the empty layer', async (t) => {
    const { job } = await run('true');
    t.equal(job.state, 'done');
    t.equal(job.exitStatus, 0);
    t.match(job.layer, { entries: 0, sizeBytes: 1024 });
    const bytes = await env.layer(job);
    t.ok(bytes.equals(Buffer.alloc(1024)));
    t.equal(job.layer?.diffId, `sha256:${createHash('sha256').update(bytes).digest('hex')}`);
  });

  t.test('the layer holds exactly what the script changed', async (t) => {
    const { job } = await run(
      'echo hello > /etc/greeting; chmod 640 /etc/greeting; chown 12:34 /etc/greeting; rm /etc/issue; mkdir -p /opt/new/deep',
    );
    t.equal(job.state, 'done');
    const bytes = await env.layer(job);
    t.same(namesIn(bytes), ['./', 'etc/', 'etc/.wh.issue', 'etc/greeting', 'opt/', 'opt/new/', 'opt/new/deep/']);
    const greeting = readTar(bytes).find(({ header }) => header.name.toString() === 'etc/greeting');
    t.match(greeting?.header, { type: 'file', mode: 0o640, uid: 12, gid: 34 });
    t.equal(greeting?.body.toString(), 'hello\n');
  });

  t.test('the same deterministic script gives the same diffID twice under sourceDateEpoch', async (t) => {
    const script = 'useradd -m alice; for i in 1 2 3; do echo $i > /srv/$i; done; ln /srv/1 /srv/one; ln -s one /srv/link';
    const first = await run(script, { sourceDateEpoch: 1_700_000_000 });
    const second = await run(script, { sourceDateEpoch: 1_700_000_000 });
    t.equal(first.job.state, 'done');
    t.equal(first.job.layer?.diffId, second.job.layer?.diffId);
    t.equal(first.job.layer?.tarsum, second.job.layer?.tarsum);
  });

  t.test('compat "seed" gives every entry one time, names with "./" and no attributes', async (t) => {
    const { job } = await run('echo x > /srv/x; ln /srv/x /srv/y; setcap cap_chown+ep /srv/x', { compat: 'seed' });
    t.equal(job.state, 'done', JSON.stringify(job.error));
    const members = readTar(await env.layer(job));
    t.ok(members.some(({ header }) => header.name.toString() === './srv/y'));
    for (const { header } of members) {
      t.match(header, { mtimeSec: 315_532_800, xattrs: [] });
      t.ok(header.type === 'file' || header.type === 'directory', header.type);
      t.equal(header.name.toString().slice(0, 2), './');
    }
  });

  t.test('stdout and stderr are told apart, and no byte is lost', async (t) => {
    const { job, stdout, stderr } = await run('echo out; echo err >&2; echo named > /dev/stdout; printf "\\377\\376\\n"');
    t.equal(job.state, 'done');
    t.equal(stderr, 'err\n');
    t.equal(stdout, 'out\nnamed\n\u00ff\u00fe\n');
  });

  t.test('events are numbered from 1 without gaps and end with the record', async (t) => {
    const { events, job } = await run('echo a; echo b');
    t.same(
      events.map((event) => event.n),
      events.map((_event, index) => index + 1),
    );
    t.same(
      events.flatMap((event) => (event.type === 'state' ? [event.state] : [])),
      ['queued', 'preparing', 'running', 'capturing'],
    );
    t.match(events.at(-1), { type: 'end', job: { state: 'done', id: job.id } });
  });

  t.test('a failing script ends the job with its status and gives no layer', async (t) => {
    const { job, stdout } = await run('echo before; false; echo after');
    t.match(job, { state: 'failed', exitStatus: 1, layer: null, error: { code: 'E_SCRIPT' } });
    t.equal(stdout, 'before\n');
    t.match((await run('exit 42')).job, { exitStatus: 42 });
    await t.rejects(env.engine.openLayer(ROOT, job.id, 'none', AbortSignal.timeout(1000)), { code: 'E_CONFLICT' });
  });

  t.test('the script text is taken as it is: quotes, parentheses, dollars, carriage of any bytes', async (t) => {
    const { job, stdout } = await run(`echo "(a 'quoted' \\"word\\")" '$HOME' \`echo tick\``);
    t.equal(job.state, 'done');
    t.equal(stdout, `(a 'quoted' "word") $HOME tick\n`);
  });

  t.test('the environment is the fixed one plus --env, and nothing of the host', async (t) => {
    const { stdout } = await run('env | sort', { env: { GREETING: 'hi = "there"\nnext', PATH: '/usr/bin:/bin' } });
    t.match(stdout, /^GREETING=hi = "there"$/m);
    t.match(stdout, /^next$/m);
    t.match(stdout, /^PATH=\/usr\/bin:\/bin$/m);
    t.match(stdout, /^HOME=\/root$/m);
    t.notMatch(stdout, /NODE|ROOTLAYER_TEST|npm_/);
  });

  t.test('scratch needs a program that the job brings', async (t) => {
    const { job } = await run('true', { from: 'scratch' });
    t.match(job, { state: 'failed', error: { code: 'E_IMAGE_LAYOUT' } });
  });

  t.test('copied files are in the layer, owned by root, and there before the script; extra files are not in it', async (t) => {
    const contextId = await env.engine.addContext(
      ROOT,
      Readable.from([tarOf({ 'copy/opt/tool': 'tool\n', 'files/secret': 'secret\n' })]),
      AbortSignal.timeout(5000),
    );
    const { job, stdout } = await run(
      'cat /opt/tool $ROOTLAYER_FILES/secret; stat -c %u:%g /opt/tool; touch $ROOTLAYER_FILES/x 2>/dev/null || echo read-only',
      {
        contextId,
      },
    );
    t.equal(job.state, 'done', JSON.stringify(job.error));
    t.equal(stdout, 'tool\nsecret\n0:0\nread-only\n');
    t.same(namesIn(await env.layer(job)), ['./', 'opt/', 'opt/tool']);
  });

  t.test('the time limit ends the job and is named', async (t) => {
    const { job } = await run('trap "" TERM; sleep 100 & sleep 100', { limits: { timeMs: 700 } });
    t.match(job, { state: 'failed', error: { code: 'E_LIMIT_TIME' }, endedByLimit: { limit: 'time', value: 700 }, layer: null });
  });

  t.test('S29 a script that stops PID 1 still ends at the time limit', async (t) => {
    const { job } = await run('kill -STOP 1; sleep 100', { limits: { timeMs: 700 } });
    t.match(job, { error: { code: 'E_LIMIT_TIME' } });
  });

  t.test('the silence limit ends the job and is named', async (t) => {
    const { job } = await run('echo start; sleep 100', { limits: { silenceMs: 400 } });
    t.match(job, { error: { code: 'E_LIMIT_SILENCE' }, endedByLimit: { limit: 'silence', value: 400 } });
  });

  t.test('S20 the output limit ends a flood and is named', async (t) => {
    const { job, stdout } = await run('yes', { limits: { outputBytes: 200_000 } });
    t.match(job, { error: { code: 'E_LIMIT_OUTPUT' }, endedByLimit: { limit: 'output', value: 200_000 } });
    t.ok(stdout.length < 4 * MIB, 'the log stays small');
  });

  t.test('S24 the memory limit ends the job and is named with its peak', async (t) => {
    const { job } = await run('x=$(head -c 200M /dev/zero | tr "\\0" x); echo ${#x}', { limits: { memoryBytes: 64 * MIB } });
    t.match(job, { error: { code: 'E_LIMIT_MEMORY' }, endedByLimit: { limit: 'memory', value: 64 * MIB } });
  });

  t.test('S23 the process limit is named', async (t) => {
    const { job } = await run('for i in $(seq 100); do sleep 100 & done', { limits: { pids: 20 } });
    t.match(job, { error: { code: 'E_LIMIT_PIDS' }, endedByLimit: { limit: 'pids', value: 20 } });
  });

  t.test('S25 the disk limit is named, for bytes and for inodes', async (t) => {
    const bytes = await run('dd if=/dev/zero of=/big bs=1M count=64', { limits: { diskBytes: 32 * MIB, inodes: 2048 } });
    t.match(bytes.job, { error: { code: 'E_LIMIT_DISK' }, endedByLimit: { limit: 'disk', value: 32 * MIB } });
    const inodes = await run('mkdir /many; for i in $(seq 3000); do : > /many/$i; done', { limits: { diskBytes: 32 * MIB, inodes: 2048 } });
    t.match(inodes.job, { error: { code: 'E_LIMIT_DISK' } });
  });

  t.test('S22 what a script leaves running ends with it, and does not hold the job', async (t) => {
    const { job } = await run('(setsid sh -c \'trap "" TERM HUP; sleep 1000\' >/dev/null 2>&1 &) ; exec >&- 2>&-; echo x > /tmp/left');
    t.equal(job.state, 'done');
  });

  t.test('cancel ends a running job within two seconds', async (t) => {
    const record = env.submit({ script: 'echo up; sleep 1000', isolation });
    for await (const event of env.engine.events(ROOT, record.id, 1, true, AbortSignal.timeout(20_000))) if (event.type === 'log') break;
    const start = performance.now();
    const cancelled = await env.engine.cancelJob(ROOT, record.id);
    t.match(cancelled, { state: 'cancelled', error: { code: 'E_CANCELLED' }, layer: null });
    t.ok(performance.now() - start < 2000);
    t.match(await env.engine.cancelJob(ROOT, record.id), { state: 'cancelled' }, 'cancelling again changes nothing');
  });

  t.test('a program of another language runs by its first line', async (t) => {
    const { job, stdout } = await run('#!/usr/bin/perl\nprint "perl ", 6*7, "\\n";');
    t.equal(job.state, 'done', JSON.stringify(job.error));
    t.equal(stdout, 'perl 42\n');
  });
}

/** A tar of plain files, mode 0644, owner 0:0. */
export function tarOf(files: Record<string, string>): Buffer {
  const parts: Buffer[] = [];
  for (const [name, text] of Object.entries(files)) {
    const body = Buffer.from(text);
    const header = encodeEntry({
      name: Buffer.from(name),
      type: 'file',
      mode: 0o644,
      uid: 0,
      gid: 0,
      size: body.length,
      mtimeSec: 1_700_000_000,
      linkName: Buffer.alloc(0),
      devMajor: 0,
      devMinor: 0,
      xattrs: [],
    });
    parts.push(Buffer.from(header), body, padding(body.length));
  }
  return Buffer.concat([...parts, endOfArchive]);
}
