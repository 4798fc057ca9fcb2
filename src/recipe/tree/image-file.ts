import type { Readable } from 'node:stream';

/** A file that an image function makes; every {@link open} gives the same bytes. Dispose it to close what it is made of. */
export interface ImageFile extends AsyncDisposable {
  /** What the file is called, without a directory. */
  readonly fileName: string;
  /** Gives the bytes. They count only once the stream has ended without an error. */
  open(signal: AbortSignal): Readable;
}
