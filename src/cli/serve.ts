import { readFileSync } from 'node:fs';
import process from 'node:process';
import pino, { type Logger } from 'pino';
import { type ConnectionLimits, DEFAULT_CONNECTION_LIMITS } from '../api/connections.ts';
import { type Listening, listenOnInherited, listenOnPath, takeActivation } from '../api/listen.ts';
import { type ApiServer, createServer } from '../api/server.ts';
import { RootlayerError } from '../core/errors.ts';
import { parseDuration } from '../core/units.ts';
import { createEngine, type EngineOptions } from '../engine.ts';
import { closeOnExecFrom } from '../host/libc.ts';
import { type Notifier, takeNotifier } from '../host/sd-notify.ts';
import type { DaemonOptions } from './commands/daemon.ts';

/** Answers that are on their way when everything else has ended. */
const LAST_ANSWERS_MS = 5000;
const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'];

/**
 * Runs the daemon until it is told to end. The engine comes first: its lock on the state directory is what makes it safe to replace a stale
 * socket. Throws `E_USAGE`, `E_STATE` and `E_CONFLICT` when it cannot start.
 */
export async function serve(options: DaemonOptions): Promise<void> {
  const engineOptions = readEngineOptions(options);
  const connectionLimits = readConnectionLimits(options);
  const gid = options.group === undefined ? null : findId('--group', options.group, '/etc/group');
  const drainMs = readDrain(options.drain);
  const log = openLog(options.logLevel);
  const notifier = takeNotifier();
  const isActivated = takeActivation();
  // What systemd passed is for this process, not for those it starts.
  closeOnExecFrom(3);
  dieOnDefects(log);

  const engine = await createEngine({
    ...engineOptions,
    onProblem: (what, error) => log.error({ what, error: String(error) }, 'problem'),
  });
  const server = await createServer({ engine, log, connectionLimits });
  const listening = await openSocket(server, isActivated, options.socket, gid).catch(async (error: unknown) => {
    await engine.close(AbortSignal.abort());
    throw error;
  });
  const stopWatchdog = startWatchdog(notifier);
  // Before anyone hears that it is ready, and may tell it to end.
  const toldToEnd = untilToldToEnd(drainMs);
  log.info({ socket: listening.where, stateDir: options.stateDir }, 'ready');
  notifier.notify('READY=1', `STATUS=listening at ${listening.where}`);

  const drain = await toldToEnd;
  log.info({ drainMs }, 'draining');
  notifier.notify('STOPPING=1', 'STATUS=waiting for running jobs');
  server.drain();
  await engine.close(drain);
  listening.stop();
  await server.close(LAST_ANSWERS_MS);
  stopWatchdog();
  log.info({}, 'ended');
}

function openSocket(server: ApiServer, isActivated: boolean, socket: string, gid: number | null): Promise<Listening> {
  return isActivated ? listenOnInherited(server.http) : listenOnPath(server.http, socket, gid);
}

/**
 * Resolves at the first signal; what it gives aborts when the time is over or a second signal comes. NOTE: AbortSignal.any() over a timeout does not
 * keep the timeout alive on Node 20.
 */
function untilToldToEnd(drainMs: number): Promise<AbortSignal> {
  const drain = new AbortController();
  return new Promise((resolve) => {
    let isFirst = true;
    const onSignal = (): void => {
      if (!isFirst) {
        drain.abort();
        return;
      }
      isFirst = false;
      setTimeout(() => drain.abort(), drainMs).unref();
      resolve(drain.signal);
    };
    process.on('SIGTERM', onSignal);
    process.on('SIGINT', onSignal);
  });
}

/** As long as the loop turns, systemd hears so. */
function startWatchdog({ notify, watchdogMs }: Notifier): () => void {
  if (watchdogMs === null) return () => {};
  const timer = setInterval(() => notify('WATCHDOG=1'), watchdogMs);
  return () => clearInterval(timer);
}

/** Synchronous, so that the last words of a dying daemon are written. */
function openLog(level: string): Logger {
  if (!LOG_LEVELS.includes(level)) throw refuse('--log-level', level, `want one of ${LOG_LEVELS.join(', ')}`);
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, pino.destination({ dest: 2, sync: true }));
}

/** A defect that nobody caught leaves an unknown state: the next start cleans up, as after a kill. */
function dieOnDefects(log: Logger): void {
  const die = (error: unknown): void => {
    log.fatal({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }, 'defect');
    process.exit(1);
  };
  process.on('uncaughtException', die);
  process.on('unhandledRejection', die);
}

function readEngineOptions(options: DaemonOptions): EngineOptions {
  const running = readCount('--max-jobs', options.maxJobs);
  const runningPerUid = readCount('--max-jobs-per-user', options.maxJobsPerUser) ?? running;
  const queued = readCount('--max-queued', options.maxQueued);
  const queuedPerUid = readCount('--max-queued-per-user', options.maxQueuedPerUser);
  return {
    stateDir: options.stateDir,
    keepWarm: true,
    allowDegraded: options.allowDegraded === true,
    queue: {
      ...(running === undefined ? {} : { running }),
      ...(runningPerUid === undefined ? {} : { runningPerUid }),
      ...(queued === undefined ? {} : { queued }),
      ...(queuedPerUid === undefined ? {} : { queuedPerUid }),
    },
    policy: {
      chrootUids: options.allowChroot.map((user) => findId('--allow-chroot', user, '/etc/passwd')),
      networkUids: options.allowNetwork.map((user) => findId('--allow-network', user, '/etc/passwd')),
      emulation: readEmulation(options.vmEmulation),
    },
  };
}

function readEmulation(text: string): 'allow' | 'refuse' {
  if (text === 'allow' || text === 'refuse') return text;
  throw refuse('--vm-emulation', text, 'want "allow" or "refuse"');
}

function readConnectionLimits(options: DaemonOptions): ConnectionLimits {
  const { total, perUid } = DEFAULT_CONNECTION_LIMITS;
  return {
    total: readCount('--max-connections', options.maxConnections) ?? total,
    perUid: readCount('--max-connections-per-user', options.maxConnectionsPerUser) ?? perUid,
  };
}

function readCount(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^[1-9]\d{0,5}$/.test(text)) throw refuse(option, text, 'want a whole number from 1 to 999999');
  return Number(text);
}

/** setTimeout fires at once beyond 2^31 ms. */
const MAX_DRAIN_MS = 24 * 3600 * 1000;

function readDrain(text: string): number {
  try {
    return Math.min(parseDuration(text), MAX_DRAIN_MS);
  } catch {
    throw refuse('--drain', text, 'want a time such as "60s"');
  }
}

/** A number, or a name of the local database, whose lines have the id as their third field. Source: passwd(5), group(5). */
function findId(option: string, text: string, database: string): number {
  if (/^\d{1,10}$/.test(text)) return Number(text);
  const line = readFileSync(database, 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${text}:`));
  const id = line?.split(':')[2];
  if (id === undefined || text === '') throw refuse(option, text, `"${database}" does not have it, want a name from there or a number`);
  return Number(id);
}

function refuse(option: string, value: string, why: string): RootlayerError {
  return new RootlayerError('E_USAGE', `Cannot use ${option} ${JSON.stringify(value)}: ${why}`);
}
