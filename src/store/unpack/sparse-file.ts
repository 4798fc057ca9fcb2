import { ftruncateSync, writeSync } from 'node:fs';

/** What a filesystem allocates at once. */
const BLOCK = 4096;
const ZEROS = Buffer.alloc(BLOCK);

/** Writes an empty file from its start, and leaves out blocks that are all zeros: they become holes, which take no room on the disk. */
export class SparseFile {
  readonly fd: number;
  #length = 0;
  /** End of what was written. */
  #written = 0;

  /** The descriptor stays the caller's. */
  constructor(fd: number) {
    this.fd = fd;
  }

  /** Appends bytes. Throws ENOSPC. */
  write(chunk: Buffer): void {
    let runStart = 0;
    for (let at = 0; at < chunk.length; ) {
      const end = Math.min(chunk.length, at + BLOCK - ((this.#length + at) % BLOCK));
      if (isZero(chunk, at, end)) {
        this.#put(chunk, runStart, at);
        runStart = end;
      }
      at = end;
    }
    this.#put(chunk, runStart, chunk.length);
    this.#length += chunk.length;
  }

  /** Gives the file its length; due after the last write. */
  finish(): void {
    if (this.#written < this.#length) ftruncateSync(this.fd, this.#length);
  }

  #put(chunk: Buffer, from: number, to: number): void {
    for (let at = from; at < to; ) at += writeSync(this.fd, chunk, at, to - at, this.#length + at);
    if (to > from) this.#written = this.#length + to;
  }
}

/** Looks at one byte first: comparing is a call out of JavaScript. */
function isZero(bytes: Buffer, from: number, to: number): boolean {
  return bytes[from] === 0 && bytes.compare(ZEROS, 0, to - from, from, to) === 0;
}
