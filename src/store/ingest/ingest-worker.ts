/** The process that reads image archives of strangers: it copies their files to a directory, hashed, and says what they were called. */
import { createHash, type Hash } from 'node:crypto';
import { readSync, writeSync } from 'node:fs';
import { digestOf } from '../../core/digest.ts';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { TarEntry, TarHandler } from '../../core/tar/entry.ts';
import { TarReader } from '../../core/tar/reader.ts';
import { close, O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY, openAt } from '../../host/libc.ts';
import { seccompArch } from '../../host/seccomp/arch.ts';
import { compileFilter } from '../../host/seccomp/bpf.ts';
import { unpackWorkerProfile } from '../../host/seccomp/worker-profiles.ts';
import { type Report, serveWorker } from '../../host/worker-main.ts';
import type { Listing } from './archive-files.ts';
import { inflate } from './inflate.ts';
import { parseMemberName } from './member-name.ts';
import { type IngestRequest, ingestRequestSchema } from './protocol.ts';

const CHUNK = 1024 * 1024;
const HEAD = 8;

/** Reads the archive from the first descriptor and writes its files into the directory of the second. */
async function ingest(request: IngestRequest, inputFd: number, directoryFd: number, report: Report): Promise<Listing> {
  const copier = new FileCopier(directoryFd, request.maxBytes);
  const reader = new TarReader(copier, { maxEntries: request.maxMembers });
  let sizeBytes = 0;
  const take = (chunk: Buffer): void => {
    sizeBytes += chunk.length;
    reader.write(chunk);
    report({ stage: 'ingest', done: sizeBytes, total: null, unit: 'bytes' });
  };
  if (request.compression === 'gzip') await inflate(inputFd, request.isFile, request, take);
  else readAll(inputFd, request.isFile, take);
  reader.end();
  return { members: copier.members, sizeBytes };
}

function readAll(fd: number, isFile: boolean, take: (chunk: Buffer) => void): void {
  const buffer = Buffer.allocUnsafe(CHUNK);
  for (let at = 0; ; ) {
    const length = readSync(fd, buffer, 0, buffer.length, isFile ? at : null);
    if (length === 0) return;
    at += length;
    take(buffer.subarray(0, length));
  }
}

/** Takes the members of an archive: writes the files as `0`, `1`, ... and keeps a list. Throws `E_ARCHIVE_TYPE`, `E_ARCHIVE_PATH`, `E_LIMIT_UNPACKED`. */
class FileCopier implements TarHandler {
  readonly members: Listing['members'] = [];
  readonly #directoryFd: number;
  #bytesLeft: number;
  #file: { readonly fd: number; readonly n: number; readonly name: string; readonly hash: Hash; sizeBytes: number; head: Buffer } | null =
    null;

  constructor(directoryFd: number, maxBytes: number) {
    this.#directoryFd = directoryFd;
    this.#bytesLeft = maxBytes;
  }

  entry(entry: TarEntry): void {
    const name = parseMemberName(entry.name);
    if (entry.type === 'directory') return;
    if (name === '') throw refusal('E_ARCHIVE_PATH', entry.name, 'it has no name');
    if (entry.type === 'symlink' || entry.type === 'hardlink') {
      this.members.push({ kind: entry.type, name, target: entry.linkName.toString('hex') });
      return;
    }
    if (entry.type !== 'file')
      throw refusal('E_ARCHIVE_TYPE', entry.name, `it is of type ${entry.type}, want files, directories and links`);
    this.#bytesLeft -= entry.size;
    if (this.#bytesLeft < 0) throw refusal('E_LIMIT_UNPACKED', entry.name, 'the members of the archive are larger than allowed');
    const n = this.members.length;
    const fd = openAt(this.#directoryFd, String(n), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    this.#file = { fd, n, name, hash: createHash('sha256'), sizeBytes: 0, head: Buffer.alloc(0) };
  }

  data(chunk: Buffer): void {
    const file = this.#file;
    if (file === null) return;
    if (file.head.length < HEAD) file.head = Buffer.concat([file.head, chunk.subarray(0, HEAD - file.head.length)]);
    file.hash.update(chunk);
    file.sizeBytes += chunk.length;
    for (let at = 0; at < chunk.length; ) at += writeSync(file.fd, chunk, at);
  }

  entryEnd(): void {
    if (this.#file === null) return;
    const { fd, n, name, hash, sizeBytes, head } = this.#file;
    this.#file = null;
    close(fd);
    this.members.push({ kind: 'file', name, n, sizeBytes, digest: digestOf(hash.digest()), head: head.toString('hex') });
  }
}

function refusal(code: 'E_ARCHIVE_PATH' | 'E_ARCHIVE_TYPE' | 'E_LIMIT_UNPACKED', name: Buffer, why: string): RootlayerError {
  return new RootlayerError(code, `Cannot take member "${escapeName(name)}" of an image archive: ${why}`);
}

await serveWorker(compileFilter(unpackWorkerProfile, seccompArch()), async (body, fds, report) => {
  const [inputFd, directoryFd] = fds;
  if (inputFd === undefined || directoryFd === undefined)
    throw new RootlayerError('E_PROTOCOL', 'Cannot ingest: the descriptors are missing');
  try {
    return await ingest(ingestRequestSchema.parse(body), inputFd, directoryFd, report);
  } finally {
    for (const fd of fds) close(fd);
  }
});
