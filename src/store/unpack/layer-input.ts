import { readSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { constants, createGunzip } from 'node:zlib';
import { RootlayerError } from '../../core/errors.ts';
import { S_IFMT, S_IFREG, statFd } from '../../host/libc.ts';
import type { LayerSink } from './layer-sink.ts';

/** Says how many bytes of the input have been read. */
export type OnRead = (inputBytes: number) => void;

/** Reads a regular file from its start, whatever its offset, or a pipe to its end; `buffer` is filled from `at` on. Gives 0 at the end. */
type ReadInput = (buffer: Buffer, at: number, length: number) => number;

/** Gives an uncompressed input to a sink. */
export function pumpPlain(fd: number, sink: LayerSink, onRead: OnRead): void {
  const read = inputReader(fd);
  for (let total = 0; ; ) {
    const slot = sink.take();
    const length = read(slot, 0, slot.length);
    if (length === 0) return;
    total += length;
    sink.give(slot, length);
    onRead(total);
  }
}

const CHUNK_BYTES = 256 * 1024;

/**
 * Gives the contents of a gzip input to a sink; zlib works in a thread of the pool meanwhile. Members one after the other are one
 * stream (RFC 1952, 2.2), `maxMembers` of them at most. Throws `E_COMPRESSION` for data that is no gzip, ends too early, or goes on
 * behind the last member (zlib would ignore zeros there), and what the sink throws.
 */
export async function pumpGzip(fd: number, sink: LayerSink, maxMembers: number, onRead: OnRead): Promise<void> {
  const gunzip = createGunzip({ chunkSize: CHUNK_BYTES, finishFlush: constants.Z_FINISH });
  const input = new GzipInput(fd, maxMembers, onRead);
  try {
    await pipeline(input.chunks(), gunzip, async (chunks: AsyncIterable<Buffer>) => {
      for await (const chunk of chunks) sink.write(chunk);
    });
  } catch (error) {
    // zlib has come to its end, and the pipeline cannot get rid of what is left.
    if (!(error instanceof RootlayerError) && gunzip.readableEnded) throw trailing();
    throw asCompressionError(error);
  }
  if (input.hasMoreThan(gunzip.bytesWritten)) throw trailing();
}

class GzipInput {
  readonly #read: ReadInput;
  readonly #maxMembers: number;
  readonly #onRead: OnRead;
  #total = 0;
  #members = 0;
  /** The last two bytes of the chunk before, in case that a member's first bytes lie across chunks. */
  #tail: Buffer = Buffer.alloc(0);

  constructor(fd: number, maxMembers: number, onRead: OnRead) {
    this.#read = inputReader(fd);
    this.#maxMembers = maxMembers;
    this.#onRead = onRead;
  }

  *chunks(): Generator<Buffer> {
    for (;;) {
      const chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES);
      const length = this.#read(chunk, 0, chunk.length);
      if (length === 0) return;
      this.#total += length;
      const filled = chunk.subarray(0, length);
      this.#countMembers(filled);
      yield filled;
      this.#onRead(this.#total);
    }
  }

  /** NOTE: a Gunzip's bytesWritten is what zlib has used, not what it was given. */
  hasMoreThan(used: number): boolean {
    return this.#total > used || this.#read(Buffer.alloc(1), 0, 1) > 0;
  }

  /** Counts the first three bytes of members wherever they stand: never too few, and by chance one too many in 16 MiB. */
  #countMembers(chunk: Buffer): void {
    this.#members += countOf(Buffer.concat([this.#tail, chunk.subarray(0, 2)])) + countOf(chunk);
    this.#tail = chunk.subarray(-2);
    if (this.#members > this.#maxMembers) {
      throw new RootlayerError('E_COMPRESSION', `Cannot unpack layer: its gzip stream has more than ${this.#maxMembers} members`);
    }
  }
}

/** ID1, ID2 and the only method there is. Source: RFC 1952, 2.3.1. */
const MEMBER_START = Buffer.from([0x1f, 0x8b, 0x08]);

function countOf(bytes: Buffer): number {
  let count = 0;
  for (let at = bytes.indexOf(MEMBER_START); at >= 0; at = bytes.indexOf(MEMBER_START, at + 3)) count += 1;
  return count;
}

function inputReader(fd: number): ReadInput {
  if ((statFd(fd).mode & S_IFMT) !== S_IFREG) return (buffer, at, length) => readSync(fd, buffer, at, length, null);
  let offset = 0;
  return (buffer, at, length) => {
    const got = readSync(fd, buffer, at, length, offset);
    offset += got;
    return got;
  };
}

function trailing(): RootlayerError {
  return new RootlayerError('E_COMPRESSION', 'Cannot unpack layer: more data follows the end of its gzip stream');
}

function asCompressionError(error: unknown): unknown {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string' || !error.code.startsWith('Z_')) return error;
  const why = error.code === 'Z_BUF_ERROR' ? 'it ends too early' : error.message;
  return new RootlayerError('E_COMPRESSION', `Cannot unpack layer: its data is no valid gzip stream: ${why}`, { cause: error });
}
