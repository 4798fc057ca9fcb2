import { closeSync, constants, openSync } from 'node:fs';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import { FIRST_LAUNCH_FD, type LaunchEnd, launch } from '../../host/launcher.ts';
import { makePipe } from '../../host/libc.ts';

/** A running decompressor; dispose it to end it. */
export interface ZstdProcess extends AsyncDisposable {
  /** The read end of its output, open until {@link closeOutput}. */
  readonly outputFd: number;
  /** Due when the worker has its own copy and no more comes of it: zstd then ends instead of waiting for a reader. */
  closeOutput(): void;
  /**
   * Resolves when it has ended: with null when all was well or its reader went away first, else with `E_COMPRESSION`, or `E_TOOL` when
   * the program is missing.
   */
  readonly ended: Promise<RootlayerError | null>;
}

/** Where distributions have it; never looked up by PATH. */
const ZSTD = '/usr/bin/zstd';
const MEMORY = '--memory=128MB';
const STDERR_KEPT = 2048;

/**
 * Starts the zstd program on a blob, a regular file, from its first byte. Node 20 has no zstd of its own. It runs by way of the
 * launcher: in fresh namespaces without a network, as root of the store's user namespace (which owns nothing that can be reached by
 * path, since the state directory is root's alone), without any capability, with no_new_privs and an empty environment; it dies with
 * the launcher, and that with the daemon.
 */
export function startZstd(blobFd: number, uidBase: number, cgroupFds: readonly number[], program = ZSTD): ZstdProcess {
  const [outputFd, writeFd] = makePipe();
  let inputFd: number | null = null;
  try {
    // A description of its own: the caller's offset stays where it is.
    inputFd = openSync(`/proc/self/fd/${blobFd}`, constants.O_RDONLY);
    const { child, socket, ended, kill } = launch(
      'worker',
      [
        ['userns', uidBase],
        ['caps', '0'],
        ['nnp', 1],
        ...cgroupFds.map((_fd, index): [string, number] => ['cgroup', FIRST_LAUNCH_FD + index]),
        ['exec', program],
        ['arg', '-dcq'],
        ['arg', MEMORY],
      ],
      [inputFd, writeFd, 'pipe'],
      [...cgroupFds],
    );
    let stderr = '';
    child.stderr?.on('data', (chunk: Buffer) => {
      stderr = (stderr + escapeName(chunk, STDERR_KEPT)).slice(0, STDERR_KEPT);
    });
    socket.on('error', () => {}); // nothing is ever said on it
    let isOpen = true;
    const closeOutput = (): void => {
      if (isOpen) closeSync(outputFd);
      isOpen = false;
    };
    return {
      outputFd,
      closeOutput,
      ended: ended.then((end) => toError(end, program, stderr)),
      async [Symbol.asyncDispose](): Promise<void> {
        kill();
        await ended;
        socket.destroy();
        closeOutput();
      },
    };
  } catch (error) {
    closeSync(outputFd);
    throw error;
  } finally {
    closeSync(writeFd);
    if (inputFd !== null) closeSync(inputFd);
  }
}

function toError(end: LaunchEnd, program: string, stderr: string): RootlayerError | null {
  const isReaderGone = stderr.includes('Broken pipe');
  if (isReaderGone || (end.kind === 'exit' && end.status === 0)) return null;
  if (end.kind === 'error' && end.step === 'exec') {
    return new RootlayerError('E_TOOL', `Cannot unpack layer: the program "${program}" cannot be started: ${end.errno}`, {
      hint: 'Install the package zstd.',
    });
  }
  if (end.kind === 'error')
    return new RootlayerError('E_INTERNAL', `Cannot start "${program}": step "${end.step}" failed with ${end.errno}`);
  const how = end.kind === 'exit' ? `status ${end.status}` : `signal ${end.signal}`;
  return new RootlayerError('E_COMPRESSION', `Cannot unpack layer: zstd ended with ${how}${stderr === '' ? '' : `: ${stderr}`}`);
}
