import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import type { PlainAnswer, PlainRequest } from '../helpers/as-user/requests-main.ts';
import { type CommandOptions, type Ended, run, startCommand } from '../helpers/command.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { baseImagePath, requires } from '../helpers/requires.ts';
import { UmociLayout } from '../helpers/umoci.ts';
import { copyForUsers } from '../helpers/user-copy.ts';

requires(t, 'root', 'overlay', 'loop', 'userns', 'launcher', 'base-image', 'setpriv', 'find');

const GROUP = 4242;
const ALICE = { uid: 1000, group: GROUP };
const BOB = { uid: 1001, group: GROUP };
const OUTSIDER = { uid: 1002, group: null };
const BASE = 'debian:bookworm';

// Not where the test runner says: users must be able to enter it.
const directory = mkdtempSync('/dev/shm/users-');
chmodSync(directory, 0o755);
t.teardown(() => rmSync(directory, { recursive: true, force: true }));
const app = copyForUsers(directory);
const home = path.join(directory, 'home');
mkdirSync(home);
chmodSync(home, 0o777);
const daemon = await startDaemon(t, { directory, args: ['--group', String(GROUP)] });

/** Runs the command as a user. */
const as = (user: CommandOptions['user'], args: readonly string[], input = ''): Promise<Ended> =>
  daemon.client(args, { ...(user === undefined ? {} : { user }), main: app.main, cwd: home, input });

async function asOk(user: CommandOptions['user'], args: readonly string[], input = ''): Promise<string> {
  const { status, stdout, stderr } = await as(user, args, input);
  if (status !== 0) throw new Error(`${args.join(' ')}: status ${status}: ${stderr}`);
  return stdout;
}

/** Sends plain HTTP requests as a user. */
async function ask(user: { uid: number; group: number | null }, requests: readonly PlainRequest[]): Promise<PlainAnswer[]> {
  const { stdout, stderr } = await run(process.execPath, [app.requests], {
    user,
    input: JSON.stringify({ socket: daemon.socket, requests }),
  });
  if (stdout === '') throw new Error(stderr);
  return JSON.parse(stdout) as PlainAnswer[];
}

await daemon.clientOk(['image', 'import', '--shared', baseImagePath()]);
const ownImage = makeSetuidImage();

t.test('a user of the group runs, watches, fetches, cancels and removes jobs of their own', { timeout: 120_000 }, async (t) => {
  const out = path.join(home, 'layer.tar');
  const ran = await as(ALICE, ['run', '--from', BASE, '--script', '-', '-o', out], 'id -u; echo hello > /srv/hello');
  t.equal(ran.status, 0, 'run');
  t.equal(ran.stdout, '0\n', 'and is root in the sandbox');
  const sum = createHash('sha256').update(readFileSync(out)).digest('hex');
  t.match(ran.stderr, `diffID   sha256:${sum}`);

  const id = (
    await asOk(ALICE, ['run', '--from', BASE, '--script', '-', '--detach'], 'echo one; sleep 1; echo two; echo x > /srv/x')
  ).trim();
  t.equal(await asOk(ALICE, ['job', 'logs', '--follow', id]), 'one\ntwo\n');
  t.match(JSON.parse(await asOk(ALICE, ['job', 'show', id])), { id, uid: ALICE.uid, state: 'done' });
  await asOk(ALICE, ['job', 'get', id, '-o', path.join(home, 'fetched.tar')]);
  t.match(execFileSync('tar', ['-tf', path.join(home, 'fetched.tar')]).toString(), /^srv\/x$/m);

  const long = (await asOk(ALICE, ['run', '--from', BASE, '--script', '-', '--detach'], 'sleep 1000')).trim();
  t.equal(await asOk(ALICE, ['job', 'cancel', long]), 'cancelled\n');
  t.equal((await as(ALICE, ['job', 'logs', '--follow', long])).status, 130);
  await asOk(ALICE, ['job', 'rm', id, long]);
  t.equal((await as(ALICE, ['job', 'show', id])).status, 125);
});

t.test("C06 others' jobs, images and files answer exactly as if they did not exist", { timeout: 120_000 }, async (t) => {
  const submit = async (script: string): Promise<string> =>
    (await asOk(ALICE, ['run', '--from', BASE, '--script', '-', '--detach'], script)).trim();
  const jobs = {
    running: await submit('echo up; sleep 1000'),
    done: await submit('echo done > /srv/done'),
    failed: await submit('exit 3'),
  };
  for (const id of [jobs.done, jobs.failed]) await as(ALICE, ['job', 'logs', '--follow', id]);
  const imageId = (await asOk(ALICE, ['image', 'import', ownImage, '--name', 'mine:1'])).trim().split(' ')[0] ?? '';
  const [context] = await ask(ALICE, [{ method: 'POST', path: '/v1/contexts', body: '\0'.repeat(1024), contentType: 'application/x-tar' }]);
  const { id: contextId } = JSON.parse(context?.body ?? '{}') as { id: string };

  const noJob = 'f'.repeat(32);
  const pairs: [real: string, none: string, requests: (name: string) => PlainRequest[]][] = [
    ...Object.values(jobs).map((id): (typeof pairs)[number] => [id, noJob, jobRequests]),
    ['mine:1', 'none:1', imageRequests],
    [imageId, `sha256:${'f'.repeat(64)}`, imageRequests],
    [contextId, noJob, (name) => [submission({ contextId: name })]],
  ];
  for (const [real, none, requests] of pairs) {
    const [foreign, missing] = [await ask(BOB, requests(real)), await ask(BOB, requests(none))];
    for (const [index, request] of requests(real).entries()) {
      const [one, other] = [foreign[index], missing[index]];
      t.strictSame(one && withName(one, real), other && withName(other, none), `${request.method} ${request.path}`);
      t.match(one, { status: 404, body: /"code":"E_NOT_FOUND"/ });
    }
  }

  t.same(JSON.parse(await asOk(BOB, ['job', 'ls', '--json'])), { jobs: [] });
  t.same(imageNames(await asOk(BOB, ['image', 'ls', '--json'])), [BASE]);
  t.same(imageNames(await asOk(ALICE, ['image', 'ls', '--json'])).sort(), [BASE, 'mine:1'], 'the same requests have changed nothing');
  t.match(JSON.parse(await asOk(ALICE, ['job', 'show', jobs.running])), { state: 'running' });
  const own = await ask(ALICE, [...jobRequests(jobs.done).filter(({ method }) => method === 'GET'), submission({ contextId })]);
  t.same([...new Set(own.map(({ status }) => status))], [200, 201], 'and the owner gets all of it');
  for (const id of Object.values(jobs)) await as(ALICE, ['job', 'cancel', id]);
});

t.test('who is not in the group cannot connect', { timeout: 60_000 }, async (t) => {
  const { status, stderr } = await as(OUTSIDER, ['job', 'ls']);
  t.equal(status, 125);
  t.match(stderr, /^rootlayer: Cannot reach the daemon .*(permission|not allowed|EACCES)/i);
  const [answer] = await ask(OUTSIDER, [{ method: 'GET', path: '/v1/version' }]);
  t.match(answer, { status: 0, body: /EACCES/ });
});

t.test('A42 at no moment can a user reach a setuid-root file of an image or a script', { timeout: 120_000 }, async (t) => {
  // What a script and an image both have below their root; the probe looks for it through the processes that it can see.
  const canary = 'usr/local/bin/canary-setuid';
  const control = path.join(directory, 'control');
  mkdirSync(path.dirname(path.join(control, canary)), { recursive: true });
  writeFileSync(path.join(control, canary), '');
  const visible = spawn('setpriv', ['--reuid', '1000', '--regid', '1000', '--clear-groups', 'sleep', '600'], {
    cwd: control,
    stdio: 'ignore',
  });
  const probe = startCommand([daemon.stateDir, canary], { user: ALICE, main: app.probe });
  const probed = text(probe.stdout);
  const watch = watchSetuid(daemon.stateDir);
  t.teardown(async () => {
    for (const child of [visible, probe]) await end(child);
    await watch();
  });

  await asOk(ALICE, ['image', 'rm', 'mine:1']);
  await asOk(ALICE, ['image', 'import', ownImage, '--name', 'mine:1']);
  const context = path.join(home, 'context');
  mkdirSync(context);
  writeFileSync(path.join(context, 'copied-setuid'), 'x');
  chmodSync(path.join(context, 'copied-setuid'), 0o4755);
  const script = `mkdir -p /usr/local/bin; cp /usr/bin/cat /${canary}; chown 0:0 /${canary}; chmod 4755 /${canary}; sleep 1; head -c 60M /dev/zero > /srv/big`;
  const ran = await as(ALICE, ['run', '--from', BASE, '--script', '-', '--copy', context, '-o', path.join(home, 'setuid.tar')], script);
  t.equal(ran.status, 0, ran.stderr.slice(0, 300));
  t.match(execFileSync('tar', ['-tvf', path.join(home, 'setuid.tar')]).toString(), /^-rwsr-xr-x 0\/0 .* usr\/local\/bin\/canary-setuid$/m);

  const { rounds, found } = await watch();
  t.ok(rounds > 5, 'root looked several times');
  t.same(found, [], 'and there was no setuid-root file on the host');
  t.match(
    execFileSync('find', [daemon.stateDir, '-perm', '-4000', '-printf', '%P %U\n']).toString(),
    /canary-setuid [1-9]\d{5,}$/m,
    'the file of the image is there, as a file of nobody',
  );
  probe.stdin.end();
  const lines = (await probed).trim().split('\n');
  t.ok(Number(lines.pop()?.split(' ')[1]) > 5, 'the user looked several times');
  t.same(lines, [`file /proc/${visible.pid}/cwd/${canary}`], 'and reached only what was laid out for them');
});

t.test('the daemon ends', async (t) => {
  daemon.signal('SIGTERM');
  t.equal(await daemon.ended, 0);
});

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

function jobRequests(id: string): PlainRequest[] {
  const gets = ['', '/events', '/events?follow=1', '/log', '/log?stream=stderr', '/layer', '/layer?compression=gzip', '/layer-json']
    .concat(['/image?format=docker-archive', '/image?format=oci-archive', '/image?format=rootfs-tar'])
    .map((rest): PlainRequest => ({ method: 'GET', path: `/v1/jobs/${id}${rest}` }));
  return [...gets, { method: 'POST', path: `/v1/jobs/${id}/cancel` }, { method: 'DELETE', path: `/v1/jobs/${id}` }];
}

function imageRequests(name: string): PlainRequest[] {
  const url = `/v1/images/${encodeURIComponent(name)}`;
  return [
    { method: 'GET', path: url },
    ...['docker-archive', 'oci-archive', 'rootfs-tar'].map(
      (format): PlainRequest => ({ method: 'GET', path: `${url}/archive?format=${format}` }),
    ),
    { method: 'DELETE', path: url },
    submission({ from: name }),
  ];
}

function submission(over: object): PlainRequest {
  return { method: 'POST', path: '/v1/jobs', body: { from: BASE, script: Buffer.from('true').toString('base64'), ...over } };
}

/** An answer as it would be for any name. */
function withName(answer: PlainAnswer, name: string): PlainAnswer {
  const body = answer.body.replaceAll(name, 'NAME').replaceAll(encodeURIComponent(name), 'NAME');
  return { ...answer, headers: { ...answer.headers, 'content-length': body.length }, body };
}

function imageNames(listed: string): string[] {
  return (JSON.parse(listed) as { images: { names: string[] }[] }).images.flatMap(({ names }) => names);
}

/** An OCI archive, readable for all, with a setuid-root file among many others, so that its unpacking takes a while. */
function makeSetuidImage(): string {
  const top = path.join(directory, 'setuid-tree');
  const make =
    'mkdir -p usr/local/bin etc; for n in $(seq 2000); do echo $n > etc/$n; done; cp /bin/cat usr/local/bin/canary-setuid; chmod 4755 usr/local/bin/*';
  mkdirSync(top);
  execFileSync('bash', ['-ec', make], { cwd: top });
  const layer = path.join(directory, 'setuid.tar');
  execFileSync('tar', ['-cf', layer, '--numeric-owner', '-C', top, '.']);
  rmSync(top, { recursive: true });
  const layout = path.join(directory, 'setuid-layout');
  new UmociLayout(layout).addImage('mine', [layer]);
  const archive = path.join(directory, 'setuid-image.tar');
  execFileSync('tar', ['-cf', archive, '-C', layout, '.']);
  return archive;
}

/** Looks for setuid-root files below a directory all the time; the function that it gives ends that. */
function watchSetuid(stateDir: string): () => Promise<{ rounds: number; found: string[] }> {
  const stop = new AbortController();
  const found = new Set<string>();
  let rounds = 0;
  const work = (async () => {
    while (!stop.signal.aborted) {
      // Files vanish under its eyes, which find tells by its status.
      const { stdout } = await run('find', [stateDir, '-perm', '-4000', '-uid', '0']);
      for (const line of stdout.split('\n')) if (line !== '') found.add(line);
      rounds += 1;
      await sleep(1);
    }
  })();
  return async () => {
    stop.abort();
    await work;
    return { rounds, found: [...found] };
  };
}
