import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { Readable } from 'node:stream';
import t, { type Test } from 'tap';
import { connect } from '../../src/api/client.ts';
import type { Session } from '../../src/api/session.ts';
import { parseJobId } from '../../src/core/ids.ts';
import type { JobEvent, JobRecord } from '../../src/core/job.ts';
import { runOk } from '../helpers/command.ts';
import { type Daemon, descendantsOf, isAlive, type ProcessId, startDaemon } from '../helpers/daemon.ts';
import { findGroups, findLeftovers, loopsBelow } from '../helpers/leftovers.ts';
import { baseImagePath, requires } from '../helpers/requires.ts';
import { until } from '../helpers/until.ts';

requires(t, 'root', 'overlay', 'loop', 'userns', 'launcher', 'base-image', 'losetup');

const BASE = 'debian:bookworm';
const MIB = 1024 * 1024;
const directory = mkdtempSync(path.join(tmpdir(), 'crash-'));
t.teardown(() => rmSync(directory, { recursive: true, force: true }));

const start = (t: Test): Promise<Daemon> => startDaemon(t, { directory });
const stateDir = path.join(directory, 'state');
const below = (name: string): string => path.join(stateDir, name);

/** The jobs that all daemons here have taken. */
const jobIds: string[] = [];

/** Where the daemons make the control groups of jobs. */
const groupFolders = new Set<string>();

/** A client of a daemon that is about to be killed: what it waits for then is not awaited. */
type Victim = { daemon: Daemon; session: Session; submit(script: string, more?: object): Promise<JobRecord> };

function victimOf(daemon: Daemon): Victim {
  const session = connect(daemon.socket);
  const submit = async (script: string, more: object = {}): Promise<JobRecord> => {
    const job = await session.submit({ from: BASE, script: Buffer.from(script).toString('base64'), ...more });
    jobIds.push(job.id);
    return job;
  };
  return { daemon, session, submit };
}

/** Waits for an event of a job. */
async function untilEvent({ session }: Victim, job: JobRecord, isIt: (event: JobEvent) => boolean): Promise<void> {
  for await (const event of session.events(job.id, 1, true, AbortSignal.timeout(60_000))) if (isIt(event)) return;
  throw new Error(`Cannot go on: job ${job.id} ended before it`);
}

const isState = (state: string) => (event: JobEvent) => event.type === 'state' && event.state === state;
const isLog = (event: JobEvent): boolean => event.type === 'log';
const isEnd = (event: JobEvent): boolean => event.type === 'end';

/** Goes on in the background; the kill makes it fail. */
function leave(work: Promise<unknown>): void {
  work.catch(() => {});
}

/** Some bytes, and then nothing any more. */
function stalled(bytes: Buffer): Readable {
  const stream = new Readable({ read: () => {} });
  stream.push(bytes);
  return stream;
}

const importBase = (session: Session, onStage: (stage: string) => void = () => {}) =>
  session.importImage(
    createReadStream(baseImagePath(), { highWaterMark: MIB }),
    { name: null, select: null, shared: true },
    ({ stage }) => onStage(stage),
    AbortSignal.timeout(60_000),
  );

const LARGE = 'head -c 150M /dev/zero > /srv/large; for n in $(seq 500); do echo $n > /srv/$n; done';

/** Brings a daemon to a moment and gives the jobs of it with the states that are true after a kill. */
type Moment = { name: string; states: readonly JobRecord['state'][]; reach(victim: Victim): Promise<readonly JobRecord[]> };

const BEFORE_THE_BASE: readonly Moment[] = [
  {
    name: 'an image is being uploaded',
    states: [],
    reach: async ({ session }) => {
      const some = readFileSync(baseImagePath()).subarray(0, 30 * MIB);
      leave(session.importImage(stalled(some), { name: null, select: null, shared: true }, () => {}, AbortSignal.timeout(60_000)));
      await until('bytes in ingest/', () => bytesBelow(below('ingest')) > 10 * MIB);
      return [];
    },
  },
  {
    name: 'an image is being unpacked',
    states: [],
    reach: async ({ session }) => {
      await new Promise<void>((resolve, reject) => {
        importBase(session, (stage) => {
          if (stage === 'unpack') resolve();
        }).then(() => reject(new Error('Cannot go on: no unpacking was told')), reject);
      });
      return [];
    },
  },
];

const MOMENTS: readonly Moment[] = [
  { name: 'nothing happens', states: [], reach: async () => [] },
  {
    name: 'files for a job are being uploaded',
    states: [],
    reach: async ({ session }) => {
      leave(session.addContext(stalled(Buffer.alloc(5 * MIB)), AbortSignal.timeout(60_000)));
      await until('bytes in contexts/', () => bytesBelow(below('contexts')) > MIB);
      return [];
    },
  },
  {
    name: 'a job is being prepared',
    states: ['lost'],
    reach: async (victim) => {
      // Files that take a while to extract.
      const tar = await runOk('bash', [
        '-c',
        'cd "$0" && mkdir -p c/copy && head -c 120M /dev/zero > c/copy/big && tar -C c -cf c.tar copy',
        directory,
      ]);
      const contextId = await victim.session.addContext(createReadStream(path.join(directory, `c.tar${tar}`)), AbortSignal.timeout(60_000));
      const job = await victim.submit('sleep 1000', { contextId });
      await untilEvent(victim, job, isState('preparing'));
      return [job];
    },
  },
  {
    name: 'two jobs run with processes in the background, and two wait',
    states: ['lost'],
    reach: async (victim) => {
      const busy = 'setsid sleep 1000 & (trap "" TERM HUP; sleep 1000) & echo up; sleep 1000';
      const jobs = [await victim.submit(busy), await victim.submit(busy), await victim.submit('true'), await victim.submit('true')];
      for (const job of jobs.slice(0, 2)) await untilEvent(victim, job, isLog);
      return jobs;
    },
  },
  {
    name: 'a layer is being captured',
    states: ['lost'],
    reach: async (victim) => {
      const job = await victim.submit(LARGE);
      await untilEvent(victim, job, isState('capturing'));
      return [job];
    },
  },
  {
    name: 'a layer has been captured and becomes a blob',
    states: ['lost', 'done'],
    reach: async (victim) => {
      const job = await victim.submit(LARGE);
      const result = path.join(below('results'), job.id);
      await until('the layer in results/', () => existsSync(result), 1);
      await until('the layer out of results/', () => !existsSync(result), 1);
      return [job];
    },
  },
  {
    name: 'a client has just been told that its job is done',
    states: ['done'],
    reach: async (victim) => {
      const job = await victim.submit('echo done > /srv/done', { name: 'made:1' });
      await untilEvent(victim, job, isEnd);
      return [job];
    },
  },
  {
    name: 'a layer is being downloaded',
    states: ['done'],
    reach: async (victim) => {
      const job = await victim.submit(LARGE);
      await untilEvent(victim, job, isEnd);
      const { stream, digest } = await victim.session.openLayer(job.id, 'none', AbortSignal.timeout(60_000));
      leave(digest);
      stream.on('error', () => {});
      await once(stream, 'readable');
      return [job];
    },
  },
  {
    name: 'a running job is being cancelled',
    states: ['lost', 'cancelled'],
    reach: async (victim) => {
      const job = await victim.submit('echo up; sleep 1000');
      await untilEvent(victim, job, isLog);
      leave(victim.session.cancelJob(job.id));
      return [job];
    },
  },
  {
    name: 'an image is being exported while a job runs',
    states: ['lost'],
    reach: async (victim) => {
      const job = await victim.submit('echo up; sleep 1000');
      await untilEvent(victim, job, isLog);
      leave(victim.session.exportImage(BASE, 'rootfs-tar', AbortSignal.timeout(60_000)).then(({ digest }) => digest));
      await until('a root in results/', () => descendantsOf(victim.daemon.pid).length > 3);
      return [job];
    },
  },
];

for (const moment of BEFORE_THE_BASE) testKill(moment);

t.test('the image that could not be finished can be imported', { timeout: 60_000 }, async (t) => {
  const daemon = await start(t);
  const { session } = victimOf(daemon);
  t.same(await session.listImages(), []);
  t.same((await importBase(session)).names, [BASE]);
  daemon.signal('SIGTERM');
  t.equal(await daemon.ended, 0);
});

for (const moment of MOMENTS) testKill(moment, nextJobWorks);

function testKill({ name, states, reach }: Moment, after: (t: Test, victim: Victim) => Promise<void> = async () => {}): void {
  t.test(`O01 kill -9 of the daemon while ${name}`, { timeout: 120_000 }, async (t) => {
    const daemon = await start(t);
    const jobs = await reach(victimOf(daemon));
    const processes = await killWith(daemon);
    const startedMs = performance.now();
    const next = victimOf(await start(t));
    let left: string[] = ['not looked yet'];
    // The kernel takes the last of a killed process away in its own time.
    for (let tries = 0; tries < 100 && left.length > 0; tries++) {
      left = findLeftovers({ processes, jobIds, stateDir });
      if (left.length > 0) await new Promise((resolve) => setTimeout(resolve, 50));
    }
    t.same(left, [], 'nothing is left');
    t.ok(performance.now() - startedMs < 10_000, 'within ten seconds');
    for (const job of jobs) await assertTruth(t, next, job, states);
    await after(t, next);
    next.daemon.signal('SIGTERM');
    t.equal(await next.daemon.ended, 0);
  });
}

/** Stops it first, so that the moment does not pass while its processes are listed. */
async function killWith(daemon: Daemon): Promise<ProcessId[]> {
  daemon.signal('SIGSTOP');
  const processes = descendantsOf(daemon.pid);
  daemon.signal('SIGKILL');
  await daemon.ended;
  return processes;
}

/** A job is either lost, and says so wherever it is asked for, or done with a layer that is whole. */
async function assertTruth(t: Test, { session }: Victim, { id }: JobRecord, states: readonly JobRecord['state'][]): Promise<void> {
  const job = await session.getJob(id);
  t.ok(states.includes(job.state), `${job.state} is one of ${states.join(', ')}`);
  const events: JobEvent[] = [];
  for await (const event of session.events(id, 1, true, AbortSignal.timeout(10_000))) events.push(event);
  t.match(events.at(-1), { type: 'end', job: { id, state: job.state } });
  t.same(
    events.map((event) => event.n),
    events.map((_event, index) => index + 1),
  );
  if (job.state === 'done') {
    const hash = createHash('sha256');
    for await (const chunk of (await session.openLayer(id, 'none', AbortSignal.timeout(60_000))).stream) hash.update(chunk as Buffer);
    t.equal(`sha256:${hash.digest('hex')}`, job.layer?.diffId);
    return;
  }
  t.equal(job.error?.code, job.state === 'lost' ? 'E_JOB_LOST' : 'E_CANCELLED');
  await t.rejects(session.openLayer(id, 'none', AbortSignal.timeout(10_000)), { code: 'E_CONFLICT' });
}

async function nextJobWorks(t: Test, victim: Victim): Promise<void> {
  const job = await victim.submit('cat /etc/debian_version; echo next > /srv/next');
  await untilEvent(victim, job, isEnd);
  await assertTruth(t, victim, job, ['done']);
  await victim.session.removeJob(job.id);
}

function bytesBelow(directory: string): number {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + (statSync(path.join(entry.parentPath, entry.name), { throwIfNoEntry: false })?.size ?? 0), 0);
}

t.test('O02 a job whose processes are killed fails with a code, and the daemon lives', { timeout: 120_000 }, async (t) => {
  const victim = victimOf(await start(t));
  const { daemon, session } = victim;
  const sandbox = await victim.submit('echo up; sleep 1000');
  await untilEvent(victim, sandbox, isLog);
  for (const { pid } of descendantsOf(daemon.pid).filter(({ command }) => command.includes('rootlayer-launch job')))
    process.kill(pid, 'SIGKILL');
  await untilEvent(victim, sandbox, isEnd);
  t.match(await session.getJob(sandbox.id), { state: 'failed', layer: null, error: { code: /^E_(INTERNAL|SCRIPT)$/ } });

  const captured = await victim.submit(LARGE);
  await until('a part of the layer', () => sizeOf(path.join(below('results'), captured.id)) > MIB, 1);
  killWorkers(daemon);
  await untilEvent(victim, captured, isEnd);
  const { state, layer, error } = await session.getJob(captured.id);
  t.match({ state, layer, error }, { state: 'failed', layer: null, error: { code: 'E_WORKER' } });

  await nextJobWorks(t, victim);
  await until('the next worker', () => workersOf(daemon).length > 0);
  const idle = workersOf(daemon);
  const launchers = descendantsOf(daemon.pid).filter(({ pid }) => idle.some(({ parent }) => parent === pid));
  killWorkers(daemon);
  await until('the end of their launchers', () => !launchers.some(isAlive));
  // Those were waiting for something to do: nobody misses them.
  await nextJobWorks(t, victim);
  daemon.signal('SIGTERM');
  t.equal(await daemon.ended, 0);
});

function workersOf({ pid }: Daemon): ProcessId[] {
  return descendantsOf(pid).filter(({ command }) => command.includes('capture-worker'));
}

function killWorkers(daemon: Daemon): void {
  for (const worker of workersOf(daemon)) if (isAlive(worker)) process.kill(worker.pid, 'SIGKILL');
}

function sizeOf(file: string): number {
  return statSync(file, { throwIfNoEntry: false })?.size ?? 0;
}

t.test('O06 a start removes what bears its name, and nothing else', { timeout: 120_000 }, async (t) => {
  const first = victimOf(await start(t));
  const job = await first.submit('echo up; sleep 1000');
  await untilEvent(first, job, isLog);
  const groups = findGroups().filter((group) => group.endsWith(`/job-${job.id}`));
  t.ok(groups.length > 0);
  for (const group of groups) groupFolders.add(path.dirname(group));
  await first.session.cancelJob(job.id);
  await killWith(first.daemon);

  const planted = '0123456789abcdef0123456789abcdef';
  for (const name of ['ingest', 'contexts', 'results', 'uppers', 'trash', 'layers', 'jobs']) {
    mkdirSync(path.join(below(name), planted, 'deep'), { recursive: true });
    writeFileSync(path.join(below(name), planted, 'deep/file'), 'left');
  }
  for (const name of ['contexts', 'results', 'uppers', 'blobs/sha256'])
    writeFileSync(path.join(below(name), `f${planted.slice(1)}`), 'left');
  const ours = groups.map((group) => plantGroup(path.join(path.dirname(group), `job-${planted}`)));
  const foreign = groups.map((group) =>
    plantGroup(path.join(path.dirname(path.dirname(group)), `foreign-${process.pid}`, `job-${planted}`)),
  );
  const disk = path.join(directory, 'foreign.img');
  writeFileSync(disk, Buffer.alloc(MIB));
  const device = (await runOk('losetup', ['--find', '--show', disk])).trim();
  try {
    const next = victimOf(await start(t));
    for (const { path: group, sleeper } of ours) {
      t.notOk(existsSync(group), group);
      await until('the end of the planted process', () => sleeper.signalCode !== null || sleeper.exitCode !== null);
    }
    for (const { path: group, sleeper } of foreign) {
      t.ok(existsSync(group), group);
      t.equal(sleeper.signalCode, null);
    }
    t.same(loopsBelow(directory), [path.basename(device)]);
    t.same(findLeftovers({ processes: [], jobIds: [], stateDir }), []);
    for (const name of ['blobs/sha256', 'layers', 'jobs'])
      t.notOk(
        readdirSync(below(name)).some((entry) => entry.endsWith(planted.slice(1))),
        name,
      );
    await nextJobWorks(t, next);
    next.daemon.signal('SIGTERM');
    t.equal(await next.daemon.ended, 0);
  } finally {
    await runOk('losetup', ['--detach', device]);
    for (const group of [...ours, ...foreign]) await removeGroup(group);
  }
});

type PlantedGroup = { path: string; sleeper: ChildProcess };

/** A control group with a process in it. */
function plantGroup(group: string): PlantedGroup {
  mkdirSync(group, { recursive: true });
  const sleeper = spawn('sleep', ['600'], { stdio: 'ignore' });
  writeFileSync(path.join(group, 'cgroup.procs'), String(sleeper.pid));
  return { path: group, sleeper };
}

async function removeGroup({ path: group, sleeper }: PlantedGroup): Promise<void> {
  sleeper.kill('SIGKILL');
  if (sleeper.exitCode === null && sleeper.signalCode === null) await once(sleeper, 'exit');
  for (const dir of [group, path.dirname(group)]) {
    if (!existsSync(dir) || !(dir === group || path.basename(dir).startsWith('foreign-'))) continue;
    await until(`the end of ${dir}`, () => isRemoved(dir));
  }
}

function isRemoved(dir: string): boolean {
  try {
    rmdirSync(dir);
    return true;
  } catch {
    return !existsSync(dir);
  }
}

t.test('O12 SIGTERM lets the running job finish, cancels the waiting ones, and takes no more', { timeout: 120_000 }, async (t) => {
  const victim = victimOf(await start(t));
  const { daemon, session } = victim;
  const running = await victim.submit('echo up; sleep 2; echo finished > /srv/finished');
  const other = await victim.submit('echo up; sleep 2');
  const waiting = await victim.submit('true');
  for (const job of [running, other]) await untilEvent(victim, job, isLog);
  daemon.signal('SIGTERM');
  await until('the word that it drains', () => daemon.log().some((line) => line.includes('"msg":"draining"')));
  await t.rejects(victim.submit('true'), { code: /^E_(BUSY|UNREACHABLE)$/ });
  t.match(await session.getJob(running.id), { state: 'running' }, 'what is there can still be asked for');
  t.equal(await daemon.ended, 0);
  t.notOk(existsSync(daemon.socket));

  const next = victimOf(await start(t));
  await assertTruth(t, next, running, ['done']);
  await assertTruth(t, next, waiting, ['cancelled']);
  next.daemon.signal('SIGTERM');
  t.equal(await next.daemon.ended, 0);
});

t.test('O12 a second SIGTERM ends the running job', { timeout: 60_000 }, async (t) => {
  const victim = victimOf(await start(t));
  const job = await victim.submit('echo up; sleep 1000');
  await untilEvent(victim, job, isLog);
  victim.daemon.signal('SIGTERM');
  await until('the word that it drains', () => victim.daemon.log().some((line) => line.includes('"msg":"draining"')));
  victim.daemon.signal('SIGTERM');
  t.equal(await victim.daemon.ended, 0);
  const next = victimOf(await start(t));
  await assertTruth(t, next, job, ['cancelled']);
  next.daemon.signal('SIGTERM');
  t.equal(await next.daemon.ended, 0);
});

t.test('after all of it, removing jobs and images leaves an empty store', { timeout: 60_000 }, async (t) => {
  const { daemon, session } = victimOf(await start(t));
  for (const { id } of await session.listJobs()) await session.removeJob(parseJobId(id));
  for (const { id } of await session.listImages()) await session.removeImage(id);
  daemon.signal('SIGTERM');
  t.equal(await daemon.ended, 0);
  t.same([...groupFolders].filter(existsSync), []);
  t.same(readdirSync(below('jobs')), []);
  t.same(readdirSync(below('layers')), []);
  // The layer of a job that changes nothing: two blocks of zeros.
  const empty = createHash('sha256').update(Buffer.alloc(1024)).digest('hex');
  t.same(readdirSync(below('blobs/sha256')), [empty]);
});
