import { Readable } from 'node:stream';
import { type TarsumOptions, tarsumOf } from '../../core/tarsum.ts';
import { compressionOf } from '../../store/ingest/archive-files.ts';
import { decompressed } from './outer.ts';

/**
 * Gives the tarsum of a layer, plain, gzip or zstd: version 1 with sha256 when nothing is said, as nixpkgs' `tarsum` prints it. No bytes at all count as an
 * archive without members. For comparing, not for security. Throws `E_COMPRESSION`, `E_TOOL`, and the `E_ARCHIVE_` codes.
 */
export async function tarsum(
  stream: Readable,
  options: TarsumOptions = {},
  signal: AbortSignal = new AbortController().signal,
): Promise<string> {
  return await tarsumOf(plainTar(stream, signal), options);
}

/** Gives the bytes of a stream that is plain, gzip or zstd, as its first bytes say. Throws `E_COMPRESSION` and `E_TOOL`. */
export async function* plainTar(stream: Readable, signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
  const source = (stream as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
  let head: Buffer = Buffer.alloc(0);
  while (head.length < HEAD) {
    const next = await source.next();
    if (next.done === true) break;
    head = Buffer.concat([head, next.value]);
  }
  const whole = joined(head, source);
  const compression = compressionOf(head);
  if (compression === 'none') yield* whole;
  else yield* decompressed(Readable.from(whole, { objectMode: false }), compression, signal) as AsyncIterable<Buffer>;
}

/** What tells gzip and zstd from anything else. */
const HEAD = 4;

async function* joined(first: Buffer, rest: AsyncIterator<Buffer>): AsyncGenerator<Buffer, void, undefined> {
  if (first.length > 0) yield first;
  for (let next = await rest.next(); next.done !== true; next = await rest.next()) yield next.value;
}
