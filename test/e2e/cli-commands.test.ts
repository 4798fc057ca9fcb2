import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { startFakeDaemon } from '../helpers/fake-daemon.ts';
import { run, runScript } from './cli-process.ts';

// Each command is a process of its own, on a machine that does other things too.
t.setTimeout(180_000);

const ID = /^[0-9a-f]{32}$/;

t.test('run --detach prints the id, and job follows, shows, fetches, cancels and removes', async (t) => {
  const daemon = await startFakeDaemon(t);
  const detached = await runScript(daemon, 'echo hi\nsleep 200\necho oops >&2\nexit 3', '--detach');
  const id = detached.stdout.trim();
  t.match(id, ID);
  const followed = await run(daemon, ['job', 'logs', '-f', id]);
  t.same([followed.status, followed.stdout, followed.stderr.split('\n')[0]], [3, 'hi\n', 'oops']);
  t.same(await run(daemon, ['job', 'logs', id]), { status: 0, stdout: 'hi\n', stderr: 'oops\n' });
  t.match(JSON.parse((await run(daemon, ['job', 'show', id])).stdout), { id, state: 'failed', exitStatus: 3 });
  t.match((await run(daemon, ['job', 'ls'])).stdout, new RegExp(`^ID .*\n${id}  failed  scratch .*E_SCRIPT\n$`));

  const good = (await runScript(daemon, 'echo hi', '--detach', '--json')).stdout;
  const goodId = String(JSON.parse(good).job.id);
  await run(daemon, ['job', 'logs', '-f', goodId]);
  const out = path.join(daemon.dir, 'got.tar');
  const got = await run(daemon, ['job', 'get', goodId, '-o', out, '--json']);
  t.match(JSON.parse(got.stdout), { format: 'tar', sizeBytes: readFileSync(out).length });

  const long = (await runScript(daemon, 'sleep 60000', '--detach')).stdout.trim();
  t.match((await run(daemon, ['job', 'rm', long])).stderr, /it has not ended\nrootlayer: hint: cancel it first/);
  t.equal((await run(daemon, ['job', 'cancel', long])).stdout, 'cancelled\n');
  t.equal((await run(daemon, ['job', 'rm', long, id])).status, 0);
  t.same(
    JSON.parse((await run(daemon, ['job', 'ls', '--json'])).stdout).jobs.map((job: { id: string }) => job.id),
    [goodId],
  );
});

t.test('image imports, lists, inspects, exports and removes', async (t) => {
  const daemon = await startFakeDaemon(t);
  const archive = path.join(daemon.dir, 'a.tar');
  writeFileSync(archive, 'archive');
  const imported = await run(daemon, ['image', 'import', '--name', 'a/b:1', archive]);
  t.match(imported.stdout, /^sha256:[0-9a-f]{64} {2}a\/b:1\n$/);
  t.equal((await run(daemon, ['image', 'import', '--name', 'c:1', '-'], 'other archive')).status, 0);
  t.match((await run(daemon, ['image', 'ls'])).stdout, /^NAME .*\na\/b:1 .*\nc:1 .*\n$/);
  t.match(JSON.parse((await run(daemon, ['image', 'inspect', 'a/b:1'])).stdout), { image: { names: ['a/b:1'] }, config: { os: 'linux' } });
  for (const format of ['docker-archive', 'oci-archive', 'oci-dir', 'rootfs-tar']) {
    const ran = await run(daemon, ['image', 'export', 'a/b:1', '--format', format, '-o', path.join(daemon.dir, format)]);
    t.equal(ran.status, 0, ran.stderr);
  }
  t.equal((await run(daemon, ['image', 'rm', 'a/b:1', 'c:1'])).status, 0);
  t.same(JSON.parse((await run(daemon, ['image', 'ls', '--json'])).stdout), { images: [] });
  t.match((await run(daemon, ['image', 'import', 'none.tar'])).stderr, /there is no such file or OCI layout/);
});

t.test('layer tarsum and ls read plain, gzip and zstd tars', async (t) => {
  const daemon = await startFakeDaemon(t);
  const out = path.join(daemon.dir, 'o.tar');
  const summary = JSON.parse((await runScript(daemon, 'echo hi', '-o', out, '--json')).stdout);
  await runScript(daemon, 'echo hi', '-o', `${out}.gz`, '--format', 'tar.gz');
  await runScript(daemon, 'echo hi', '-o', `${out}.zst`, '--format', 'tar.zst');
  for (const file of [out, `${out}.gz`, `${out}.zst`]) {
    t.equal((await run(daemon, ['layer', 'tarsum', file])).stdout, `${summary.layer.tarsum}\n`);
    t.match((await run(daemon, ['layer', 'ls', file])).stdout, /^-0644 0:0 +3 1970-01-01T00:00:00Z out\.txt\n$/);
  }
  t.match(JSON.parse((await run(daemon, ['layer', 'ls', out, '--json'])).stdout), {
    entries: [{ name: 'out.txt', type: 'file', size: 3 }],
  });
  writeFileSync(out, readFileSync(out).subarray(0, 600));
  t.match((await run(daemon, ['layer', 'ls', out])).stderr, /^rootlayer: .*ends/);
  t.match((await run(daemon, ['layer', 'tarsum', '/nonexistent'])).stderr, /^rootlayer: Cannot read layer "\/nonexistent": ENOENT/);
});

t.test('doctor lists what there is and what is missing', async (t) => {
  const daemon = await startFakeDaemon(t);
  const { status, stdout } = await run(daemon, ['doctor']);
  t.equal(status, 0, 'only something optional is missing');
  t.match(stdout, /^ok {7}overlay: in memory\nabsent {3}kvm: no \/dev\/kvm\n +load the module/);
  daemon.engine.features = async () => [{ name: 'overlay', ok: false, required: true, detail: 'no overlay', remedy: 'modprobe overlay' }];
  const lacking = await run(daemon, ['doctor', '--json']);
  t.equal(lacking.status, 1);
  t.match(JSON.parse(lacking.stdout), { features: [{ name: 'overlay', ok: false }] });
});

t.test('every command has a help text with an example', async (t) => {
  const daemon = await startFakeDaemon(t);
  const commands = [
    '',
    'run',
    'image',
    'job',
    'layer',
    'doctor',
    'daemon',
    'image import',
    'image ls',
    'image inspect',
    'image export',
    'image merge',
    'image pull',
    'bundle',
    'image rm',
  ]
    .concat(['job ls', 'job show', 'job logs', 'job get', 'job cancel', 'job rm', 'layer tarsum', 'layer ls'])
    .map((name) => name.split(' ').filter((word) => word !== ''));
  for (const command of commands) {
    const { status, stdout, stderr } = await run(daemon, [...command, '--help']);
    t.same([status, stderr], [0, ''], command.join(' '));
    t.match(stdout, /^Usage: rootlayer .*\nExample:\n {2}/s, command.join(' '));
  }
});

t.test('--version prints the version', async (t) => {
  const daemon = await startFakeDaemon(t);
  for (const flag of ['--version', '-V'])
    t.match(await run(daemon, [flag]), { status: 0, stdout: /^rootlayer \d+\.\d+\.\d+\n$/, stderr: '' });
});
