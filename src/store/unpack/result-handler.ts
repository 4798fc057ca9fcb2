import { readSync } from 'node:fs';
import process from 'node:process';
import { RootlayerError } from '../../core/errors.ts';
import { TarReader } from '../../core/tar/reader.ts';
import type { Report } from '../../host/worker-main.ts';
import { ResultExtractor } from './result-extractor.ts';
import type { ResultAnswer, ResultRequest } from './result-protocol.ts';

const CHUNK_BYTES = 256 * 1024;

/** The worker's side of unpackResult(): makes the files of a guest's result while their tar comes in, until the pipe's other end is closed. */
export function extractResult({ limits }: ResultRequest, fds: readonly number[], report: Report): ResultAnswer {
  const [tarFd, upperFd] = fds;
  if (tarFd === undefined || upperFd === undefined) {
    throw new RootlayerError('E_PROTOCOL', `Cannot unpack the result: ${fds.length} descriptors came with the request, want 2`);
  }
  const extractor = new ResultExtractor(upperFd, limits.maxBytes);
  try {
    const reader = new TarReader(extractor, { maxEntries: limits.maxEntries, maxTrailingBytes: 0 });
    const bytes = pump(tarFd, reader, limits.maxBytes, (done) => report({ stage: 'result', done, total: null, unit: 'bytes' }));
    reader.end();
    return { bytes, entries: reader.entries, ...extractor.finish() };
  } finally {
    extractor.abort();
    // Else the process would keep the last directory it was in busy.
    process.chdir('/');
  }
}

function pump(tarFd: number, reader: TarReader, maxBytes: number, onRead: (total: number) => void): number {
  const chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  for (let total = 0; ; ) {
    const length = readSync(tarFd, chunk, 0, chunk.length, null);
    if (length === 0) return total;
    total += length;
    if (total > maxBytes) throw new RootlayerError('E_LIMIT_RESULT', `Cannot unpack the result: it has more than ${maxBytes} bytes`);
    reader.write(chunk.subarray(0, length));
    onRead(total);
  }
}
