import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { RootlayerError } from '../core/errors.ts';
import { escapeName } from '../core/names.ts';
import { findProgram } from './programs.ts';

const STDERR_KEPT = 1000;

/**
 * Gives what a program makes of a stream, as a child with the caller's own rights: for commands, which have none to lose, not for the daemon. The
 * input is destroyed with the output. Throws `E_TOOL` when the program is missing; by the stream `E_COMPRESSION` when it fails, what the input fails
 * with, and the signal's reason.
 */
export function filterProgram(name: string, args: readonly string[], input: Readable, signal: AbortSignal): Readable {
  return Readable.from(run(findProgram(name), args, input, signal), { objectMode: false });
}

async function* run(program: string, args: readonly string[], input: Readable, signal: AbortSignal): AsyncGenerator<Buffer> {
  signal.throwIfAborted();
  const child = spawn(program, args, { stdio: 'pipe', env: {}, signal, killSignal: 'SIGKILL' });
  const closed = once(child, 'close');
  // Waited for below, but only once the output has ended.
  closed.catch(() => {});
  let words = '';
  child.stderr.on('data', (chunk: Buffer) => {
    words = (words + escapeName(chunk, STDERR_KEPT)).slice(-STDERR_KEPT);
  });
  const fed = pipeline(input, child.stdin).catch((error: unknown) => error);
  try {
    yield* child.stdout as AsyncIterable<Buffer>;
    signal.throwIfAborted();
    const [status] = await closed;
    const failure = await fed;
    if (failure !== undefined && !isBrokenPipe(failure)) throw failure;
    if (status !== 0) throw new RootlayerError('E_COMPRESSION', `Cannot run ${program}: it ended with status ${status}: ${words}`);
  } finally {
    child.kill('SIGKILL');
    input.destroy();
  }
}

/** The program has ended before its input: its status says why. */
function isBrokenPipe(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'EPIPE' || error.code === 'ERR_STREAM_PREMATURE_CLOSE');
}
