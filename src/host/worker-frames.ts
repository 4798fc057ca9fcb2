import { z } from 'zod';
import { type ErrorCode, isErrorCode } from '../core/errors.ts';

/** A frame is a 4-byte little-endian length and that many bytes of JSON. */
const HEADER_BYTES = 4;
const MAX_FRAME_BYTES = 32 * 1024 * 1024;

/** What only the daemon itself may say: from a worker that was taken over, these would be lies about the caller or the job. */
const NOT_A_WORKERS: ReadonlySet<ErrorCode> = new Set(['E_CANCELLED', 'E_FORBIDDEN', 'E_JOB_LOST', 'E_NOT_FOUND', 'E_QUOTA', 'E_STATE']);

/** What a worker may send. It reads hostile bytes, so nothing it says is believed beyond its form. */
export const workerMessageSchema = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('ready') }),
  z.object({
    kind: z.literal('progress'),
    progress: z.strictObject({
      stage: z.string().max(64),
      done: z.number().min(0),
      total: z.number().min(0).nullable(),
      unit: z.enum(['bytes', 'entries']),
    }),
  }),
  z.object({ kind: z.literal('result'), result: z.unknown() }),
  z.object({
    kind: z.literal('error'),
    error: z.object({
      code: z.custom<ErrorCode>((code) => typeof code === 'string' && isErrorCode(code) && !NOT_A_WORKERS.has(code)),
      message: z.string().max(16_384),
      hint: z.string().max(4096).optional(),
    }),
    stack: z.string().max(65_536).optional(),
  }),
]);

/** See {@link workerMessageSchema}. */
export type WorkerMessage = z.infer<typeof workerMessageSchema>;

/** Puts frames together from the pieces that a socket gives. */
export class FrameReader {
  #chunks: Buffer[] = [];
  #bytes = 0;

  /** The messages that are complete with this piece. Throws an Error for a frame that is too large or no message: the worker is not to be trusted further. */
  push(chunk: Buffer): WorkerMessage[] {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    const messages: WorkerMessage[] = [];
    for (let frame = this.#take(); frame !== null; frame = this.#take()) {
      messages.push(workerMessageSchema.parse(JSON.parse(frame.toString('utf8'))));
    }
    return messages;
  }

  #take(): Buffer | null {
    if (this.#bytes < HEADER_BYTES) return null;
    const length = this.#joined(HEADER_BYTES).readUInt32LE(0);
    if (length > MAX_FRAME_BYTES) throw new Error(`a frame of ${length} bytes`);
    if (this.#bytes < HEADER_BYTES + length) return null;
    const all = this.#joined(HEADER_BYTES + length);
    const rest = all.subarray(HEADER_BYTES + length);
    this.#chunks = rest.length === 0 ? [] : [rest];
    this.#bytes = rest.length;
    return all.subarray(HEADER_BYTES, HEADER_BYTES + length);
  }

  /** The first piece, joined with the others only when it is too short: each byte of a large frame is copied once. */
  #joined(need: number): Buffer {
    if ((this.#chunks[0]?.length ?? 0) < need) this.#chunks = [Buffer.concat(this.#chunks)];
    return this.#chunks[0] ?? Buffer.alloc(0);
  }
}
