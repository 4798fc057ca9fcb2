import { createHash, type Hash } from 'node:crypto';
import { closeSync, openSync, writeSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { RootlayerError } from '../core/errors.ts';
import { escapeName } from '../core/names.ts';
import type { TarEntry, TarHandler } from '../core/tar/entry.ts';
import { TarReader } from '../core/tar/reader.ts';

const DIRECTORY = /^blobs(?:\/sha256)?\/?$/;
const FILE = /^(?:blobs\/sha256\/([0-9a-f]{64})|index\.json|oci-layout)$/;

/**
 * Writes the members of an oci-archive into a directory that is there and empty. Nothing but blobs, `index.json` and `oci-layout` is taken
 * (`E_IMAGE_FORMAT`), each once, and each blob must have the digest of its name (`E_DIGEST`). Source: OCI image-spec image-layout.md.
 */
export async function unpackOciArchive(archive: Readable, dir: string): Promise<void> {
  await mkdir(path.join(dir, 'blobs/sha256'), { recursive: true });
  const writer = new LayoutWriter(dir);
  const reader = new TarReader(writer);
  try {
    for await (const chunk of archive as AsyncIterable<Buffer>) reader.write(chunk);
    reader.end();
  } finally {
    writer.close();
  }
}

type OpenFile = { fd: number; name: string; hash: Hash | null };

class LayoutWriter implements TarHandler {
  readonly #dir: string;
  #file: OpenFile | null = null;

  constructor(dir: string) {
    this.#dir = dir;
  }

  entry(entry: TarEntry): void {
    const name = entry.name.toString('latin1');
    if (entry.type === 'directory' && DIRECTORY.test(name)) return;
    const match = FILE.exec(name);
    if (entry.type !== 'file' || match === null) throw unexpected(entry.name, `it is a ${entry.type}`);
    const hash = match[1] === undefined ? null : createHash('sha256');
    this.#file = { fd: this.#create(name), name, hash };
  }

  data(chunk: Buffer): void {
    if (this.#file === null) return;
    this.#file.hash?.update(chunk);
    for (let at = 0; at < chunk.length; ) at += writeSync(this.#file.fd, chunk, at);
  }

  entryEnd(): void {
    if (this.#file === null) return;
    const { name, hash } = this.#file;
    this.close();
    if (hash !== null && !name.endsWith(`/${hash.digest('hex')}`)) {
      throw new RootlayerError('E_DIGEST', `Cannot write blob "${name}": its content has another digest`);
    }
  }

  close(): void {
    if (this.#file !== null) closeSync(this.#file.fd);
    this.#file = null;
  }

  #create(name: string): number {
    try {
      return openSync(path.join(this.#dir, name), 'wx');
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'EEXIST') throw unexpected(Buffer.from(name), 'it is there twice');
      throw error;
    }
  }
}

function unexpected(name: Buffer, why: string): RootlayerError {
  return new RootlayerError('E_IMAGE_FORMAT', `Cannot unpack member "${escapeName(name)}": ${why}, want index.json, oci-layout and blobs`);
}
