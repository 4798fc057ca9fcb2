import { RootlayerError } from '../core/errors.ts';
import { escapeName } from '../core/names.ts';
import { BLOCK_BYTES, DIRENT_BYTES, ENTRY_TYPES, MAX_NAME_BYTES } from './format.ts';

/** The directory itself and the one above it stand among the names, packed like them. */
export const DOT = '.\0\x04';
export const DOT_DOT = '..\0\x04';

/**
 * The contents of a directory: blocks of entries, each with its names behind the entries, in the order of the names' bytes over all blocks, as
 * the kernel's binary search wants them.
 */
export class DirectoryData {
  /** Bytes of all of it; what the last block lacks of a whole one is not counted. */
  readonly sizeBytes: number;
  /** All names in their order, {@link DOT} and {@link DOT_DOT} included. */
  readonly names: readonly string[];
  /** Index of the first entry of each block. */
  readonly #starts: number[] = [];

  /** Takes names as `readDirectoryPacked` gives them: latin1, a NUL, and the type. Throws `E_DISK_IMAGE` for one of more than 255 bytes. */
  constructor(names: readonly string[]) {
    this.names = [...names, DOT, DOT_DOT].sort();
    let used = BLOCK_BYTES;
    for (const [index, packed] of this.names.entries()) {
      const length = nameLength(packed);
      if (used + DIRENT_BYTES + length > BLOCK_BYTES) {
        this.#starts.push(index);
        used = 0;
      }
      used += DIRENT_BYTES + length;
    }
    this.sizeBytes = (this.#starts.length - 1) * BLOCK_BYTES + used;
  }

  /** Gives the bytes: {@link sizeBytes}, filled up to whole blocks. Takes the number of the inode of each of {@link names}. */
  encode(nids: readonly number[]): Buffer {
    const bytes = Buffer.alloc(this.#starts.length * BLOCK_BYTES);
    for (const [block, start] of this.#starts.entries()) {
      const end = this.#starts[block + 1] ?? this.names.length;
      this.#encodeBlock(bytes.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES), start, end, nids);
    }
    return bytes;
  }

  #encodeBlock(bytes: Buffer, start: number, end: number, nids: readonly number[]): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    let nameAt = (end - start) * DIRENT_BYTES;
    for (let index = start; index < end; index += 1) {
      const packed = this.names[index] ?? '';
      const at = (index - start) * DIRENT_BYTES;
      view.setUint32(at, nids[index] ?? 0, true);
      view.setUint16(at + 8, nameAt, true);
      view.setUint8(at + 10, ENTRY_TYPES[packed.charCodeAt(packed.length - 1)] ?? 0);
      nameAt += bytes.write(packed.slice(0, -2), nameAt, 'latin1');
    }
  }
}

function nameLength(packed: string): number {
  const length = packed.length - 2;
  if (length <= MAX_NAME_BYTES) return length;
  throw new RootlayerError(
    'E_DISK_IMAGE',
    `Cannot put "${escapeName(Buffer.from(packed.slice(0, -2), 'latin1'))}" on a disk: its name has ${length} bytes, want at most ${MAX_NAME_BYTES}`,
  );
}
