import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { type DiffId, hexOf } from '../../core/digest.ts';
import { RootlayerError } from '../../core/errors.ts';
import { type ArchiveFile, compressionOf } from '../../store/ingest/archive-files.ts';
import type { OuterMember } from './members.ts';
import { decompressed } from './outer.ts';

/** A layer of a base image, which can be read as often as wanted. */
export type BaseLayer = {
  readonly diffId: DiffId;
  /** Of the uncompressed tar. */
  readonly sizeBytes: number;
  /** As the archive's manifest names it: a member's name in a docker-archive, `blobs/sha256/<hex>` in an OCI layout. */
  readonly name: string;
  /** Gives the uncompressed tar; without a signal that of {@link openBaseImage} ends it. By the stream `E_DIGEST` at its end when it has another diffID, and `E_COMPRESSION`. */
  open(signal?: AbortSignal): Readable;
  /** Gives part of the uncompressed tar without checking anything; null when the archive has the layer compressed. */
  readonly openRange: ((start: number, sizeBytes: number, signal: AbortSignal) => AsyncIterable<Buffer>) | null;
};

/** Opens a layer that is a member of an archive; `signal` is for whoever gives none when reading it. */
export async function openLayer(
  member: OuterMember,
  { file, diffId }: { readonly file: ArchiveFile; readonly diffId: DiffId },
  name: string,
  signal: AbortSignal,
): Promise<BaseLayer> {
  const compression = compressionOf(file.head);
  const open = (use: AbortSignal = signal): Readable => {
    const plain = decompressed(member.open(use), compression, use);
    return Readable.from(verified(plain, diffId, name), { objectMode: false });
  };
  const sizeBytes = compression === 'none' ? member.sizeBytes : await lengthOf(open());
  const openRange = compression === 'none' ? member.openRange : null;
  return { diffId, sizeBytes, name, open, openRange };
}

async function lengthOf(stream: Readable): Promise<number> {
  let length = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) length += chunk.length;
  return length;
}

async function* verified(stream: Readable, diffId: DiffId, name: string): AsyncGenerator<Buffer> {
  const hash = createHash('sha256');
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    hash.update(chunk);
    yield chunk;
  }
  const hex = hash.digest('hex');
  if (hex === hexOf(diffId)) return;
  throw new RootlayerError('E_DIGEST', `Cannot use layer "${name}": its tar has the diffID sha256:${hex}, want ${diffId}`);
}
