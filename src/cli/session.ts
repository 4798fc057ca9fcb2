import { existsSync } from 'node:fs';
import process from 'node:process';
import type { Command } from 'commander';
import { connect } from '../api/client.ts';
import type { Session } from '../api/session.ts';
import { RootlayerError } from '../core/errors.ts';
import { printable } from './printable.ts';

export const DEFAULT_SOCKET = '/run/rootlayer/rootlayer.sock';
export const DEFAULT_STATE_DIR = '/var/lib/rootlayer';

/** Options that every command which needs an engine has. */
export type SessionOptions = { socket?: string; stateDir?: string; allowDegraded?: boolean };

/** How long an engine that fails to end is waited for. */
const CLOSE_TIME_MS = 30_000;

/** Two commands without a daemon take turns. */
const LOCK_WAIT_MS = 60_000;

/** Adds the options that choose between daemon and embedded engine. */
export function addSessionOptions(command: Command): Command {
  return command
    .option('--socket <path>', `socket of the daemon (default: $ROOTLAYER_SOCKET, else ${DEFAULT_SOCKET})`)
    .option('--state-dir <dir>', `as root, use no daemon but this state directory (default without a daemon: ${DEFAULT_STATE_DIR})`)
    .option('--allow-degraded', 'without a daemon, run although this machine cannot hold memory, process or cpu limits');
}

/** Runs work with a session, and ends it. */
export async function withSession<T>(options: SessionOptions, work: (session: Session) => Promise<T>): Promise<T> {
  const session = await openSession(options);
  try {
    return await work(session);
  } finally {
    // Nothing may run on unseen: what still does is cancelled.
    await session.close(session.kind === 'embedded' ? AbortSignal.abort() : AbortSignal.timeout(CLOSE_TIME_MS));
  }
}

/**
 * Gives the daemon where a socket was named or the usual one is there; else, for root, an engine in this process. Throws `E_UNREACHABLE` when there is
 * neither, `E_USAGE` for a choice of both.
 */
export async function openSession(options: SessionOptions): Promise<Session> {
  const { stateDir } = options;
  const named = options.socket ?? (stateDir === undefined ? nonEmpty(process.env['ROOTLAYER_SOCKET']) : undefined);
  if (named !== undefined && stateDir !== undefined) {
    throw new RootlayerError('E_USAGE', 'Cannot use --socket and --state-dir together: want a daemon or none');
  }
  if (named !== undefined) return connect(named);
  const isRoot = process.geteuid?.() === 0;
  if (stateDir === undefined && existsSync(DEFAULT_SOCKET)) return connect(DEFAULT_SOCKET);
  if (isRoot) return openEmbedded(stateDir ?? DEFAULT_STATE_DIR, options.allowDegraded === true);
  if (stateDir !== undefined) {
    throw new RootlayerError('E_USAGE', `Cannot use --state-dir as user ${process.geteuid?.()}: want root`, {
      hint: 'leave it out to use the daemon, or use sudo',
    });
  }
  throw new RootlayerError('E_UNREACHABLE', `Cannot reach the daemon at "${DEFAULT_SOCKET}": there is no socket`, {
    hint: 'start it with "systemctl start rootlayer.socket", name another with --socket, or run this command as root to do without',
  });
}

async function openEmbedded(stateDir: string, allowDegraded: boolean): Promise<Session> {
  const [{ createEngine }, { sessionOf }] = await Promise.all([import('../engine.ts'), import('../api/embedded.ts')]);
  const onProblem = (what: string, error: unknown): void => {
    process.stderr.write(`rootlayer: warning: ${printable(`${what}: ${error instanceof Error ? error.message : String(error)}`)}\n`);
  };
  const engine = await createEngine({ stateDir, allowDegraded, lockWaitMs: LOCK_WAIT_MS, onProblem });
  return sessionOf(engine, { uid: process.geteuid?.() ?? 0 });
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === '' ? undefined : text;
}
