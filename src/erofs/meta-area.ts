import { BLOCK_BYTES, SLOT_BYTES } from './format.ts';

const SLOTS = BLOCK_BYTES / SLOT_BYTES;
/** Blocks that lie behind each other in memory: an inode with all its attributes is in one such piece. */
const CHUNK_BLOCKS = 256;
const CHUNK_BYTES = CHUNK_BLOCKS * BLOCK_BYTES;

/**
 * The metadata area, in memory: inodes with their attributes and what data is behind them. What fits into a block is never parted by the
 * end of one, as the kernel asks of data behind an inode; it goes into the fullest block that has room for it.
 */
export class MetaArea {
  readonly #chunks: Buffer[] = [];
  /** Blocks begun so far. */
  #blocks = 0;
  /** By the number of slots that are left in a block: the blocks with so many. */
  readonly #open: number[][] = Array.from({ length: SLOTS + 1 }, () => []);

  constructor() {
    // Programs take an inode number of 0 for none.
    this.allocate(SLOT_BYTES);
  }

  /** Bytes of the blocks begun so far. */
  get sizeBytes(): number {
    return this.#blocks * BLOCK_BYTES;
  }

  /** Reserves room, filled with zeros, of at most 1 MiB. Gives its offset, a multiple of 32. */
  allocate(bytes: number): number {
    const slots = Math.ceil(bytes / SLOT_BYTES);
    if (slots > SLOTS) return this.#allocateBlocks(slots);
    let left = slots;
    while (left <= SLOTS && this.#open[left]?.length === 0) left += 1;
    const block = left > SLOTS ? this.#begin(1) : (this.#open[left]?.pop() ?? 0);
    const free = Math.min(left, SLOTS);
    this.#leave(block, free - slots);
    return (block + 1) * BLOCK_BYTES - free * SLOT_BYTES;
  }

  /** The bytes from an offset on, for reading and writing: as many as were reserved there, at least. */
  at(offset: number): Buffer {
    const chunk = this.#chunks[Math.floor(offset / CHUNK_BYTES)] ?? Buffer.alloc(0);
    return chunk.subarray(offset % CHUNK_BYTES);
  }

  /** All of it, in order. */
  pieces(): Buffer[] {
    const last = this.#chunks.length - 1;
    return this.#chunks.map((chunk, index) => (index < last ? chunk : chunk.subarray(0, this.sizeBytes - last * CHUNK_BYTES)));
  }

  #allocateBlocks(slots: number): number {
    const count = Math.ceil(slots / SLOTS);
    const room = this.#chunks.length * CHUNK_BLOCKS - this.#blocks;
    if (count > room) for (let n = 0; n < room; n += 1) this.#leave(this.#begin(1), SLOTS);
    const first = this.#begin(count);
    this.#leave(first + count - 1, count * SLOTS - slots);
    return first * BLOCK_BYTES;
  }

  #begin(count: number): number {
    const first = this.#blocks;
    this.#blocks += count;
    if (this.#blocks > this.#chunks.length * CHUNK_BLOCKS) this.#chunks.push(Buffer.alloc(CHUNK_BYTES));
    return first;
  }

  #leave(block: number, free: number): void {
    if (free > 0) this.#open[free]?.push(block);
  }
}
