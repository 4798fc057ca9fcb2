import { readSync } from 'node:fs';

const CHUNK = 256 * 1024;
const bufferA = Buffer.alloc(CHUNK);
const bufferB = Buffer.alloc(CHUNK);

/** Tells whether two open files have the same first `size` bytes. Their offsets stay where they are. */
export function isSameContent(fdA: number, fdB: number, size: number): boolean {
  for (let at = 0; at < size; ) {
    const lengthA = readSync(fdA, bufferA, 0, CHUNK, at);
    const lengthB = readSync(fdB, bufferB, 0, CHUNK, at);
    const length = Math.min(lengthA, lengthB);
    if (length === 0 || bufferA.compare(bufferB, 0, length, 0, length) !== 0) return false;
    at += length;
  }
  return true;
}
