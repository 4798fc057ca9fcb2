import { type BigIntStats, constants } from 'node:fs';
import { type FileHandle, lstat, open, readdir, readlink, stat } from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';
import { RootlayerError } from '../core/errors.ts';
import { escapeName } from '../core/names.ts';
import type { TarMember, TarType } from '../core/tar/entry.ts';
import { encodeEntry, endOfArchive, padding } from '../core/tar/writer.ts';

/** One thing to put into a context: what is at `path` on this machine, under the name `to` in the tar (or, for a directory, its contents below it). */
export type ContextItem = { path: string; to: Buffer };

const CHUNK_BYTES = 256 * 1024;
const SLASH = Buffer.from('/');

/**
 * Reads `--copy PATH[:DEST]`. A directory's contents go to the root of the image, or below DEST; a file goes to `/NAME`, to DEST, or into DEST when that
 * ends in a slash. Throws `E_USAGE` when there is nothing at PATH.
 */
export async function parseCopy(text: string): Promise<ContextItem> {
  const { source, dest } = await splitSpec('--copy', text, (after) => after.startsWith('/'));
  const inside = normal('--copy', text, dest ?? '/');
  if (await isDirectory(source)) return { path: source, to: Buffer.from(`copy/${inside}`) };
  const intoDirectory = dest === null || dest.endsWith('/');
  return { path: source, to: Buffer.from(path.posix.join('copy', inside, intoDirectory ? path.basename(source) : '')) };
}

/** Reads `--file PATH[:NAME]`: a file, or a directory as a whole, that the script finds under its base name or NAME. Throws `E_USAGE`. */
export async function parseFile(text: string): Promise<ContextItem> {
  const { source, dest } = await splitSpec('--file', text, (after) => after !== '' && !after.startsWith('/'));
  const name = normal('--file', text, dest ?? path.basename(path.resolve(source)));
  if (name === '') throw refuse('--file', text, 'it names no file');
  return { path: source, to: Buffer.from(`files/${name}`) };
}

/**
 * Gives a tar of the items: owner 0:0, modes and times as they are, symlinks as symlinks, in the order of their bytes, without attributes. Sockets are
 * left out; `onSkip` hears of them. Throws `E_USAGE` for what cannot be read, or changes meanwhile.
 */
export function contextTar(items: readonly ContextItem[], onSkip: (name: Buffer) => void): Readable {
  return Readable.from(pack(items, onSkip), { objectMode: false, highWaterMark: CHUNK_BYTES });
}

async function* pack(items: readonly ContextItem[], onSkip: (name: Buffer) => void): AsyncGenerator<Buffer, void, undefined> {
  for (const item of items) {
    const source = Buffer.from(item.path);
    // A path on the command line is followed where it is a link; what lies in a directory is not.
    if (await isDirectory(item.path)) yield* packContents(source, item.to, onSkip);
    else yield* packFile(source, item.to);
  }
  yield endOfArchive;
}

/** The directory itself is no member: its mode is not to become that of the image's directory, unless it is a new one below `files/`. */
async function* packContents(dir: Buffer, to: Buffer, onSkip: (name: Buffer) => void): AsyncGenerator<Buffer, void, undefined> {
  const names = await explainRead(dir, () => readdir(dir, { encoding: 'buffer' }));
  for (const name of names.sort(Buffer.compare)) {
    const source = join(dir, name);
    const target = join(to, name);
    const found = await explainRead(source, () => lstat(source, { bigint: true }));
    if (found.isDirectory()) {
      yield encodeEntry(member(found, 'directory', Buffer.concat([target, SLASH])));
      yield* packContents(source, target, onSkip);
    } else if (found.isSymbolicLink()) {
      const linkName = await explainRead(source, () => readlink(source, { encoding: 'buffer' }));
      yield encodeEntry({ ...member(found, 'symlink', target), linkName });
    } else if (found.isFile()) yield* packFile(source, target);
    else if (found.isFIFO()) yield encodeEntry(member(found, 'fifo', target));
    else if (found.isSocket()) onSkip(source);
    else throw new RootlayerError('E_USAGE', `Cannot copy "${escapeName(source)}": it is a device, want files, directories and links`);
  }
}

/** Exactly as many bytes as its header says, whoever writes to the file meanwhile. */
async function* packFile(source: Buffer, target: Buffer): AsyncGenerator<Buffer, void, undefined> {
  // Without O_NONBLOCK a FIFO put there since would be waited for.
  const handle = await explainRead(source, () => open(source, constants.O_RDONLY | constants.O_NONBLOCK));
  try {
    const found = await handle.stat({ bigint: true });
    if (!found.isFile()) throw new RootlayerError('E_USAGE', `Cannot copy "${escapeName(source)}": it is no regular file`);
    const size = Number(found.size);
    yield encodeEntry({ ...member(found, 'file', target), size });
    yield* readExactly(handle, source, size);
    yield padding(size);
  } finally {
    await handle.close();
  }
}

async function* readExactly(handle: FileHandle, source: Buffer, size: number): AsyncGenerator<Buffer, void, undefined> {
  for (let at = 0; at < size; ) {
    const wanted = Math.min(CHUNK_BYTES, size - at);
    const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(wanted), 0, wanted, at);
    if (bytesRead === 0) {
      throw new RootlayerError('E_USAGE', `Cannot copy "${escapeName(source)}": it became shorter meanwhile, ${at} bytes, want ${size}`);
    }
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

function member(found: BigIntStats, type: TarType, name: Buffer): TarMember {
  return {
    name,
    type,
    mode: type === 'symlink' ? 0o777 : Number(found.mode & 0o7777n),
    uid: 0,
    gid: 0,
    size: 0,
    mtimeSec: floorSeconds(found.mtimeNs),
    linkName: Buffer.alloc(0),
    devMajor: 0,
    devMinor: 0,
    xattrs: [],
  };
}

function floorSeconds(nanoseconds: bigint): number {
  const second = 1_000_000_000n;
  return Number((nanoseconds - (((nanoseconds % second) + second) % second)) / second);
}

function join(dir: Buffer, name: Buffer): Buffer {
  return dir.at(-1) === SLASH[0] ? Buffer.concat([dir, name]) : Buffer.concat([dir, SLASH, name]);
}

async function isDirectory(file: string): Promise<boolean> {
  return (await explainRead(Buffer.from(file), () => stat(file))).isDirectory();
}

async function explainRead<T>(file: Buffer, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    const why = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    throw new RootlayerError('E_USAGE', `Cannot read "${escapeName(file)}": ${why}, want a file or directory that you may read`, {
      cause: error,
    });
  }
}

type Spec = { source: string; dest: string | null };

/** A path with a colon in its name wins over PATH:DEST. */
async function splitSpec(option: string, text: string, isDest: (after: string) => boolean): Promise<Spec> {
  if (text === '') throw refuse(option, text, 'it is empty, want a path');
  const colon = text.lastIndexOf(':');
  const isThere = await lstat(text).then(
    () => true,
    () => false,
  );
  if (isThere || colon <= 0 || !isDest(text.slice(colon + 1))) return { source: text, dest: null };
  return { source: text.slice(0, colon), dest: text.slice(colon + 1) };
}

/** Gives a place in the image without its first and final slash; `..` has no meaning there. */
function normal(option: string, text: string, dest: string): string {
  const parts = dest.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) throw refuse(option, text, 'its place in the image holds ".."');
  return parts.join('/');
}

function refuse(option: string, text: string, why: string): RootlayerError {
  return new RootlayerError('E_USAGE', `Cannot use ${option} ${JSON.stringify(text)}: ${why}`);
}
