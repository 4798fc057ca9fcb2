import type { Socket } from 'node:net';
import type { Caller } from '../core/engine.ts';
import { RootlayerError } from '../core/errors.ts';
import type { Log } from './log.ts';
import { rawProblem } from './problem.ts';

/** How many connections may be open at once. */
export type ConnectionLimits = { perUid: number; total: number };

export const DEFAULT_CONNECTION_LIMITS: ConnectionLimits = { perUid: 8, total: 64 };

/** How long a refused client may take to read why. */
const REFUSAL_TIME_MS = 1000;
/** Refused connections that may be open at once to be told why; beyond, they are just closed. */
const MAX_REFUSALS = 32;

/**
 * Who is at the other end of each connection, and how many there may be. The uid is asked for once, when a connection comes: the kernel recorded it
 * at connect(2), so neither a fork nor a descriptor handed to someone else changes it. Group and process id decide nothing.
 */
export class Connections {
  readonly #limits: ConnectionLimits;
  readonly #readUid: (socket: Socket) => number;
  readonly #log: Log;
  readonly #callers = new Map<Socket, Caller>();
  #refusals = 0;

  /** `readUid` throws when the uid cannot be known. */
  constructor(limits: ConnectionLimits, readUid: (socket: Socket) => number, log: Log) {
    this.#limits = limits;
    this.#readUid = readUid;
    this.#log = log;
  }

  get count(): number {
    return this.#callers.size;
  }

  /** Tells whether the connection may speak; one that may not is answered and closed here. */
  admit(socket: Socket): boolean {
    socket.on('error', () => socket.destroy());
    const uid = this.#uidOf(socket);
    if (uid === undefined) return false;
    const full = this.#fullness(uid);
    if (full !== undefined) {
      this.#refuse(socket, full);
      return false;
    }
    this.#callers.set(socket, { uid });
    socket.once('close', () => this.#callers.delete(socket));
    return true;
  }

  /** The caller of an admitted connection; throws `E_FORBIDDEN` for any other. */
  callerOf(socket: Socket): Caller {
    const caller = this.#callers.get(socket);
    if (caller === undefined) throw new RootlayerError('E_FORBIDDEN', 'Cannot serve the request: its connection is unknown');
    return caller;
  }

  #uidOf(socket: Socket): number | undefined {
    try {
      return this.#readUid(socket);
    } catch (error) {
      this.#log.error({ error: String(error) }, 'connection refused: no peer credentials');
      socket.destroy();
      return undefined;
    }
  }

  #fullness(uid: number): string | undefined {
    const { perUid, total } = this.#limits;
    if (this.count >= total) return `all ${total} connections are taken`;
    let own = 0;
    for (const caller of this.#callers.values()) if (caller.uid === uid) own += 1;
    return own >= perUid ? `user ${uid} has ${own} connections, want at most ${perUid}` : undefined;
  }

  #refuse(socket: Socket, why: string): void {
    if (this.#refusals >= MAX_REFUSALS) {
      socket.destroy();
      return;
    }
    this.#refusals += 1;
    socket.once('close', () => {
      this.#refusals -= 1;
    });
    sayAndClose(
      socket,
      rawProblem(new RootlayerError('E_BUSY', `Cannot take the connection: ${why}`, { hint: 'end one of them, or try again' })),
    );
  }
}

/** Sends an answer and closes once the client has had the time to read it: what it is still sending would fail first otherwise. */
export function sayAndClose(socket: Socket, answer: string): void {
  const timer = setTimeout(() => socket.destroy(), REFUSAL_TIME_MS);
  socket.once('close', () => clearTimeout(timer));
  socket.resume();
  socket.end(answer);
}
