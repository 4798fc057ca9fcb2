/** The inside of a worker process: takes requests with descriptors from the daemon, and can reach nothing else. */
import { writeSync } from 'node:fs';
import { toRootlayerError } from '../core/errors.ts';
import {
  changeDirectory,
  chrootHere,
  close,
  fsCreate,
  fsMount,
  fsOpen,
  installSeccompFilter,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  receiveWithFds,
  setNoNewPrivileges,
} from './libc.ts';

/** The descriptor of the socket to the daemon. */
const SOCKET = 4;
const HEADER_BYTES = 4;

/** What a handler says while it works. */
export type Report = (progress: { stage: string; done: number; total: number | null; unit: 'bytes' | 'entries' }) => void;

/** Does one request; its descriptors are closed by the handler. A thrown RootlayerError reaches the caller with its code. */
export type WorkerHandler = (request: unknown, fds: number[], report: Report) => Promise<unknown>;

/**
 * Turns this process into a worker: an empty read-only root, the given seccomp filter on every thread, then one request
 * after the other until the daemon closes the socket. Everything the handler needs must have been imported before.
 */
export async function serveWorker(filter: Buffer, handler: WorkerHandler): Promise<void> {
  enterEmptyRoot();
  setNoNewPrivileges();
  installSeccompFilter(filter);
  send({ kind: 'ready' });
  for (;;) {
    const message = receive();
    if (message === null) return;
    send(await answer(handler, message));
  }
}

async function answer(handler: WorkerHandler, message: { body: unknown; fds: number[] }): Promise<object> {
  let lastReport = 0;
  const report: Report = (progress) => {
    const now = performance.now();
    if (now - lastReport < 100) return;
    lastReport = now;
    send({ kind: 'progress', progress });
  };
  try {
    return { kind: 'result', result: await handler(message.body, message.fds, report) };
  } catch (thrown) {
    const error = toRootlayerError(thrown);
    const stack = error.code === 'E_INTERNAL' && error.cause instanceof Error ? error.cause.stack : undefined;
    return { kind: 'error', error: error.toBody(), stack };
  }
}

function enterEmptyRoot(): void {
  const context = fsOpen('tmpfs');
  fsCreate(context);
  const root = fsMount(context, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
  changeDirectory(root);
  chrootHere();
  close(context);
  close(root);
}

/** A message is a 4-byte little-endian length and that many bytes of JSON. */
function send(message: object): void {
  const body = Buffer.from(JSON.stringify(message));
  const frame = Buffer.alloc(HEADER_BYTES + body.length);
  frame.writeUInt32LE(body.length, 0);
  body.copy(frame, HEADER_BYTES);
  for (let at = 0; at < frame.length; ) at += writeSync(SOCKET, frame, at);
}

function receive(): { body: unknown; fds: number[] } | null {
  const fds: number[] = [];
  const read = (length: number): Buffer | null => {
    const bytes = Buffer.alloc(length);
    for (let at = 0; at < length; ) {
      const part = receiveWithFds(SOCKET, bytes.subarray(at));
      if (part.length === 0) return null;
      fds.push(...part.fds);
      at += part.length;
    }
    return bytes;
  };
  const header = read(HEADER_BYTES);
  const body = header === null ? null : read(header.readUInt32LE(0));
  return body === null ? null : { body: JSON.parse(body.toString('utf8')), fds };
}
