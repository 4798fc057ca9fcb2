import { RootlayerError } from '../core/errors.ts';
import { launch } from './launcher.ts';
import { findProgram } from './programs.ts';

/** Decoders must not be made to allocate more by a frame's header. Source: spec/threats.md A30. */
const MAX_WINDOW = '--memory=128MB';

/** A running zstd. `ended` rejects with `E_COMPRESSION` in zstd's words; disposing it ends it. */
export interface ZstdProcess extends AsyncDisposable {
  readonly ended: Promise<void>;
}

/**
 * Starts zstd between two descriptors, of which it takes copies. It reads what a stranger wrote, so it runs without capabilities and in
 * namespaces of its own, as root of the ids from `uidBase` on. Compressing gives the same bytes whatever the number of cores. Throws `E_TOOL`.
 */
export function startZstd(mode: 'compress' | 'decompress', uidBase: number, inputFd: number, outputFd: number): ZstdProcess {
  const args = mode === 'compress' ? ['-T0', '-3'] : ['-d', MAX_WINDOW];
  const launched = launch(
    'worker',
    [
      ['userns', uidBase],
      ['caps', '0'],
      ['exec', findProgram('zstd')],
      ...['-q', '-c', ...args].map((arg): [string, string] => ['arg', arg]),
    ],
    [inputFd, outputFd, 'pipe'],
    [],
  );
  let words = '';
  launched.child.stderr?.on('data', (chunk: Buffer) => {
    words = (words + chunk.toString('latin1')).slice(-1000);
  });
  const ended = launched.ended.then((end) => {
    launched.socket.destroy();
    if (end.kind === 'exit' && end.status === 0) return;
    if (end.kind === 'error') throw new RootlayerError('E_INTERNAL', `Cannot start zstd: step "${end.step}" failed with ${end.errno}`);
    throw new RootlayerError('E_COMPRESSION', `Cannot ${mode} zstd data: ${printable(words) || JSON.stringify(end)}`);
  });
  ended.catch(() => {});
  return {
    ended,
    async [Symbol.asyncDispose]() {
      launched.child.kill('SIGKILL');
      await launched.ended;
      launched.socket.destroy();
    },
  };
}

function printable(text: string): string {
  return text.replace(/[^\x20-\x7e]+/g, ' ').trim();
}
