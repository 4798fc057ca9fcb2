import { once } from 'node:events';
import { read } from 'node:fs';
import { promisify } from 'node:util';
import { createGunzip } from 'node:zlib';
import { RootlayerError } from '../../core/errors.ts';

const CHUNK = 256 * 1024;

/** Beyond this many bytes out, more than {@link MAX_RATIO} times what went in is a bomb. Source: spec/threats.md A29. */
const RATIO_FREE_BYTES = 64 * 1024 * 1024;
const MAX_RATIO = 200;

const readAsync = promisify(read);

/**
 * Reads gzip data, of one member or more, from a descriptor to its end and hands on what is in it. What follows the last member is an error, which
 * zlib would pass over. Throws `E_COMPRESSION`, `E_LIMIT_RATIO`, `E_LIMIT_UNPACKED`, and what `take` throws.
 */
export async function inflate(fd: number, isFile: boolean, limits: { maxBytes: number }, take: (chunk: Buffer) => void): Promise<void> {
  const gunzip = createGunzip({ chunkSize: CHUNK });
  let failure: unknown;
  let bytesIn = 0;
  let bytesOut = 0;
  gunzip.on('data', (chunk: Buffer) => {
    if (failure !== undefined) return;
    try {
      bytesOut += chunk.length;
      checkExpansion(bytesIn, bytesOut, limits.maxBytes);
      take(chunk);
    } catch (error) {
      failure = error;
      gunzip.destroy();
    }
  });
  gunzip.on('error', (error) => {
    failure ??= new RootlayerError('E_COMPRESSION', `Cannot decompress gzip data: ${error.message}`, { cause: error });
  });
  const closed = new Promise((resolve) => gunzip.once('close', resolve));
  for (;;) {
    const buffer = Buffer.allocUnsafe(CHUNK);
    const { bytesRead } = await readAsync(fd, buffer, 0, CHUNK, isFile ? bytesIn : null);
    if (bytesRead === 0 || failure !== undefined) break;
    bytesIn += bytesRead;
    if (!gunzip.write(buffer.subarray(0, bytesRead))) await Promise.race([once(gunzip, 'drain').catch(() => {}), closed]);
  }
  if (failure === undefined) {
    gunzip.end();
    await closed;
  }
  if (failure !== undefined) throw failure;
  if (gunzip.bytesWritten !== bytesIn) {
    throw new RootlayerError(
      'E_ARCHIVE_TRAILING',
      `Cannot decompress gzip data: ${bytesIn - gunzip.bytesWritten} bytes of other data follow it`,
    );
  }
}

function checkExpansion(bytesIn: number, bytesOut: number, maxBytes: number): void {
  if (bytesOut > maxBytes) throw new RootlayerError('E_LIMIT_UNPACKED', `Cannot decompress gzip data: it has more than ${maxBytes} bytes`);
  const bomb = findBomb(bytesIn, bytesOut);
  if (bomb !== null) throw bomb;
}

/** Gives `E_LIMIT_RATIO` when so many bytes must not have become so many, else null. */
export function findBomb(bytesIn: number, bytesOut: number): RootlayerError | null {
  if (bytesOut <= RATIO_FREE_BYTES || bytesOut <= bytesIn * MAX_RATIO) return null;
  const why = `${bytesIn} bytes became ${bytesOut}, want at most ${MAX_RATIO} times as many`;
  return new RootlayerError('E_LIMIT_RATIO', `Cannot decompress archive: ${why}`);
}
