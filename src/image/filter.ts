import { Socket } from 'node:net';
import { RootlayerError } from '../core/errors.ts';
import { launch } from '../host/launcher.ts';
import { close, makePipe } from '../host/libc.ts';
import { findProgram } from '../host/programs.ts';

/** A program that turns standard input into standard output. */
export type FilterProgram = { readonly name: 'gzip' | 'zstd'; readonly args: readonly string[] };

const STDERR_KEPT = 1000;

/**
 * Gives what a program makes of a file's bytes. The program reads what strangers wrote, so it runs without capabilities, as root of the ids from
 * `uidBase` on and nothing else, in namespaces of its own. The descriptor is closed. Throws `E_TOOL` when the program is missing, `E_COMPRESSION` when it
 * fails, and the signal's reason.
 */
export async function* filtered(inputFd: number, program: FilterProgram, uidBase: number, signal: AbortSignal): AsyncGenerator<Buffer> {
  const { launched, output, words } = start(inputFd, program, uidBase);
  const stop = (): void => {
    launched.kill();
    output.destroy(signal.reason instanceof Error ? signal.reason : new Error('aborted'));
  };
  try {
    signal.throwIfAborted();
    signal.addEventListener('abort', stop, { once: true });
    for await (const chunk of output) yield chunk as Buffer;
    const end = await launched.ended;
    if (end.kind === 'exit' && end.status === 0) return;
    throw new RootlayerError('E_COMPRESSION', `Cannot run ${program.name}: ${words().trim() || JSON.stringify(end)}`);
  } finally {
    signal.removeEventListener('abort', stop);
    launched.kill();
    output.destroy();
    await launched.ended;
    launched.socket.destroy();
  }
}

function start(
  inputFd: number,
  program: FilterProgram,
  uidBase: number,
): { launched: ReturnType<typeof launch>; output: Socket; words(): string } {
  const [readFd, writeFd] = makePipe();
  const output = new Socket({ fd: readFd, readable: true, writable: false });
  try {
    const launched = launch(
      'worker',
      [
        ['userns', uidBase],
        ['caps', '0'],
        ['nnp', 1],
        ['exec', findProgram(program.name)],
        ...program.args.map((arg): [string, string] => ['arg', arg]),
      ],
      [inputFd, writeFd, 'pipe'],
      [],
    );
    let words = '';
    launched.child.stderr?.on('data', (chunk: Buffer) => {
      words = (words + chunk.toString('latin1').replace(/[^\x20-\x7e]+/g, ' ')).slice(-STDERR_KEPT);
    });
    launched.socket.on('error', () => {});
    return { launched, output, words: () => words };
  } catch (error) {
    output.destroy();
    throw error;
  } finally {
    close(writeFd);
    close(inputFd);
  }
}
