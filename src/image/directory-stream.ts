import { constants } from 'node:fs';
import { lstat, open, readdir } from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { RootlayerError } from '../core/errors.ts';
import { type PackMember, packTar } from './tar-pack.ts';

/** File names in `blobs/<algorithm>`; rootlayer reads sha256 only. */
const BLOB = /^[0-9a-f]{64}$/;

/**
 * Gives an OCI layout directory as a tar stream, for whoever takes archives: `oci-layout`, `index.json` and the files of `blobs/sha256`, and nothing else.
 * The same files give the same bytes. Symlinks are refused, so that nothing outside of the directory can be sent by accident. Throws
 * `E_IMAGE_FORMAT` for a directory that is no layout, and, by the stream, `E_CONFLICT` for a file that changes while it is sent.
 */
export async function directoryStream(directory: string, signal: AbortSignal = new AbortController().signal): Promise<Readable> {
  const blobs = path.join(directory, 'blobs', 'sha256');
  for (const parent of [path.join(directory, 'blobs'), blobs]) await checkKind(parent, 'directory');
  const names = (await readdir(blobs)).filter((name) => BLOB.test(name));
  const members: PackMember[] = [];
  for (const name of ['oci-layout', 'index.json', ...names.map((blob) => `blobs/sha256/${blob}`)]) {
    const file = path.join(directory, name);
    const sizeBytes = await checkKind(file, 'file');
    members.push({ name, body: { sizeBytes, open: () => openFile(file, sizeBytes, signal) } });
  }
  return packTar(members, signal);
}

/** Gives the size in bytes. */
async function checkKind(file: string, kind: 'directory' | 'file'): Promise<number> {
  const stats = await lstat(file).catch((error: unknown) => refuse(file, `it has no ${kind} "${path.basename(file)}"`, error));
  if (kind === 'directory' ? stats.isDirectory() : stats.isFile()) return stats.size;
  return refuse(file, `"${path.basename(file)}" is no plain ${kind}${stats.isSymbolicLink() ? ', but a symlink' : ''}`);
}

/** Opened only when it is its turn: a layout can hold more files than a process may have open. */
async function openFile(file: string, sizeBytes: number, signal: AbortSignal): Promise<Readable> {
  const handle = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  const stats = await handle.stat();
  if (stats.isFile() && stats.size === sizeBytes) return handle.createReadStream({ highWaterMark: 1024 * 1024, signal });
  await handle.close();
  throw new RootlayerError('E_CONFLICT', `Cannot send "${file}": it changed meanwhile`);
}

function refuse(file: string, why: string, cause?: unknown): never {
  throw new RootlayerError('E_IMAGE_FORMAT', `Cannot read "${file}" of an OCI layout: ${why}`, { cause });
}
