import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { buffer } from 'node:stream/consumers';
import { findProgram } from './programs.ts';

/** How a program is run: its whole environment, and its working directory. */
export type ProgramOptions = { readonly env: NodeJS.ProcessEnv; readonly cwd?: string };

/** What a program said, and how it ended: null for a signal. */
export type ProgramEnd = { readonly status: number | null; readonly stdout: Buffer; readonly stderr: string };

/**
 * Runs a program as a child with the caller's own rights, without input, and waits for its end: for commands, which have no rights to lose, not for the
 * daemon. Both outputs are kept in memory. Throws `E_TOOL` when the program is missing, and the signal's reason.
 */
export async function runProgram(
  name: string,
  args: readonly string[],
  { env, cwd }: ProgramOptions,
  signal: AbortSignal,
): Promise<ProgramEnd> {
  signal.throwIfAborted();
  const options = { env, stdio: ['ignore', 'pipe', 'pipe'] as ['ignore', 'pipe', 'pipe'], ...(cwd === undefined ? {} : { cwd }) };
  const child = spawn(findProgram(name), args, options);
  const stop = (): void => void child.kill('SIGTERM');
  signal.addEventListener('abort', stop, { once: true });
  try {
    const [stdout, stderr, [status]] = await Promise.all([buffer(child.stdout), buffer(child.stderr), once(child, 'close')]);
    signal.throwIfAborted();
    return { status: status as number | null, stdout, stderr: stderr.toString('utf8') };
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
