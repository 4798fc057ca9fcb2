import { read, readSync, write } from 'node:fs';
import { promisify } from 'node:util';
import { RootlayerError } from '../core/errors.ts';
import { escapeName } from '../core/names.ts';
import { isErrno } from '../host/errno.ts';
import { close, copyFileRange, seekData, seekHole } from '../host/libc.ts';
import { alignToBlock, BLOCK_BYTES } from './format.ts';
import { PendingWork } from './pending-work.ts';

const BUFFER_BYTES = 1024 * 1024;
/** From this size on, files are copied by the kernel: below it, one read into the buffer costs less. */
export const DIRECT_BYTES = 128 * 1024;
/** Copied by one call, so that progress shows. */
const STEP_BYTES = 16 * 1024 * 1024;
/** Buffers and files that are on their way to the image at the same time. */
const MAX_PENDING = 8;
/** What a kernel or filesystem says that cannot copy between these two files. */
const CANNOT_COPY = ['EXDEV', 'EINVAL', 'EOPNOTSUPP', 'ENOSYS'];

const readAsync = promisify(read);
const writeAsync = promisify(write);

/**
 * Writes an image file from its second block on: each thing that is added begins a block, and takes the next ones. The writing goes on in other threads
 * while the caller adds more: it has to wait for {@link room} now and then.
 */
export class DiskOutput {
  readonly #fd: number;
  readonly #maxBytes: number;
  readonly #onProgress: (bytes: number) => void;
  readonly #pending = new PendingWork(MAX_PENDING);
  readonly #spare: Buffer[] = [];
  #buffer: Buffer = Buffer.alloc(BUFFER_BYTES);
  /** Where the buffer begins in the file, and how much of it is used: always whole blocks. */
  #start = BLOCK_BYTES;
  #filled = 0;
  #canCopy = true;

  /** The descriptor, of an empty file, stays the caller's. */
  constructor(fd: number, maxBytes: number, onProgress: (bytes: number) => void) {
    this.#fd = fd;
    this.#maxBytes = maxBytes;
    this.#onProgress = onProgress;
  }

  /** Bytes so far, and where the next thing begins. */
  get sizeBytes(): number {
    return this.#start + this.#filled;
  }

  /** Number of the block in which the next thing begins. */
  get nextBlock(): number {
    return this.sizeBytes / BLOCK_BYTES;
  }

  /** Whether the caller should wait for {@link room}. */
  get isFull(): boolean {
    return this.#pending.isFull;
  }

  /** Resolves when more can be added without taking more memory. Throws what has failed meanwhile: system calls, and `E_DISK_IMAGE` for a file that is too short. */
  async room(): Promise<void> {
    await this.#pending.room();
  }

  /** Adds bytes and zeros up to the end of the block. Throws `E_LIMIT_UNPACKED`, as all that adds. */
  append(bytes: Buffer): void {
    this.#reserve(bytes.length);
    for (let at = 0; at < bytes.length; at += BUFFER_BYTES) {
      const piece = bytes.subarray(at, at + BUFFER_BYTES);
      this.#fill(piece.copy(this.#roomFor(piece.length)));
    }
  }

  /**
   * Adds the first `bytes` of an open file of less than {@link DIRECT_BYTES}, and reads what is behind them into `tail`. The descriptor stays the caller's. Throws
   * `E_DISK_IMAGE` when the file is shorter.
   */
  appendSmallFile(fd: number, bytes: number, tail: Buffer, path: () => Buffer): void {
    this.#reserve(bytes);
    const room = this.#roomFor(bytes + tail.length).subarray(0, bytes + tail.length);
    if (!readWhole(fd, room)) throw tooShort(path());
    room.copy(tail, 0, bytes);
    this.#fill(bytes);
  }

  /**
   * Adds the contents of an open file with that size, which takes a while. With `isSparse` its holes stay holes of the image. The descriptor is closed
   * here, when it is done.
   */
  appendLargeFile(fd: number, size: number, isSparse: boolean, path: Buffer): void {
    let isTaken = false;
    try {
      this.#reserve(size);
      const start = this.#take(size);
      isTaken = true;
      this.#pending.add(this.#copyAll(fd, size, isSparse, start, path).finally(() => close(fd)));
    } finally {
      if (!isTaken) close(fd);
    }
  }

  /** Resolves when all that was added is in the file. Throws as {@link room}. */
  async drain(): Promise<void> {
    this.#flush();
    await this.#pending.done();
  }

  /** Resolves when the file is no longer written to, whatever has failed. */
  async settled(): Promise<void> {
    await this.#pending.settled();
  }

  /** Writes the first block, at the end of the work: until then the file is no image. */
  async writeFirst(block: Buffer): Promise<void> {
    await writeAll(this.#fd, block, block.length, 0);
  }

  #reserve(bytes: number): void {
    const total = this.sizeBytes + alignToBlock(bytes);
    if (total <= this.#maxBytes) return;
    throw new RootlayerError('E_LIMIT_UNPACKED', `Cannot make disk image: it has ${total} bytes, want at most ${this.#maxBytes}`);
  }

  /** A part of the buffer for that many bytes. */
  #roomFor(bytes: number): Buffer {
    if (this.#filled + alignToBlock(bytes) > BUFFER_BYTES) this.#flush();
    return this.#buffer.subarray(this.#filled, this.#filled + alignToBlock(bytes));
  }

  #fill(bytes: number): void {
    const end = this.#filled + alignToBlock(bytes);
    this.#buffer.fill(0, this.#filled + bytes, end);
    this.#filled = end;
  }

  /** Sends the buffer off and takes another. */
  #flush(): void {
    if (this.#filled === 0) return;
    const [buffer, length, start] = [this.#buffer, this.#filled, this.#start];
    this.#pending.add(writeAll(this.#fd, buffer, length, start).then(() => void this.#spare.push(buffer)));
    this.#buffer = this.#spare.pop() ?? Buffer.alloc(BUFFER_BYTES);
    this.#filled = 0;
    this.#start += length;
    this.#onProgress(this.#start);
  }

  /** A place of that many bytes behind the buffer, which begins anew behind it. */
  #take(bytes: number): number {
    this.#flush();
    const start = this.#start;
    this.#start += alignToBlock(bytes);
    return start;
  }

  /** What is not written between the end of the file and that of its last block, and in holes, reads as zeros: more of the image follows. */
  async #copyAll(fd: number, size: number, isSparse: boolean, start: number, path: Buffer): Promise<void> {
    for (let at = isSparse ? seekData(fd, 0) : 0; at !== null && at < size; ) {
      const end = isSparse ? Math.min(seekHole(fd, at), size) : size;
      if (!(await this.#copyRun(fd, at, end, start))) throw tooShort(path);
      at = isSparse && end < size ? seekData(fd, end) : null;
    }
  }

  async #copyRun(fd: number, from: number, end: number, start: number): Promise<boolean> {
    for (let at = from; at < end; ) {
      const wanted = Math.min(end - at, STEP_BYTES);
      const length = this.#canCopy ? await this.#copyStep(fd, at, wanted, start) : await this.#readStep(fd, at, wanted, start);
      if (length === 0) return false;
      at += length ?? 0;
      this.#onProgress(start + at);
    }
    return true;
  }

  /** Null when the kernel cannot: then it is not asked again. */
  async #copyStep(fd: number, at: number, wanted: number, start: number): Promise<number | null> {
    try {
      return await copyFileRange(fd, at, this.#fd, start + at, wanted);
    } catch (error) {
      if (!isErrno(error, ...CANNOT_COPY)) throw error;
      this.#canCopy = false;
      return null;
    }
  }

  async #readStep(fd: number, at: number, wanted: number, start: number): Promise<number> {
    const buffer = this.#spare.pop() ?? Buffer.alloc(BUFFER_BYTES);
    const { bytesRead } = await readAsync(fd, buffer, 0, Math.min(wanted, BUFFER_BYTES), at);
    await writeAll(this.#fd, buffer, bytesRead, start + at);
    this.#spare.push(buffer);
    return bytesRead;
  }
}

/** Fills a buffer from an open file's start. Gives false when the file is shorter. */
function readWhole(fd: number, target: Buffer): boolean {
  for (let at = 0; at < target.length; ) {
    const length = readSync(fd, target, at, target.length - at, null);
    if (length === 0) return false;
    at += length;
  }
  return true;
}

function tooShort(path: Buffer): RootlayerError {
  return new RootlayerError(
    'E_DISK_IMAGE',
    `Cannot put "${escapeName(path)}" on a disk: it has become shorter, want a tree that nobody writes to`,
  );
}

async function writeAll(fd: number, bytes: Buffer, length: number, position: number): Promise<void> {
  for (let at = 0; at < length; ) {
    const { bytesWritten } = await writeAsync(fd, bytes, at, length - at, position + at);
    at += bytesWritten;
  }
}
