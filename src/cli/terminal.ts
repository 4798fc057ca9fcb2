import process from 'node:process';
import type { Session } from '../api/session.ts';
import { RootlayerError } from '../core/errors.ts';
import type { JobId } from '../core/ids.ts';
import type { JobEvent, TerminalSize } from '../core/job.ts';
import type { Output } from './output.ts';
import { TerminalInput } from './terminal-input.ts';
import { DetachKeys } from './terminal-keys.ts';

const STDIN = 0;
const MAX_SIDE = 1000;
const DEFAULT_SIZE: TerminalSize = { rows: 24, columns: 80 };

/** Throws `E_USAGE` unless there is a terminal to type at. */
export function requireTerminal(what: string): void {
  if (process.stdin.isTTY) return;
  throw new RootlayerError('E_USAGE', `Cannot use ${what}: standard input is no terminal`, {
    hint: 'in a pipe, leave it out; ssh gives a terminal with -t',
  });
}

/** The size of the terminal that the command prints to; 24 rows of 80 columns where there is none. */
export function terminalSize(): TerminalSize {
  const { rows = 0, columns = 0 } = screen() ?? {};
  if (rows === 0 || columns === 0) return DEFAULT_SIZE;
  return { rows: Math.min(rows, MAX_SIDE), columns: Math.min(columns, MAX_SIDE) };
}

function screen(): NodeJS.WriteStream | null {
  return [process.stdout, process.stderr].find((stream) => stream.isTTY) ?? null;
}

/** What a link to a job's terminal is for. */
export type TerminalLinkOptions = {
  output: Output;
  /** Whether ctrl-p ctrl-q leaves the job; without a daemon it would end. */
  canDetach: boolean;
  /** Whether the job is known to have a terminal; else it is asked. */
  hasTerminal: boolean;
};

/** Joins the command's terminal with that of a running job: keys and sizes go there, while the job's events bring back what it prints. */
export class TerminalLink {
  readonly #session: Session;
  readonly #id: JobId;
  readonly #options: TerminalLinkOptions;
  readonly #input: TerminalInput;
  readonly #keys = new DetachKeys();
  readonly #left = new AbortController();
  #isOpen = false;
  #isOver = false;
  #isMuted = false;
  #sizes: Promise<void> = Promise.resolve();

  constructor(session: Session, id: JobId, options: TerminalLinkOptions) {
    this.#session = session;
    this.#id = id;
    this.#options = options;
    this.#input = new TerminalInput(session, id);
  }

  /** Aborts when the user detaches. */
  get left(): AbortSignal {
    return this.#left.signal;
  }

  /** Opens with the start of the script and closes with its end. Throws like {@link open}. */
  readonly watch = async (event: JobEvent): Promise<void> => {
    if (event.type !== 'state' && event.type !== 'end') return;
    if (event.type === 'state' && event.state === 'running') await this.open();
    else if (this.#isOpen) this.close();
  };

  /** Takes the terminal over. Throws `E_CONFLICT` for a job without one; when asked about a job that has ended, nothing happens. Idempotent. */
  async open(): Promise<void> {
    const { stopOutputProcessing } = await import('../host/pty.ts');
    if (this.#isOpen || !(this.#options.hasTerminal || (await this.#isAnswered())) || this.#isOver) return;
    this.#isOpen = true;
    process.once('exit', this.#restore);
    process.stdin.setRawMode(true);
    stopOutputProcessing(STDIN);
    this.#options.output.endLinesWith('\r\n');
    process.stdin.on('data', this.#onKeys).resume();
    screen()?.on('resize', this.#sendSize);
    this.#sendSize();
  }

  async #isAnswered(): Promise<boolean> {
    try {
      await this.#session.resizeTerminal(this.#id, terminalSize());
      return true;
    } catch (error) {
      if ((await this.#session.getJob(this.#id)).state === 'running') throw error;
      return false;
    }
  }

  /** Drops what comes from the terminal until {@link unmute}: a replayed log makes it answer questions that were asked long ago. */
  mute(): void {
    this.#isMuted = true;
  }

  unmute(): void {
    this.#isMuted = false;
  }

  /** Has a program that fills the screen draw it again: it does so when the size changes. */
  async redraw(): Promise<void> {
    const { rows, columns } = terminalSize();
    await this.#session.resizeTerminal(this.#id, { rows, columns: columns > 1 ? columns - 1 : columns + 1 });
    await this.#session.resizeTerminal(this.#id, terminalSize());
  }

  readonly #onKeys = (typed: Buffer): void => {
    const { bytes, isDetach } = this.#options.canDetach ? this.#keys.push(typed) : { bytes: typed, isDetach: false };
    if (!this.#isMuted) this.#input.push(bytes);
    if (!isDetach) return;
    this.close();
    this.#left.abort();
  };

  /** One after another, so that the last one stays. Those that come too late for the job are of no use to it. */
  readonly #sendSize = (): void => {
    const send = (): Promise<void> => this.#session.resizeTerminal(this.#id, terminalSize());
    this.#sizes = this.#sizes.then(send).catch(() => {});
  };

  readonly #restore = (): void => {
    process.stdin.setRawMode(false);
  };

  /** Gives the terminal back as it was. Idempotent. */
  close(): void {
    this.#isOver = true;
    this.#input.stop();
    if (!this.#isOpen) return;
    this.#isOpen = false;
    screen()?.off('resize', this.#sendSize);
    process.stdin.off('data', this.#onKeys).pause();
    this.#restore();
    process.off('exit', this.#restore);
    this.#options.output.endLinesWith('\n');
  }
}
