import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createGzip } from 'node:zlib';
import { RootlayerError } from '../core/errors.ts';
import type { Compression } from '../core/image.ts';
import { filtered } from './filter.ts';

/** A layer blob, open for reading from its start; whoever is given it closes the descriptor. */
export type OpenLayer = { readonly fd: number; readonly compression: Compression; readonly tarBytes: number };

const CHUNK = 1024 * 1024;

/**
 * Gives a layer's tar, compressed as asked. What is stored as asked is handed on as it is; what is compressed here has the same bytes each time,
 * whatever the number of cores: gzip has no name and no time in its header. Throws, by the stream, `E_TOOL`, `E_COMPRESSION`, and `E_STORE_CORRUPT` when
 * the tar has another size than it had; `E_USAGE` for gzip as zstd.
 */
export function layerStream(layer: OpenLayer, wanted: Compression, uidBase: number, signal: AbortSignal): Readable {
  if (layer.compression === wanted) return blobStream(layer.fd, signal);
  if (layer.compression === 'none' && wanted === 'zstd') {
    return Readable.from(filtered(layer.fd, { name: 'zstd', args: ['-q', '-c', '-3', '-T0'] }, uidBase, signal), { objectMode: false });
  }
  const plain = tarStream(layer, uidBase, signal);
  if (wanted === 'none') return plain;
  if (wanted === 'gzip') return through(plain, signal);
  throw new RootlayerError('E_USAGE', `Cannot give a ${layer.compression} layer as ${wanted}: want it uncompressed, gzip, or as it is`);
}

function blobStream(fd: number, signal: AbortSignal): Readable {
  return createReadStream('', { fd, start: 0, highWaterMark: CHUNK, signal });
}

function tarStream(layer: OpenLayer, uidBase: number, signal: AbortSignal): Readable {
  if (layer.compression === 'none') return blobStream(layer.fd, signal);
  return Readable.from(checkedSize(filtered(layer.fd, DECOMPRESSORS[layer.compression], uidBase, signal), layer.tarBytes), {
    objectMode: false,
  });
}

const DECOMPRESSORS = {
  gzip: { name: 'gzip', args: ['-d', '-c'] },
  zstd: { name: 'zstd', args: ['-d', '-c', '-q', '--memory=128MB'] },
} as const;

/** The size of a member stands in front of it: a byte too many or too few would shift all that follows. */
async function* checkedSize(chunks: AsyncIterable<Buffer>, sizeBytes: number): AsyncGenerator<Buffer> {
  let left = sizeBytes;
  for await (const chunk of chunks) {
    left -= chunk.length;
    if (left < 0) break;
    yield chunk;
  }
  if (left !== 0) throw new RootlayerError('E_STORE_CORRUPT', `Cannot read layer: its tar has not the ${sizeBytes} bytes it had`);
}

/** An error on either side destroys the other. */
function through(plain: Readable, signal: AbortSignal): Readable {
  const gzip = createGzip({ level: constants.Z_DEFAULT_COMPRESSION, chunkSize: 256 * 1024 });
  pipeline(plain, gzip, { signal }).catch((error: unknown) => gzip.destroy(error instanceof Error ? error : new Error(String(error))));
  return gzip;
}
