import { RootlayerError } from '../../core/errors.ts';
import { errnoName } from '../../host/errno.ts';
import { parseEnd } from './end-records.ts';
import { HEADER_BYTES, MARKS, MAX_PAYLOAD_BYTES, type Mark, PROTOCOL_VERSION } from './protocol.ts';
import type { VmClaims } from './types.ts';

/** The end of the script, as the guest tells it. */
export type ScriptEnd = ({ status: number } | { signal: number }) & { claims: VmClaims };

/** One thing that the guest said. Bytes are those of the chunk that was pushed: copy what is to be kept. */
export type GuestEvent =
  | { kind: 'ready' }
  | { kind: 'mark'; mark: Mark }
  | { kind: 'output'; stream: 'stdout' | 'stderr'; bytes: Buffer }
  | { kind: 'end'; end: ScriptEnd }
  | { kind: 'result'; bytes: Buffer }
  | { kind: 'whole' }
  | { kind: 'error'; step: string; errno: string };

/** How far a guest is: which frames it may send next. */
type Place = 'booting' | 'on-its-way' | 'running' | 'result' | 'nothing-to-give' | 'over';

/** Longest payload of the types that are read as a whole. */
const WHOLE: Readonly<Record<string, number>> = { R: 4, M: 16, X: 4096, E: 256, F: 0 };
/** Types whose payload is passed on as it comes. */
const STREAMED = '12T';

/**
 * Reads what a guest sends, in pieces of any size. It believes nothing: a frame that is not allowed at its place, an impossible length, a
 * record that is not well formed each throw `E_VM_PROTOCOL`, and nothing may be pushed after that. Holds at most some 4 KiB between two calls.
 */
export class StreamReader {
  #place: Place;
  #marks = 0;
  #type = '';
  /** Bytes of the present frame's payload that have not come yet. */
  #missing = 0;
  /** The header, or the payload of a frame that is read as a whole, as far as it has come. */
  #held = Buffer.alloc(0);

  /** `isBooting`: the first frame is the answer of a guest that has booted; one that was restored has given it before. */
  constructor(isBooting: boolean) {
    this.#place = isBooting ? 'booting' : 'on-its-way';
  }

  /** Bytes kept for the next call. */
  get heldBytes(): number {
    return this.#held.length;
  }

  /** True once nothing may follow. */
  get isOver(): boolean {
    return this.#place === 'over';
  }

  /** Gives what these bytes complete, in order. */
  *push(chunk: Buffer): Generator<GuestEvent, void> {
    for (let rest = chunk; rest.length > 0; ) {
      if (this.#type === '') rest = this.#readHeader(rest);
      else if (STREAMED.includes(this.#type)) {
        const bytes = rest.subarray(0, this.#missing);
        rest = rest.subarray(bytes.length);
        this.#missing -= bytes.length;
        yield this.#pass(this.#type, bytes);
        if (this.#missing === 0) this.#type = '';
        continue;
      } else rest = this.#gather(rest);
      if (this.#type !== '' && this.#missing === 0) {
        const type = this.#type;
        this.#type = '';
        yield this.#finish(type, this.#takeHeld());
      }
    }
  }

  #readHeader(bytes: Buffer): Buffer {
    const needed = HEADER_BYTES - this.#held.length;
    this.#held = Buffer.concat([this.#held, bytes.subarray(0, needed)]);
    if (this.#held.length < HEADER_BYTES) return Buffer.alloc(0);
    const header = this.#takeHeld();
    this.#begin(header.toString('latin1', 0, 1), header.readUInt32LE(1));
    return bytes.subarray(needed);
  }

  #begin(type: string, length: number): void {
    this.#checkPlace(type);
    const isStreamed = STREAMED.includes(type);
    const limit = isStreamed ? MAX_PAYLOAD_BYTES : (WHOLE[type] ?? 0);
    if (length > limit) fail(`it announced ${length} bytes in a frame ${printable(type)}, want at most ${limit}`);
    // Frames that say nothing could come for ever without ever reaching a limit.
    if (isStreamed && length === 0) fail(`it sent an empty frame ${printable(type)}`);
    this.#type = type;
    this.#missing = length;
  }

  #checkPlace(type: string): void {
    const allowed: Record<Place, string> = {
      booting: 'R',
      'on-its-way': 'ME',
      running: '12XE',
      result: 'TFE',
      'nothing-to-give': 'FE',
      over: '',
    };
    if (type.length !== 1 || !allowed[this.#place].includes(type)) {
      const wanted = allowed[this.#place] === '' ? 'nothing' : `one of ${allowed[this.#place]}`;
      fail(`it sent a frame ${printable(type)}, want ${wanted}`);
    }
  }

  #gather(bytes: Buffer): Buffer {
    const part = bytes.subarray(0, this.#missing);
    this.#held = Buffer.concat([this.#held, part]);
    this.#missing -= part.length;
    return bytes.subarray(part.length);
  }

  #takeHeld(): Buffer {
    const held = this.#held;
    this.#held = Buffer.alloc(0);
    return held;
  }

  #pass(type: string, bytes: Buffer): GuestEvent {
    if (type === 'T') return { kind: 'result', bytes };
    return { kind: 'output', stream: type === '1' ? 'stdout' : 'stderr', bytes };
  }

  #finish(type: string, payload: Buffer): GuestEvent {
    switch (type) {
      case 'R':
        return this.#ready(payload);
      case 'M':
        return this.#mark(payload.toString('latin1'));
      case 'X':
        return this.#end(payload);
      case 'E':
        return this.#error(payload);
      default:
        this.#place = 'over';
        return { kind: 'whole' };
    }
  }

  #ready(payload: Buffer): GuestEvent {
    const version = payload.length === 4 ? payload.readUInt32LE(0) : Number.NaN;
    if (version !== PROTOCOL_VERSION) fail(`it speaks version ${version} of the protocol, want ${PROTOCOL_VERSION}`);
    this.#place = 'on-its-way';
    return { kind: 'ready' };
  }

  #mark(name: string): GuestEvent {
    const mark = MARKS[this.#marks];
    if (mark === undefined || name !== mark) fail(`it sent the mark "${printable(name)}", want "${mark}"`);
    this.#marks += 1;
    if (this.#marks === MARKS.length) this.#place = 'running';
    return { kind: 'mark', mark };
  }

  #end(payload: Buffer): GuestEvent {
    const end = parseEnd(payload);
    if (end === null) fail('it told the end of the script in records that are not well formed');
    this.#place = hasResult(end) ? 'result' : 'nothing-to-give';
    return { kind: 'end', end };
  }

  #error(payload: Buffer): GuestEvent {
    const [, step = '', number = ''] = /^([!-~]{1,100})\0(\d{1,5})$/.exec(payload.toString('latin1')) ?? [];
    if (step === '') fail('it told of an error in a form that is none');
    this.#place = 'over';
    return { kind: 'error', step, errno: errnoName(Number(number)) };
  }
}

/** Whether a result follows this end. */
export function hasResult(end: ScriptEnd): boolean {
  return 'status' in end && end.status === 0 && end.claims.changed;
}

function printable(text: string): string {
  return JSON.stringify(text.slice(0, 40));
}

function fail(what: string): never {
  throw new RootlayerError('E_VM_PROTOCOL', `Cannot go on with the virtual machine: ${what}`, {
    hint: 'Something in the guest has broken or taken over its agent; nothing was taken from it.',
  });
}
