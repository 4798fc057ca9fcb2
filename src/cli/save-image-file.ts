import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { deferred } from '../core/deferred.ts';
import { type Digest, digestOf } from '../core/digest.ts';
import type { ImageFile } from '../recipe/tree/image-file.ts';
import type { Target } from './output-plan.ts';
import { type OnBytes, type Saved, saveStream } from './save.ts';

/** Writes what an image function has made to where it should go. Throws what the file's stream fails with, and `E_USAGE` when it cannot be written. */
export async function saveImageFile(file: ImageFile, target: Target, onBytes: OnBytes, signal: AbortSignal): Promise<Saved> {
  const digest = deferred<Digest>();
  const stream = Readable.from(hashed(file.open(signal), digest.resolve), { objectMode: false });
  return await saveStream({ stream, sizeBytes: null, fileName: file.fileName, digest: digest.promise }, target, onBytes, signal);
}

async function* hashed(chunks: AsyncIterable<Buffer>, settle: (digest: Digest) => void): AsyncGenerator<Buffer, void, undefined> {
  const hash = createHash('sha256');
  for await (const chunk of chunks) {
    hash.update(chunk);
    yield chunk;
  }
  settle(digestOf(hash.digest()));
}
