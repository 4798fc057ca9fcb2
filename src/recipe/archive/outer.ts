import { closeSync, constants, fstatSync, openSync, readdirSync, type Stats, statSync } from 'node:fs';
import path from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { RootlayerError } from '../../core/errors.ts';
import type { Compression } from '../../core/image.ts';
import { filterProgram } from '../../host/filter-program.ts';
import { compressionOf } from '../../store/ingest/archive-files.ts';
import { listTarMembers, type OuterMember, openRange, rangeOf, readAt } from './members.ts';
import { Spool } from './spool.ts';

/** The outer archive of an image, or an OCI layout directory, as it is. Dispose it to close its files. */
export interface OuterArchive extends AsyncDisposable {
  readonly path: string;
  readonly kind: 'archive' | 'directory';
  /** How the archive itself is compressed. */
  readonly compression: Compression;
  /** In the archive's order; of a directory `oci-layout`, `index.json` and the blobs by name. */
  readonly members: readonly OuterMember[];
}

/**
 * Opens an image archive, plain, gzip or zstd, or an OCI layout directory, and lists what is in it, uninterpreted. A plain archive is read in place; a
 * compressed one is unpacked to a file of the directory for temporary files, which has no name any more when this returns. Throws `E_NOT_FOUND`,
 * `E_IMAGE_FORMAT`, `E_COMPRESSION`, `E_TOOL`, and what `TarReader` throws.
 */
export async function openOuterArchive(file: string, signal: AbortSignal): Promise<OuterArchive> {
  try {
    return statFile(file).isDirectory() ? openLayout(file) : await openArchive(file, signal);
  } catch (error) {
    throw namingFile(file, error);
  }
}

/** Gives the bytes of a gzip or zstd stream. By the stream, `E_COMPRESSION` and `E_TOOL`. */
export function decompressed(stream: Readable, compression: Compression, signal: AbortSignal): Readable {
  if (compression === 'none') return stream;
  if (compression === 'zstd') return filterProgram('zstd', ['-dcq', '--memory=128MB'], stream, signal);
  return Readable.from(gunzipped(stream, signal), { objectMode: false });
}

const HEAD = 8;

async function* gunzipped(stream: Readable, signal: AbortSignal): AsyncGenerator<Buffer> {
  const gunzip = createGunzip({ chunkSize: 256 * 1024 });
  const fed = pipeline(stream, gunzip, { signal });
  fed.catch(() => {});
  try {
    yield* gunzip as AsyncIterable<Buffer>;
    await fed;
  } catch (error) {
    if (!(error instanceof Error) || !('code' in error) || !String(error.code).startsWith('Z_')) throw error;
    throw new RootlayerError('E_COMPRESSION', `Cannot decompress gzip data: ${error.message}`, { cause: error });
  } finally {
    stream.destroy();
  }
}

/** Gives an error with the name of the file in its message: a part says nothing of the file that the user named. */
export function namingFile(file: string, error: unknown): unknown {
  if (!(error instanceof RootlayerError) || error.code === 'E_NOT_FOUND') return error;
  const message = error.message.replace(/^C/, 'c');
  return new RootlayerError(error.code, `Cannot use image ${JSON.stringify(file)}: ${message}`, { hint: error.hint, cause: error });
}

function statFile(file: string): Stats {
  return explained(file, () => statSync(file));
}

/** Opened without blocking: a FIFO is found out by its kind. */
function openFile(file: string): number {
  return explained(file, () => openSync(file, constants.O_RDONLY | constants.O_NONBLOCK));
}

function explained<T>(file: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    const isMissing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    const why = isMissing ? 'there is no such file' : error instanceof Error ? error.message : String(error);
    throw new RootlayerError('E_NOT_FOUND', `Cannot read image ${JSON.stringify(file)}: ${why}`, { cause: error });
  }
}

async function openArchive(file: string, signal: AbortSignal): Promise<OuterArchive> {
  const fd = openFile(file);
  try {
    if (!fstatSync(fd).isFile()) throw new RootlayerError('E_IMAGE_FORMAT', 'Cannot read image archive: it is no file and no directory');
    const compression = compressionOf(readAt(fd, 0, HEAD));
    if (compression !== 'none') return await openCompressed(fd, file, compression, signal);
    const members = listTarMembers(fd, fstatSync(fd).size);
    return { path: file, kind: 'archive', compression, members, [Symbol.asyncDispose]: closer([fd]) };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Closes the descriptor unless it fails. */
async function openCompressed(fd: number, file: string, compression: Compression, signal: AbortSignal): Promise<OuterArchive> {
  const spool = new Spool(file);
  try {
    const packed = openRange(fd, 0, fstatSync(fd).size, Buffer.from(file), signal);
    for await (const chunk of decompressed(packed, compression, signal) as AsyncIterable<Buffer>) await spool.append(chunk);
    const members = listTarMembers(spool.fd, spool.sizeBytes);
    closeSync(fd);
    return { path: file, kind: 'archive', compression, members, [Symbol.asyncDispose]: async () => await spool[Symbol.asyncDispose]() };
  } catch (error) {
    await spool[Symbol.asyncDispose]();
    throw error;
  }
}

/** Closes each once; descriptors may still be added. */
function closer(fds: number[]): () => Promise<void> {
  return async () => {
    for (const fd of fds.splice(0)) closeSync(fd);
  };
}

const BLOB = /^[0-9a-f]{64}$/;

function openLayout(directory: string): OuterArchive {
  const fds: number[] = [];
  try {
    const names = ['oci-layout', 'index.json', ...blobNames(directory)];
    const members = names.map((name) => fileMember(directory, name, fds));
    return { path: directory, kind: 'directory', compression: 'none', members, [Symbol.asyncDispose]: closer(fds) };
  } catch (error) {
    for (const fd of fds) closeSync(fd);
    throw error;
  }
}

function blobNames(directory: string): string[] {
  try {
    const names = readdirSync(path.join(directory, 'blobs/sha256')).filter((name) => BLOB.test(name));
    return names.sort().map((name) => `blobs/sha256/${name}`);
  } catch (error) {
    throw new RootlayerError('E_IMAGE_FORMAT', 'Cannot read image directory: it has no directory "blobs/sha256"', { cause: error });
  }
}

/** Opened at first use: a layout may hold more files than a process may have open. */
function fileMember(directory: string, name: string, fds: number[]): OuterMember {
  const file = path.join(directory, name);
  const label = Buffer.from(name);
  let opened: number | null = null;
  const fdOf = (): number => {
    if (opened !== null) return opened;
    opened = openFile(file);
    fds.push(opened);
    return opened;
  };
  const stats = statFile(file);
  return {
    ...{ name: label, type: 'file', mode: stats.mode & 0o7777, uid: stats.uid, gid: stats.gid, linkName: Buffer.alloc(0) },
    mtimeSec: Math.floor(stats.mtimeMs / 1000),
    sizeBytes: stats.size,
    open: (signal) => openRange(fdOf(), 0, stats.size, label, signal),
    openRange: (start, length, signal) => rangeOf(fdOf(), start, length, label, signal),
    readStart: (maxBytes) => readAt(fdOf(), 0, Math.min(maxBytes, stats.size)),
  };
}
