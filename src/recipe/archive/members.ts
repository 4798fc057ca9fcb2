import { read, readSync } from 'node:fs';
import { Readable } from 'node:stream';
import { promisify } from 'node:util';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { TarEntry, TarMember } from '../../core/tar/entry.ts';
import { BLOCK, paddingLength, zeros } from '../../core/tar/layout.ts';
import { TarReader } from '../../core/tar/reader.ts';

/** A member of the outer archive of an image, as it is there. */
export type OuterMember = Pick<TarMember, 'name' | 'type' | 'mode' | 'uid' | 'gid' | 'mtimeSec' | 'linkName'> & {
  /** 0 for everything but files. */
  readonly sizeBytes: number;
  /** Gives a file's bytes, as often as wanted, while the archive is open. */
  open(signal: AbortSignal): Readable;
  /** Gives part of a file's bytes. */
  openRange(start: number, sizeBytes: number, signal: AbortSignal): AsyncIterable<Buffer>;
  /** Gives the first bytes of a file, at most so many. */
  readStart(maxBytes: number): Buffer;
};

const WINDOW = 64 * 1024;
const CHUNK = 512 * 1024;

const readAsync = promisify(read);

/**
 * Lists the members of an uncompressed tar that is a regular file, in their order. Only headers are read: bodies are passed over. Throws
 * `E_IMAGE_FORMAT` for what is no tar at all, else what {@link TarReader} throws.
 */
export function listTarMembers(fd: number, sizeBytes: number): OuterMember[] {
  const members: OuterMember[] = [];
  let found: TarEntry | null = null;
  const reader = new TarReader({
    entry: (entry) => {
      found = entry;
    },
    data: () => {},
    entryEnd: () => {},
  });
  const blockAt = blockReader(fd);
  for (let at = 0; at < sizeBytes; ) {
    const block = blockAt(at);
    if (at === 0) asFormat(() => reader.write(block));
    else reader.write(block);
    at += block.length;
    const entry = taken(found);
    if (entry === null) continue;
    found = null;
    members.push(memberAt(fd, entry, at));
    const bodyEnd = Math.min(at + entry.size + paddingLength(entry.size), sizeBytes);
    // The reader is told of a body of zeros: it looks at none of its bytes.
    for (; at < bodyEnd; at += WINDOW) reader.write(zeros(Math.min(WINDOW, bodyEnd - at)));
    at = bodyEnd;
  }
  reader.end();
  return members;
}

/** A callback has set it: the compiler cannot see that. */
function taken(found: TarEntry | null): TarEntry | null {
  return found;
}

/** The first header decides whether it is a tar. */
function asFormat(read: () => void): void {
  try {
    read();
  } catch (error) {
    if (!(error instanceof RootlayerError) || error.code !== 'E_ARCHIVE_HEADER') throw error;
    throw new RootlayerError('E_IMAGE_FORMAT', 'Cannot read image archive: it is no tar, plain, gzip or zstd', { cause: error });
  }
}

function blockReader(fd: number): (at: number) => Buffer {
  let window: Buffer = Buffer.alloc(0);
  let start = 0;
  return (at) => {
    if (at < start || at + BLOCK > start + window.length) {
      window = readAt(fd, at, WINDOW);
      start = at;
    }
    const block = window.subarray(at - start, at - start + BLOCK);
    if (block.length === 0) throw new RootlayerError('E_ARCHIVE_TRUNCATED', 'Cannot read image archive: it became shorter meanwhile');
    return block;
  };
}

function memberAt(fd: number, entry: TarEntry, at: number): OuterMember {
  const { name, type, mode, uid, gid, mtimeSec, linkName, size: sizeBytes } = entry;
  return {
    ...{ name, type, mode, uid, gid, mtimeSec, linkName, sizeBytes },
    open: (signal) => openRange(fd, at, sizeBytes, name, signal),
    openRange: (start, length, signal) => rangeOf(fd, at + start, length, name, signal),
    readStart: (maxBytes) => readAt(fd, at, Math.min(maxBytes, sizeBytes)),
  };
}

/** Gives part of an open file as a stream, which leaves the descriptor open. By the stream, `E_ARCHIVE_TRUNCATED` when the file has not so many bytes. */
export function openRange(fd: number, start: number, sizeBytes: number, name: Buffer, signal: AbortSignal): Readable {
  if (sizeBytes === 0) return Readable.from([], { objectMode: false });
  return Readable.from(rangeOf(fd, start, sizeBytes, name, signal), { objectMode: false });
}

/** {@link openRange} without a stream around it. No read stream: one that is destroyed closes its descriptor, which others read too. */
export async function* rangeOf(
  fd: number,
  start: number,
  sizeBytes: number,
  name: Buffer,
  signal: AbortSignal,
): AsyncGenerator<Buffer, void, undefined> {
  for (let done = 0; done < sizeBytes; ) {
    signal.throwIfAborted();
    const length = Math.min(CHUNK, sizeBytes - done);
    const { bytesRead, buffer } = await readAsync(fd, Buffer.allocUnsafe(length), 0, length, start + done);
    if (bytesRead === 0) {
      const why = `${sizeBytes - done} bytes are missing at its end`;
      throw new RootlayerError('E_ARCHIVE_TRUNCATED', `Cannot read "${escapeName(name)}" of an image: ${why}`);
    }
    yield buffer.subarray(0, bytesRead);
    done += bytesRead;
  }
}

/** Gives up to so many bytes from there on. */
export function readAt(fd: number, at: number, length: number): Buffer {
  const buffer = Buffer.allocUnsafe(length);
  let filled = 0;
  while (filled < length) {
    const count = readSync(fd, buffer, filled, length - filled, at + filled);
    if (count === 0) break;
    filled += count;
  }
  return buffer.subarray(0, filled);
}
