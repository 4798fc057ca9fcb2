import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, existsSync, lstatSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { baseImagePath, requires } from '../helpers/requires.ts';
import { MAIN, type Ran, start, untilText } from './cli-process.ts';

t.setTimeout(300_000);
requires(t, 'root', 'overlay', 'loop', 'userns', 'launcher', 'base-image', 'setpriv');

type Daemon = { child: ChildProcess; ended: Promise<number | null>; log(): string; socket: string; stateDir: string };

async function makeDir(t: Test): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), 'rootlayer-daemon-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  chmodSync(dir, 0o755);
  mkdirSync(path.join(dir, 'run'), { mode: 0o755 });
  return dir;
}

async function startDaemon(t: Test, ...args: string[]): Promise<Daemon> {
  const socket = path.join(dir, 'run/a.sock');
  const stateDir = path.join(dir, 'state');
  const child = spawn(process.execPath, [MAIN, 'daemon', '--socket', socket, '--state-dir', stateDir, '--group', '4321', ...args], {
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let text = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  let isOver = false;
  const ended = new Promise<number | null>((resolve) => {
    child.once('close', (status) => {
      isOver = true;
      resolve(status);
    });
  });
  t.teardown(async () => {
    await endAtOnce(daemon);
  });
  const daemon = { child, ended, log: () => text, socket, stateDir };
  while (!isOver && !text.includes('"msg":"ready"')) await sleep(20);
  return daemon;
}

/** Two signals of one kind that come together are one: the second is sent when the first has been seen. */
async function endAtOnce(daemon: Daemon): Promise<void> {
  daemon.child.kill('SIGTERM');
  let isOver = false;
  const over = daemon.ended.then(() => {
    isOver = true;
  });
  while (!isOver && !daemon.log().includes('"msg":"draining"')) await sleep(20);
  daemon.child.kill('SIGTERM');
  await over;
}

const client = (daemon: Daemon, args: string[], input = ''): Promise<Ran> => start([...args, '--socket', daemon.socket], {}, input).ended;

/** The build may lie where only root can read it. The capability opens no socket and writes no file. */
const READS_ANY_CHECKOUT = ['--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search'];

/** Runs the command as a user who is in the group of the socket. */
function clientAs(uid: number, daemon: Daemon, args: string[]): Promise<Ran> {
  const ids = ['--reuid', String(uid), '--regid', String(uid), '--groups', '4321', ...READS_ANY_CHECKOUT];
  const child = spawn('setpriv', [...ids, process.execPath, MAIN, ...args, '--socket', daemon.socket], {
    env: { PATH: '/usr/bin:/bin' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const soFar = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].on('data', (chunk: Buffer) => {
      soFar[name] += chunk.toString('latin1');
    });
  }
  return new Promise((resolve) => child.once('close', (status) => resolve({ status, ...soFar })));
}

/** All tests use one state directory, one after another: the import takes longest. */
const dir = await makeDir(t);

t.test('daemon: users run jobs, and see only their own', async (t) => {
  const daemon = await startDaemon(t);
  const { mode, uid, gid } = lstatSync(daemon.socket);
  t.same({ mode: (mode & 0o7777).toString(8), uid, gid }, { mode: '660', uid: 0, gid: 4321 });
  t.equal((await client(daemon, ['image', 'import', '--shared', baseImagePath()])).status, 0);

  const script = path.join(dir, 's');
  const out = path.join(dir, 'run/out');
  mkdirSync(out, { mode: 0o777 });
  writeFileSync(script, 'id -u; echo canary-5e1f >/made; chown 33:33 /made');
  const ran = await clientAs(1000, daemon, ['run', '--from', 'debian:bookworm', '--script', script, '--json', '--detach']);
  t.equal(ran.status, 0, ran.stderr);
  const id = String(JSON.parse(ran.stdout).job.id);
  const followed = await clientAs(1000, daemon, ['job', 'logs', '-f', id]);
  t.same([followed.status, followed.stdout], [0, '0\n'], followed.stderr);
  const listed = await clientAs(1000, daemon, ['job', 'get', id, '-o', '-', '--format', 'tar']);
  t.match((await start(['layer', 'ls', '-'], {}, Buffer.from(listed.stdout, 'latin1')).ended).stdout, /^-0644 33:33 +12 .* made$/m);
  t.equal((await clientAs(1001, daemon, ['job', 'show', id])).status, 125);
  t.equal((await clientAs(1001, daemon, ['job', 'ls', '--json'])).stdout, '{"jobs":[]}\n');
  t.match((await clientAs(1000, daemon, ['image', 'rm', 'debian:bookworm'])).stderr, /^rootlayer: Cannot /);
  t.notMatch(daemon.log(), 'canary-5e1f', 'the script is in no log');
});

t.test('daemon: someone outside of the group cannot connect', async (t) => {
  const daemon = await startDaemon(t);
  const child = spawn('setpriv', [
    '--reuid',
    '1000',
    '--regid',
    '1000',
    '--clear-groups',
    ...READS_ANY_CHECKOUT,
    process.execPath,
    MAIN,
    'job',
    'ls',
    '--socket',
    daemon.socket,
  ]);
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const status = await new Promise((resolve) => child.once('close', resolve));
  t.equal(status, 125);
  t.match(stderr, /permission denied\nrootlayer: hint: ask an administrator/);
});

t.test('O08 a second daemon ends with 75, and the first one goes on', async (t) => {
  const daemon = await startDaemon(t);
  const second = await startDaemon(t);
  t.equal(await second.ended, 75);
  t.match(second.log(), /^rootlayer: .*another rootlayer has it open/m);
  t.equal((await client(daemon, ['job', 'ls'])).status, 0);
});

t.test('SIGTERM lets the running job finish, and takes the socket away', async (t) => {
  const daemon = await startDaemon(t);
  const running = start(
    ['run', '--from', 'debian:bookworm', '--script', '-', '--socket', daemon.socket],
    {},
    'echo ready; sleep 1; echo over',
  );
  await untilText(running, 'ready');
  daemon.child.kill('SIGTERM');
  const { status, stdout } = await running.ended;
  t.same([status, stdout], [0, 'ready\nover\n']);
  t.equal(await daemon.ended, 0, daemon.log());
  t.notOk(existsSync(daemon.socket));
});

t.test('a second SIGTERM cancels the running job', async (t) => {
  const daemon = await startDaemon(t);
  const running = start(['run', '--from', 'debian:bookworm', '--script', '-', '--socket', daemon.socket], {}, 'echo ready; sleep 600');
  await untilText(running, 'ready');
  await endAtOnce(daemon);
  t.equal((await running.ended).status, 130);
  t.equal(await daemon.ended, 0, daemon.log());
});

t.test('O01 after kill -9 the next daemon takes the socket over and tells that the job is lost', async (t) => {
  const daemon = await startDaemon(t);
  const running = start(['run', '--from', 'debian:bookworm', '--script', '-', '--socket', daemon.socket], {}, 'echo ready; sleep 600');
  await untilText(running, 'ready');
  daemon.child.kill('SIGKILL');
  await daemon.ended;
  t.ok(existsSync(daemon.socket), 'the stale socket is there');
  const next = await startDaemon(t);
  const ran = await running.ended;
  t.equal(ran.status, 125);
  t.match(ran.stderr, /daemon ended while the job was running/, 'the client that was following has come back');
  t.match(JSON.parse((await client(next, ['job', 'ls', '--json'])).stdout).jobs.at(-1), { state: 'lost' });
  t.equal((await client(next, ['run', '--from', 'debian:bookworm', '--script', '-'], 'exit 7')).status, 7);
});

t.test('run without a daemon gives the same layer as with one', async (t) => {
  const script = path.join(dir, 's');
  writeFileSync(script, 'mkdir /d && echo x >/d/x && rm /etc/issue');
  const args = ['run', '--from', baseImagePath(), '--script', script, '--source-date-epoch', '315532800', '-o'];
  const daemon = await startDaemon(t);
  t.equal((await client(daemon, [...args, path.join(dir, 'a.tar')])).status, 0);
  const embedded = await start([...args, path.join(dir, 'b.tar'), '--state-dir', path.join(dir, 'other')], {}).ended;
  t.equal(embedded.status, 0, embedded.stderr);
  t.ok(readFileSync(path.join(dir, 'a.tar')).equals(readFileSync(path.join(dir, 'b.tar'))));
});
