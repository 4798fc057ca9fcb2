import { RootlayerError } from '../core/errors.ts';
import { escapeName } from '../core/names.ts';

/** Longest path of a member in bytes: what a PAX header of a sane size holds. Source: spec of threats, U17. */
export const MAX_PATH_BYTES = 64 * 1024;

const SLASH = 0x2f;

/** The path of the directory that a walk is in, as bytes in one buffer, so that a deep tree costs no more than its depth. */
export class PathBuffer {
  readonly #bytes = Buffer.alloc(MAX_PATH_BYTES);
  readonly #prefixLength: number;
  #length: number;

  /** Paths begin with the prefix (empty or `./`). */
  constructor(prefix: string) {
    this.#prefixLength = this.#bytes.write(prefix, 'latin1');
    this.#length = this.#prefixLength;
  }

  /** Bytes of the present directory's path, its final slash included; for {@link leave} and {@link upTo}. */
  get length(): number {
    return this.#length;
  }

  /** Appends a directory. Throws `E_CAPTURE_DEPTH` when the path becomes too long. */
  enter(name: Buffer): void {
    this.#checkRoom(name, 1);
    name.copy(this.#bytes, this.#length);
    this.#length += name.length;
    this.#bytes[this.#length] = SLASH;
    this.#length += 1;
  }

  /** Goes back to a length got before. */
  leave(length: number): void {
    this.#length = length;
  }

  /** A copy of the path of the directory with that length; the root is `./`. */
  upTo(length: number): Buffer {
    return length <= this.#prefixLength ? Buffer.from('./') : Buffer.from(this.#bytes.subarray(0, length));
  }

  /** A copy of the path of a name in the present directory, with a marker's prefix before it. Throws `E_CAPTURE_DEPTH` when it is too long. */
  of(name: Buffer, marker: Buffer = NO_MARKER): Buffer {
    this.#checkRoom(name, marker.length);
    return Buffer.concat([this.#bytes.subarray(0, this.#length), marker, name]);
  }

  #checkRoom(name: Buffer, more: number): void {
    const length = this.#length + name.length + more;
    if (length <= MAX_PATH_BYTES) return;
    const path = escapeName(Buffer.from(this.#bytes.subarray(0, this.#length)));
    throw new RootlayerError('E_CAPTURE_DEPTH', `Cannot capture "${path}": its path has ${length} bytes, want at most ${MAX_PATH_BYTES}`);
  }
}

const NO_MARKER = Buffer.alloc(0);
