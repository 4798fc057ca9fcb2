import { chmodSync, chownSync, fstatSync, lstatSync, mkdirSync, renameSync, type Stats, unlinkSync } from 'node:fs';
import type { Server } from 'node:http';
import net from 'node:net';
import path from 'node:path';
import process from 'node:process';
import { RootlayerError } from '../core/errors.ts';

/** Where the API listens; `stop` ends listening and removes the socket, unless someone else has put another one there. */
export type Listening = { where: string; stop(): void };

/** The first descriptor that systemd passes. Source: sd_listen_fds(3). */
const LISTEN_FDS_START = 3;

/** One daemon at a time makes a socket in its directory: it holds the lock. */
const DRAFT_NAME = '.rl';
/** Size of sun_path with its NUL, less what the draft's name can be longer. Source: unix(7). */
const MAX_SOCKET_PATH = 107 - DRAFT_NAME.length;

/**
 * Tells whether systemd has passed this process a socket (`LISTEN_PID` and `LISTEN_FDS`), and takes the variables out of the environment. Throws
 * `E_USAGE` when it has passed more than one. Source: sd_listen_fds(3).
 */
export function takeActivation(env: NodeJS.ProcessEnv = process.env, pid = process.pid): boolean {
  const { LISTEN_PID: forPid, LISTEN_FDS: count } = env;
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) delete env[name];
  if (forPid !== String(pid) || count === undefined) return false;
  if (count !== '1') throw new RootlayerError('E_USAGE', `Cannot use LISTEN_FDS "${count}": want one socket`);
  return true;
}

/** Listens on the socket that systemd passed as descriptor 3. Throws `E_USAGE` when that is no listening Unix socket. */
export async function listenOnInherited(server: Server, fd = LISTEN_FDS_START): Promise<Listening> {
  const refuse = (why: string, cause?: unknown): never => {
    throw new RootlayerError('E_USAGE', `Cannot listen on descriptor ${fd}: ${why}, want a Unix stream socket from systemd`, { cause });
  };
  try {
    if (!fstatSync(fd).isSocket()) refuse('it is no socket');
    await listen(server, { fd });
  } catch (error) {
    if (error instanceof RootlayerError) throw error;
    refuse(error instanceof Error ? error.message : String(error), error);
  }
  // Node knows addresses of the internet only: one of those is the wrong kind.
  if (typeof server.address() === 'object' && server.address() !== null) {
    server.close();
    refuse('it is no Unix socket');
  }
  return { where: `descriptor ${fd} from systemd`, stop: () => server.close() };
}

/**
 * Makes the socket and listens on it: mode 0660 for the group, or 0600 without one. A socket that a dead daemon left is replaced; anything else at
 * that path, a living daemon, or a directory that others can change fail with `E_CONFLICT`. The caller holds the lock on the state directory.
 */
export async function listenOnPath(server: Server, socketPath: string, gid: number | null): Promise<Listening> {
  const file = path.resolve(socketPath);
  // Node cuts a longer one off without a word.
  if (Buffer.byteLength(file) > MAX_SOCKET_PATH) throw conflict(file, `its path is too long, want at most ${MAX_SOCKET_PATH} bytes`);
  prepareDirectory(path.dirname(file));
  await removeStale(file);
  // Under another name first: nobody connects before the mode is right, and Node, which unlinks by name what it closes, never meets a successor's.
  const draft = path.join(path.dirname(file), DRAFT_NAME);
  if (statIfThere(draft)?.isSocket()) unlinkSync(draft);
  await bindPrivately(server, draft);
  if (gid !== null) {
    chownSync(draft, -1, gid);
    chmodSync(draft, 0o660);
  }
  renameSync(draft, file);
  const { dev, ino } = lstatSync(file);
  const stop = (): void => {
    const now = statIfThere(file);
    if (now !== undefined && now.dev === dev && now.ino === ino) unlinkSync(file);
    server.close();
  };
  return { where: file, stop };
}

async function bindPrivately(server: Server, file: string): Promise<void> {
  // bind(2) is done when `listen` returns, so the umask holds for nothing else.
  const umask = process.umask(0o177);
  let listening: Promise<void>;
  try {
    listening = listen(server, { path: file });
  } finally {
    process.umask(umask);
  }
  try {
    await listening;
  } catch (error) {
    throw conflict(
      file,
      error instanceof Error ? error.message : String(error),
      'a path of at most 100 bytes in a directory of root works',
    );
  }
}

function listen(server: Server, where: { fd: number } | { path: string }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(where, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

function prepareDirectory(dir: string): void {
  let stat = statIfThere(dir);
  if (stat === undefined) {
    mkdirSync(dir, { mode: 0o755 });
    stat = lstatSync(dir);
  }
  if (!stat.isDirectory()) throw conflict(dir, 'it is no directory');
  const owners = [0, process.geteuid?.()];
  const isSticky = (stat.mode & 0o1000) !== 0;
  if (!owners.includes(stat.uid) || ((stat.mode & 0o022) !== 0 && !isSticky)) {
    throw conflict(dir, 'other users can change the directory', `use a directory of root with mode 0755, or "chmod go-w ${dir}"`);
  }
}

async function removeStale(file: string): Promise<void> {
  const stat = statIfThere(file);
  if (stat === undefined) return;
  if (!stat.isSocket()) throw conflict(file, 'it is there and is no socket');
  if (stat.uid !== process.geteuid?.()) throw conflict(file, `it is a socket of user ${stat.uid}`);
  if (await answers(file)) throw conflict(file, 'another daemon listens there', 'end it, or use another --socket');
  unlinkSync(file);
}

function answers(file: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = net.connect(file);
    const finish = (isAlive: boolean): void => {
      probe.destroy();
      resolve(isAlive);
    };
    probe.once('connect', () => finish(true));
    // A full backlog (EAGAIN) is a sign of life; only a refusal or a file that has gone is none.
    probe.once('error', (error: NodeJS.ErrnoException) => finish(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'));
  });
}

function statIfThere(file: string): Stats | undefined {
  return lstatSync(file, { throwIfNoEntry: false });
}

function conflict(file: string, why: string, hint?: string): RootlayerError {
  return new RootlayerError('E_CONFLICT', `Cannot listen at "${file}": ${why}`, { hint });
}
