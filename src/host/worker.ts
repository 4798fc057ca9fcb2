import { type Deferred, deferred } from '../core/deferred.ts';
import type { Progress } from '../core/engine.ts';
import { RootlayerError } from '../core/errors.ts';
import { isErrno } from './errno.ts';
import { FIRST_LAUNCH_FD, type Launched, launch } from './launcher.ts';
import { close, sendWithFds } from './libc.ts';
import { entryPath, isCodeInOnePlace, openWorkerCode } from './worker-code.ts';
import { FrameReader, type WorkerMessage } from './worker-frames.ts';

/** What kind of confinement a worker gets. */
export type WorkerKind = {
  /** The module to run, relative to `src`: it calls `serveWorker`. */
  entry: string;
  /** Run as root of a user namespace over this range of 65,536 host ids, or as host root with few capabilities when null. */
  uidBase: number | null;
  /** Capability bits to keep, within the namespace. */
  capabilities: bigint;
  /** V8 heap limit in MiB. */
  heapMib: number;
};

/** A confined process that does requests one at a time. Dispose it to end it; it dies with the daemon too. */
export interface Worker extends AsyncDisposable {
  /**
   * Sends a request with descriptors (the caller keeps its own copies) and gives the result, unchecked: parse it.
   * Throws what the worker threw; `E_WORKER` when it died. On abort the worker is killed.
   */
  call(body: unknown, fds: number[], progress: Progress | null, signal: AbortSignal): Promise<unknown>;
  /** True until the first request: such a worker has seen nothing hostile. */
  readonly isFresh: boolean;
  /** True when the process is gone, by whatever cause. */
  readonly hasEnded: boolean;
}

/** Capability numbers of linux/capability.h. */
export const CAP = {
  CHOWN: 1n << 0n,
  DAC_OVERRIDE: 1n << 1n,
  DAC_READ_SEARCH: 1n << 2n,
  FOWNER: 1n << 3n,
  FSETID: 1n << 4n,
  KILL: 1n << 5n,
  SETGID: 1n << 6n,
  SETUID: 1n << 7n,
  SETPCAP: 1n << 8n,
  NET_BIND_SERVICE: 1n << 10n,
  SYS_CHROOT: 1n << 18n,
  SYS_ADMIN: 1n << 21n,
  MKNOD: 1n << 27n,
  AUDIT_WRITE: 1n << 29n,
  SETFCAP: 1n << 31n,
} as const;

const STDERR_KEPT = 16 * 1024;

/** Starts a worker and waits until it is confined. Throws `E_WORKER` when it does not get there. */
export async function startWorker(kind: WorkerKind, cgroupFds: number[], signal: AbortSignal): Promise<Worker> {
  const codeFd = kind.uidBase === null || !isCodeInOnePlace ? null : await openWorkerCode(kind.uidBase);
  const worker = launchWorker(kind, cgroupFds, codeFd);
  try {
    await worker.ready(signal);
    return worker;
  } catch (error) {
    await worker[Symbol.asyncDispose]();
    throw error;
  }
}

function launchWorker(kind: WorkerKind, cgroupFds: number[], codeFd: number | null): WorkerProcess {
  try {
    return new WorkerProcess(kind, cgroupFds, codeFd);
  } finally {
    if (codeFd !== null) close(codeFd);
  }
}

class WorkerProcess implements Worker {
  isFresh = true;
  hasEnded = false;
  readonly #launched: Launched;
  readonly #name: string;
  #pending: Deferred<unknown> = deferred();
  #progress: Progress | null = null;
  #stderr = '';
  readonly #frames = new FrameReader();

  constructor(kind: WorkerKind, cgroupFds: number[], codeFd: number | null) {
    this.#name = kind.entry;
    const entry = entryPath(kind.entry, codeFd !== null);
    const flags = [`--max-old-space-size=${kind.heapMib}`, '--disable-proto=throw', '--unhandled-rejections=strict', entry];
    this.#launched = launch(
      'worker',
      [
        ...(kind.uidBase === null ? [] : ([['userns', kind.uidBase]] satisfies [string, number][])),
        ['caps', kind.capabilities.toString(16)],
        ...cgroupFds.map((_fd, index): [string, number] => ['cgroup', FIRST_LAUNCH_FD + index]),
        ...(codeFd === null ? [] : ([['code', FIRST_LAUNCH_FD + cgroupFds.length]] satisfies [string, number][])),
        ['env', 'UV_USE_IO_URING=0'],
        ['exec', process.execPath],
        ...flags.map((flag): [string, string] => ['arg', flag]),
      ],
      ['ignore', 'ignore', 'pipe'],
      codeFd === null ? cgroupFds : [...cgroupFds, codeFd],
    );
    this.#launched.child.stderr?.on('data', (chunk: Buffer) => {
      this.#stderr = (this.#stderr + chunk.toString('utf8')).slice(-STDERR_KEPT);
    });
    this.#launched.socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    this.#launched.socket.on('error', () => {});
    void this.#launched.ended.then((end) => {
      this.hasEnded = true;
      this.#pending.reject(this.#died(JSON.stringify(end)));
    });
  }

  ready(signal: AbortSignal): Promise<unknown> {
    return this.#wait(signal);
  }

  async call(body: unknown, fds: number[], progress: Progress | null, signal: AbortSignal): Promise<unknown> {
    signal.throwIfAborted();
    this.isFresh = false;
    this.#pending = deferred();
    this.#progress = progress;
    this.#send(Buffer.from(JSON.stringify(body)), fds);
    return await this.#wait(signal);
  }

  async #wait(signal: AbortSignal): Promise<unknown> {
    const onAbort = (): void => {
      this.#pending.reject(signal.reason);
      this.#kill();
    };
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      if (signal.aborted) onAbort();
      return await this.#pending.promise;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Requests are small against the socket's buffer; the descriptors travel with the first byte. */
  #send(body: Buffer, fds: number[]): void {
    const frame = Buffer.alloc(4 + body.length);
    frame.writeUInt32LE(body.length, 0);
    body.copy(frame, 4);
    const handle = this.#launched.socket._handle;
    if (handle === null) {
      this.#pending.reject(this.#died('its socket is closed'));
      return;
    }
    try {
      const sent = sendWithFds(handle.fd, frame, fds);
      if (sent < frame.length) this.#launched.socket.write(frame.subarray(sent));
    } catch (error) {
      if (!isErrno(error, 'EPIPE', 'ECONNRESET')) throw error;
      this.#pending.reject(this.#died('its socket is closed'));
    }
  }

  #receive(chunk: Buffer): void {
    try {
      for (const message of this.#frames.push(chunk)) this.#handle(message);
    } catch (error) {
      this.#pending.reject(this.#died(`it sent no message of ours (${error instanceof Error ? error.message.slice(0, 200) : ''})`));
      this.#kill();
    }
  }

  #handle(message: WorkerMessage): void {
    if (message.kind === 'ready') this.#pending.resolve(undefined);
    else if (message.kind === 'result') this.#pending.resolve(message.result);
    else if (message.kind === 'progress') this.#progress?.(message.progress);
    else this.#pending.reject(toError(message));
  }

  #died(how: string): RootlayerError {
    const stderr = this.#stderr.trim();
    return new RootlayerError('E_WORKER', `Worker ${this.#name} died: ${how}${stderr === '' ? '' : `: ${stderr}`}`);
  }

  #kill(): void {
    this.#launched.kill();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#kill();
    await this.#launched.ended;
    this.#launched.socket.destroy();
  }
}

function toError(message: Extract<WorkerMessage, { kind: 'error' }>): RootlayerError {
  const { code, message: text, hint } = message.error;
  return new RootlayerError(code, text, { hint, cause: message.stack });
}

/** Closes descriptors, whatever state they are in; for lists of what was handed to a worker. */
export function closeAll(fds: number[]): void {
  for (const fd of fds) {
    try {
      close(fd);
    } catch (error) {
      if (!isErrno(error, 'EBADF')) throw error;
    }
  }
}
