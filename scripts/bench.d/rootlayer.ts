import { type ChildProcess, spawn } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { finished } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from '../../src/api/client.ts';
import type { Session } from '../../src/api/session.ts';
import type { JobId } from '../../src/core/ids.ts';
import { run } from './command.ts';
import { makeDirectory, remove, type Workspace } from './workspace.ts';

const CLI = path.join(import.meta.dirname, '../../src/cli/main.js');

/** The name that the base archive brings. */
export const BASE_NAME = 'debian:bookworm';

/** A daemon of ours, with a client. Disposing it ends it and removes its state. */
export type Daemon = { session: Session; pid: number } & AsyncDisposable;

const START_MS = 20_000;

/** Starts a daemon with its state in the workspace, and waits until it answers. */
export async function startDaemon(workspace: Workspace, name: string, jobs: number): Promise<Daemon> {
  const dir = makeDirectory(workspace, name);
  const socket = path.join(dir, 'socket');
  const log = await open(path.join(dir, 'log'), 'a');
  const options = [
    '--socket',
    socket,
    '--state-dir',
    path.join(dir, 'state'),
    '--max-jobs',
    String(jobs),
    '--max-connections-per-user',
    String(4 * jobs),
    '--log-level',
    'warn',
  ];
  // Whatever becomes of this process, the daemon ends with it.
  const argv = ['--pdeathsig', 'KILL', process.execPath, CLI, 'daemon', ...options];
  const child = spawn('setpriv', argv, { stdio: ['ignore', 'ignore', log.fd] });
  await log.close();
  const session = connect(socket);
  const dispose = async (): Promise<void> => {
    await end(child);
    await remove(dir);
  };
  try {
    await untilReady(session, child);
    return { session, pid: child.pid ?? -1, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

async function untilReady(session: Session, child: ChildProcess): Promise<void> {
  for (const deadline = performance.now() + START_MS; ; ) {
    try {
      await session.listJobs();
      return;
    } catch (error) {
      if (child.exitCode !== null || performance.now() > deadline) throw new Error('Cannot start the daemon', { cause: error });
      await sleep(50);
    }
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  await ended;
}

/** Brings the base image in. */
export async function importBase(session: Session, archive: string, signal: AbortSignal): Promise<void> {
  const stream = createReadStream(archive, { highWaterMark: 1024 * 1024 });
  await session.importImage(stream, { name: null, select: null, shared: false }, () => {}, signal);
}

/** From request to the last byte of the layer; the client checks its digest. Throws when the job does not end well. */
export async function runJob(session: Session, script: string, signal: AbortSignal): Promise<JobId> {
  const { id } = await session.submit({ from: BASE_NAME, script: Buffer.from(script).toString('base64') });
  for await (const event of session.events(id, 1, true, signal)) {
    if (event.type === 'end' && event.job.state !== 'done')
      throw new Error(`Cannot measure a job that ${event.job.state}: ${event.job.error?.message}`);
  }
  const { stream } = await session.openLayer(id, 'none', signal);
  await finished(stream.resume());
  return id;
}

/** The command without a daemon, on a state directory of its own. */
export type Embedded = { command(...args: string[]): Promise<string>; dir: string } & AsyncDisposable;

/** Makes the state directory. */
export async function openEmbedded(workspace: Workspace, name: string): Promise<Embedded> {
  const dir = makeDirectory(workspace, name);
  const stateDir = path.join(dir, 'state');
  await mkdir(stateDir, { mode: 0o700 });
  return {
    dir,
    command: async (...args) => await run([process.execPath, CLI, ...args, '--state-dir', stateDir]),
    [Symbol.asyncDispose]: async () => await remove(dir),
  };
}
