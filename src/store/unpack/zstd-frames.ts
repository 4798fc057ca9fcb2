import { readSync } from 'node:fs';
import { RootlayerError } from '../../core/errors.ts';

/** Bounds of a zstd stream. */
export type ZstdLimits = { maxFrames: number; maxWindowBytes: number };

const FRAME_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
const BLOCK_HEADER_BYTES = 3;
const MAX_HEADER_BYTES = 18;
const RLE = 1;
const RESERVED = 3;
const DICT_ID_BYTES = [0, 1, 2, 4];
const CONTENT_SIZE_BYTES = [0, 2, 4, 8];

/**
 * Checks the outer form of a zstd file, without decompressing: frames and skippable frames from the first byte to the last, not too
 * many of them, none with a larger window than the decompressor may hold. The zstd program itself also takes gzip, xz and lz4 where
 * frames are expected, and any number of empty frames; both end here. `fd` is a regular file, read from its start. Throws
 * `E_COMPRESSION`. Source: RFC 8878, 3.1.
 */
export function checkZstdFrames(fd: number, sizeBytes: number, limits: ZstdLimits): void {
  const input = new FrameInput(fd, sizeBytes);
  for (let frames = 1; input.at < sizeBytes; frames += 1) {
    if (frames > limits.maxFrames) throw refusal(`it has more than ${limits.maxFrames} frames`);
    skipFrame(input, limits);
  }
}

function skipFrame(input: FrameInput, limits: ZstdLimits): void {
  const magic = input.uint(4);
  if ((magic & 0xfffffff0) >>> 0 === SKIPPABLE_MAGIC) {
    input.skip(input.uint(4));
    return;
  }
  if (magic !== FRAME_MAGIC) throw refusal(`no frame begins at byte ${input.at - 4}`);
  const descriptor = input.uint(1);
  const isSingle = (descriptor & 0x20) !== 0;
  if ((descriptor & 0x08) !== 0) throw refusal('a frame header has its reserved bit set');
  const windowByte = isSingle ? null : input.uint(1);
  input.skip(DICT_ID_BYTES[descriptor & 3] ?? 0);
  const sizeFlag = descriptor >> 6;
  const contentBytes = sizeFlag === 0 && isSingle ? 1 : (CONTENT_SIZE_BYTES[sizeFlag] ?? 0);
  const content = input.uint(contentBytes) + (contentBytes === 2 ? 256 : 0);
  const window = windowByte === null ? content : windowBytes(windowByte);
  if (window > limits.maxWindowBytes) throw refusal(`it needs a window of ${window} bytes, want at most ${limits.maxWindowBytes}`);
  skipBlocks(input);
  if ((descriptor & 0x04) !== 0) input.skip(4);
}

function skipBlocks(input: FrameInput): void {
  for (;;) {
    const block = input.uint(BLOCK_HEADER_BYTES);
    const type = (block >> 1) & 3;
    if (type === RESERVED) throw refusal(`a block of the reserved type ends at byte ${input.at}`);
    input.skip(type === RLE ? 1 : block >>> 3);
    if ((block & 1) !== 0) return;
  }
}

function windowBytes(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7);
}

function refusal(why: string): RootlayerError {
  return new RootlayerError('E_COMPRESSION', `Cannot unpack layer: its data is no valid zstd stream: ${why}`);
}

/** Small reads far apart and close together, through one buffer. */
class FrameInput {
  at = 0;
  readonly #fd: number;
  readonly #size: number;
  readonly #buffer = Buffer.alloc(64 * 1024);
  #start = 0;
  #end = 0;

  constructor(fd: number, size: number) {
    this.#fd = fd;
    this.#size = size;
  }

  /** Reads a little-endian number of 0 to 8 bytes. */
  uint(bytes: number): number {
    this.skip(bytes);
    const from = this.at - bytes;
    if (from < this.#start || this.at > this.#end) this.#fill(from);
    let value = 0;
    for (let index = bytes - 1; index >= 0; index -= 1) value = value * 256 + (this.#buffer[from - this.#start + index] ?? 0);
    return value;
  }

  skip(bytes: number): void {
    this.at += bytes;
    if (this.at > this.#size) throw refusal('it ends too early');
  }

  #fill(from: number): void {
    const length = readSync(this.#fd, this.#buffer, 0, this.#buffer.length, from);
    if (length < Math.min(MAX_HEADER_BYTES, this.#size - from)) throw refusal('it ends too early');
    this.#start = from;
    this.#end = from + length;
  }
}
