import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { startFakeDaemon } from '../helpers/fake-daemon.ts';
import { tarOf } from '../helpers/fake-engine.ts';
import { requires } from '../helpers/requires.ts';
import { MAIN, run, runScript, start, untilText } from './cli-process.ts';

// Each command is a process of its own, on a machine that does other things too.
t.setTimeout(180_000);

const ID = /^[0-9a-f]{32}$/;

t.test('run prints the log where the script printed it, and a summary on standard error', async (t) => {
  const daemon = await startFakeDaemon(t);
  const out = path.join(daemon.dir, 'out.tar');
  const { status, stdout, stderr } = await runScript(daemon, 'echo hi\necho oops >&2\nwarn careful', '-o', out);
  t.equal(status, 0);
  t.equal(stdout, 'hi\n');
  t.match(
    stderr,
    /^oops\nrootlayer: warning: careful\ndigest {3}sha256:[0-9a-f]{64}\ndiffID {3}sha256:[0-9a-f]{64}\ntarsum {3}tarsum\.v1\+sha256:/,
  );
  t.match(stderr, /\nentries {2}1\nwritten {2}.*out\.tar \(tar, by its ending, /);
  const digest = createHash('sha256').update(readFileSync(out)).digest('hex');
  t.match(stderr, `digest   sha256:${digest}\n`);
});

t.test('run --json prints one document and nothing else', async (t) => {
  const daemon = await startFakeDaemon(t);
  const out = path.join(daemon.dir, 'out.tgz');
  const { status, stdout, stderr } = await runScript(daemon, 'echo hi', '-o', out, '--json');
  t.equal(status, 0);
  t.equal(stderr, 'hi\n');
  const digest = `sha256:${createHash('sha256').update(readFileSync(out)).digest('hex')}`;
  t.match(JSON.parse(stdout), {
    job: { id: ID, state: 'done' },
    layer: { digest, entries: 1, tarsum: /^tarsum/ },
    output: { path: out, format: 'tar.gz', digest },
    exitStatus: 0,
  });
});

t.test('run ends with the status that says who ended the job', async (t) => {
  const daemon = await startFakeDaemon(t);
  const samples: [script: string, status: number, message: RegExp][] = [
    ['exit 0', 0, /^digest/],
    ['exit 3', 3, /^rootlayer: .*status 3\n$/],
    ['exit 255', 255, /status 255/],
    ['limit time', 124, /time limit/],
    ['limit silence', 124, /silence limit/],
    ['limit memory', 137, /memory limit/],
    ['limit output', 125, /output limit/],
  ];
  for (const [script, status, message] of samples) {
    const ran = await runScript(daemon, script);
    t.equal(ran.status, status, script);
    t.match(ran.stderr, message, script);
    t.equal(ran.stdout, '', script);
  }
});

t.test('run --json tells a failure on standard output', async (t) => {
  const daemon = await startFakeDaemon(t);
  const failed = await runScript(daemon, 'exit 3', '--json');
  t.equal(failed.status, 3);
  t.match(JSON.parse(failed.stdout), { error: { code: 'E_SCRIPT', message: /status 3/ }, job: { state: 'failed' }, exitStatus: 3 });
  const wrong = await runScript(daemon, '', '--json', '--memory', 'x');
  t.equal(wrong.status, 125);
  t.match(JSON.parse(wrong.stdout), { error: { code: 'E_USAGE', message: /--memory/ } });
  t.equal(wrong.stderr, '');
});

t.test('an error is one or two lines without a stack, and status 125', async (t) => {
  const daemon = await startFakeDaemon(t);
  const samples: [args: string[], stderr: RegExp][] = [
    [['run', '--from', 'none:1', '--script', '-'], /^rootlayer: Cannot find image "none:1": no such image\n$/],
    [
      ['run', '--script', '-'],
      /^rootlayer: Cannot read command line: required option "--from <image>" not specified\nrootlayer: hint: "rootlayer run --help" .*\n$/,
    ],
    [['job', 'ls', '--bogus'], /^rootlayer: Cannot read command line: unknown option "--bogus"/],
    [['frobnicate'], /^rootlayer: Cannot read command line: unknown command "frobnicate"/],
    [['job', 'show', 'x'], /^rootlayer: Cannot find job "x": no such job\n$/],
    [
      ['job', 'ls', '--socket', '/nonexistent/s'],
      /^rootlayer: Cannot reach the daemon at "\/nonexistent\/s": there is no socket\nrootlayer: hint: .*\n$/,
    ],
    [['job', 'ls', '--socket', '/x', '--state-dir', '/y'], /^rootlayer: Cannot use --socket and --state-dir together/],
  ];
  for (const [args, stderr] of samples) {
    const ran = await run(daemon, args);
    t.equal(ran.status, 125, args.join(' '));
    t.match(ran.stderr, stderr, args.join(' '));
    t.equal(ran.stdout, '', args.join(' '));
  }
});

t.test('a user without root and without a daemon is told what to do', async (t) => {
  if (!requires(t, 'root', 'setpriv')) return;
  // The build may lie where only root can read it.
  const ids = ['--reuid', '1000', '--regid', '1000', '--clear-groups', '--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search'];
  const child = spawn('setpriv', [...ids, process.execPath, MAIN, 'job', 'ls', '--state-dir', '/tmp/x'], {
    env: { PATH: '/usr/bin:/bin' },
  });
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const status = await new Promise((resolve) => child.once('close', resolve));
  t.equal(status, 125);
  t.match(stderr, /Cannot use --state-dir as user 1000: want root\nrootlayer: hint: leave it out/);
});

t.test('run uploads a base once, and finds it again by its digest', async (t) => {
  const daemon = await startFakeDaemon(t);
  const base = path.join(daemon.dir, 'base.tar');
  writeFileSync(base, tarOf({ 'manifest.json': Buffer.alloc(2_000_000) }));
  for (let round = 0; round < 2; round += 1) {
    t.equal((await run(daemon, ['run', '--from', base, '--script', '-'], 'echo hi')).status, 0);
  }
  t.equal(daemon.engine.imports, 1);
  t.equal(daemon.engine.listImages({ uid: process.getuid?.() ?? 0 }).length, 1);
});

t.test('run --no-keep-image removes the base that it uploaded, and only that', async (t) => {
  const daemon = await startFakeDaemon(t);
  const caller = { uid: process.getuid?.() ?? 0 };
  const base = path.join(daemon.dir, 'base.tar');
  writeFileSync(base, 'archive');
  t.equal((await run(daemon, ['run', '--from', base, '--script', '-', '--no-keep-image'], 'echo hi')).status, 0);
  t.same(daemon.engine.listImages(caller), []);
  t.equal((await run(daemon, ['image', 'import', base])).status, 0);
  t.equal((await run(daemon, ['run', '--from', base, '--script', '-', '--no-keep-image'], 'echo hi')).status, 0);
  t.equal(daemon.engine.listImages(caller).length, 1);
});

t.test('run streams an OCI layout directory as a tar', async (t) => {
  const daemon = await startFakeDaemon(t);
  const layout = path.join(daemon.dir, 'layout');
  mkdirSync(path.join(layout, 'blobs/sha256'), { recursive: true });
  writeFileSync(path.join(layout, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(path.join(layout, 'index.json'), '{}');
  for (let round = 0; round < 2; round += 1) {
    const ran = await run(daemon, ['run', '--from', layout, '--script', '-'], 'echo hi');
    t.equal(ran.status, 0, ran.stderr);
  }
  t.equal(daemon.engine.imports, 1, 'the same directory has the same digest');
});

t.test('run sends files for the image and for the script', async (t) => {
  const daemon = await startFakeDaemon(t);
  const dir = path.join(daemon.dir, 'copied');
  mkdirSync(dir);
  writeFileSync(path.join(dir, 'a'), 'for the image');
  writeFileSync(path.join(daemon.dir, 'key'), 'for the script');
  const { stdout } = await runScript(daemon, 'context', '--copy', `${dir}:/opt`, '--file', path.join(daemon.dir, 'key'));
  const tar = Buffer.from(stdout, 'base64').toString('latin1');
  t.match(tar, /^copy\/opt\/a\0.*for the image\0.*files\/key\0.*for the script\0/s);
});

t.test('run gives the environment to the script, never to the command line of another process', async (t) => {
  const daemon = await startFakeDaemon(t);
  const ran = start(
    ['run', '--from', 'scratch', '--script', '-', '--env', 'TOKEN'],
    { ROOTLAYER_SOCKET: daemon.socketPath, TOKEN: 'v1' },
    'env TOKEN',
  );
  t.equal((await ran.ended).stdout, 'v1\n');
});

t.test('run writes every format', async (t) => {
  const daemon = await startFakeDaemon(t);
  const at = (name: string): string => path.join(daemon.dir, name);
  for (const format of ['tar', 'tar.gz', 'tar.zst', 'docker-archive', 'oci-archive', 'oci-dir', 'dir']) {
    const { status, stderr } = await runScript(daemon, 'echo hi', '-o', at(`o.${format}`), '--format', format);
    t.equal(status, 0, `${format}: ${stderr}`);
  }
  t.same(readdirSync(at('o.dir')).sort(), ['VERSION', 'json', 'layer.tar']);
  t.equal(readFileSync(at('o.dir/VERSION'), 'utf8'), '1.0');
  t.same(readFileSync(at('o.dir/layer.tar')), readFileSync(at('o.tar')));
  t.same(readdirSync(at('o.oci-dir')).sort(), ['blobs', 'index.json', 'oci-layout']);
  t.equal(readFileSync(at('o.tar.gz')).subarray(0, 2).toString('hex'), '1f8b');
  t.equal(readFileSync(at('o.tar.zst')).subarray(0, 4).toString('hex'), '28b52ffd');
});

t.test('run -o - writes the layer to standard output, and the log to standard error', async (t) => {
  const daemon = await startFakeDaemon(t);
  const { status, stdout, stderr } = await runScript(daemon, 'echo hi', '-o', '-');
  t.equal(status, 0);
  t.match(stdout, /^out\.txt\0.*hi\n\0/s);
  t.equal(stdout.length % 512, 0);
  t.match(stderr, /^hi\ndigest/);
});

t.test('U27 run leaves no file when the layer breaks on its way', async (t) => {
  const daemon = await startFakeDaemon(t);
  const out = path.join(daemon.dir, 'out.tar');
  const { status, stderr } = await runScript(daemon, 'size 3000000\nbreak 1000000', '-o', out);
  t.equal(status, 125);
  t.match(stderr, /^rootlayer: Cannot reach the daemon .* closed the connection before the end$/m);
  t.same(readdirSync(daemon.dir), ['api.sock']);
});

t.test('run fails before it sends anything when the output cannot be written', async (t) => {
  const daemon = await startFakeDaemon(t);
  const { status } = await runScript(daemon, 'echo hi', '-o', '/nonexistent/out.tar');
  t.equal(status, 125);
  t.same(daemon.engine.listJobs({ uid: process.getuid?.() ?? 0 }), []);
});

t.test('an interrupt cancels the job, and the command ends with 130', async (t) => {
  const daemon = await startFakeDaemon(t);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    const command = start(
      ['run', '--from', 'scratch', '--script', '-'],
      { ROOTLAYER_SOCKET: daemon.socketPath },
      'echo ready\nsleep 60000',
    );
    await untilText(command, 'ready\n');
    command.child.kill(signal);
    const { status, stderr } = await command.ended;
    t.equal(status, 130, signal);
    t.match(stderr, /cancelling the job/);
  }
  t.same(
    daemon.engine.listJobs({ uid: process.getuid?.() ?? 0 }).map(({ state }) => state),
    ['cancelled', 'cancelled'],
  );
});

t.test('S19 on a terminal the output of a script cannot command it, unless --raw', async (t) => {
  if (!requires(t, 'script')) return;
  const daemon = await startFakeDaemon(t);
  const file = path.join(daemon.dir, 's');
  const attack = '\u001b]52;c;AAAA\u0007\u001b[2Jtext\n';
  writeFileSync(file, `bytes ${Buffer.from(attack).toString('base64')}`);
  const onTerminal = async (...args: string[]): Promise<string> => {
    const command = [process.execPath, MAIN, 'run', '--from', 'scratch', '--script', file, ...args].join(' ');
    const child = spawn('script', ['-qec', command, '/dev/null'], {
      env: { PATH: '/usr/bin:/bin', ROOTLAYER_SOCKET: daemon.socketPath },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString('utf8');
    });
    await new Promise((resolve) => child.once('close', resolve));
    return text;
  };
  const safe = await onTerminal();
  t.notMatch(safe, '\u001b]52');
  t.match(safe, '\ufffd]52;c;AAAA\ufffd\ufffd[2Jtext');
  t.match(await onTerminal('--raw'), attack.trimEnd(), 'positive control');
  t.match((await run(daemon, ['run', '--from', 'scratch', '--script', file])).stdout, attack, 'a file or pipe gets the bytes');
});

t.test('a slow reader gets all of the log', async (t) => {
  const daemon = await startFakeDaemon(t);
  const script = path.join(daemon.dir, 's');
  writeFileSync(script, 'flood 3000\necho over');
  const child = spawn(process.execPath, [MAIN, 'run', '--from', 'scratch', '--script', script], {
    env: { PATH: '/usr/bin:/bin', ROOTLAYER_SOCKET: daemon.socketPath },
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const ended = new Promise((resolve) => child.once('close', resolve));
  await new Promise((resolve) => setTimeout(resolve, 1000));
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  t.equal(await ended, 0);
  const log = Buffer.concat(chunks).toString();
  t.equal(log.length, 3000 * 1024 + 5);
  t.ok(log.endsWith('x\nover\n'));
});

t.test('a reader that has had enough ends nothing but itself', async (t) => {
  const daemon = await startFakeDaemon(t);
  const command = start(
    ['run', '--from', 'scratch', '--script', '-'],
    { ROOTLAYER_SOCKET: daemon.socketPath },
    'echo first\nflood 2000\nexit 4',
  );
  await untilText(command, 'first');
  command.child.stdout?.destroy();
  t.equal((await command.ended).status, 4);
});
