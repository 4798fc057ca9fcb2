import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { type Deferred, deferred } from '../../core/deferred.ts';
import { RootlayerError } from '../../core/errors.ts';
import { sendWithFds } from '../../host/libc.ts';

/** A line of the monitor: its greeting, an answer, or an event that nobody asked for. Source: QEMU Machine Protocol specification. */
const messageSchema = z.object({
  QMP: z.unknown().optional(),
  return: z.unknown().optional(),
  error: z.object({ desc: z.string() }).optional(),
  event: z.string().optional(),
});
const migrationSchema = z.object({ status: z.string().optional(), 'error-desc': z.string().optional() });
const ringSchema = z.string();

/** Longest line that is waited for. */
const MAX_LINE_BYTES = 1024 * 1024;
const POLL_MS = 10;

/** Commands for one QEMU that we trust: the one that saves its state. The descriptor becomes the monitor's. */
export class Monitor {
  readonly #socket: Socket & { _handle?: { fd: number } | null };
  readonly #fd: number;
  #text = '';
  #answer: Deferred<unknown> = deferred();

  constructor(fd: number) {
    this.#fd = fd;
    this.#socket = new Socket({ fd, readable: true, writable: true });
    this.#socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    this.#socket.on('error', () => {}); // the close that follows is what counts
    this.#socket.on('close', () => this.#answer.reject(broken('its socket is closed')));
  }

  /** Waits for the greeting and leaves the negotiation. */
  async open(): Promise<void> {
    await this.#answer.promise;
    await this.#command('qmp_capabilities');
  }

  /** Writes the whole state of the running machine to a file; the machine goes on from there when the state is loaded. */
  async saveState(fd: number, signal: AbortSignal): Promise<void> {
    await this.#command('getfd', { fdname: 'state' }, [fd]);
    // By default it would take its time, so as not to disturb anybody.
    await this.#command('migrate-set-parameters', { 'max-bandwidth': 2 ** 40, 'downtime-limit': 2000 });
    await this.#command('migrate', { uri: 'fd:state' });
    for (;;) {
      const { status, 'error-desc': words } = migrationSchema.parse(await this.#command('query-migrate'));
      if (status === 'completed') return;
      if (status === 'failed' || status === 'cancelled') throw broken(`it could not save its state (${words ?? status})`);
      await sleep(POLL_MS, undefined, { signal });
    }
  }

  /** The last that the guest's kernel wrote to its console. */
  async readConsole(): Promise<string> {
    const answer = await this.#command('ringbuf-read', { device: 'console', size: 4096, format: 'utf8' });
    return ringSchema.parse(answer);
  }

  close(): void {
    this.#socket.destroy();
  }

  /** One at a time. Descriptors travel with the command's first byte. */
  async #command(execute: string, args: Record<string, unknown> = {}, fds: number[] = []): Promise<unknown> {
    this.#answer = deferred();
    if (this.#socket.destroyed) throw broken('its socket is closed');
    const line = Buffer.from(`${JSON.stringify({ execute, arguments: args })}\n`);
    if (fds.length === 0) this.#socket.write(line);
    else if (sendWithFds(this.#fd, line, fds) < line.length) throw broken('it takes no commands');
    return await this.#answer.promise;
  }

  #receive(chunk: Buffer): void {
    const lines = (this.#text + chunk.toString('utf8')).split('\n');
    this.#text = lines.pop() ?? '';
    if (this.#text.length > MAX_LINE_BYTES) this.#socket.destroy();
    for (const line of lines) if (line.trim() !== '') this.#handle(line);
  }

  #handle(line: string): void {
    const message = messageSchema.safeParse(parseJson(line));
    if (!message.success) this.#answer.reject(broken('it sent a line that is no answer'));
    else if (message.data.error !== undefined) this.#answer.reject(broken(message.data.error.desc));
    else if (message.data.event === undefined) this.#answer.resolve(message.data.return);
  }
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

function broken(why: string): RootlayerError {
  return new RootlayerError('E_VM_CRASH', `Cannot command the virtual machine: ${why}`);
}
