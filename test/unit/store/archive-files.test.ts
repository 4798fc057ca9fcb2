import t from 'tap';
import { compressionOf } from '../../../src/store/ingest/archive-files.ts';

t.test('compressionOf() tells formats by their first bytes', async (t) => {
  const rows: [string, string][] = [
    ['1f8b0800', 'gzip'],
    ['1f8b', 'gzip'],
    ['28b52ffd', 'zstd'],
    ['502a4d18', 'zstd'],
    ['5f2a4d18', 'zstd'],
    ['602a4d18', 'none'],
    ['28b52f', 'none'],
    ['7573746172', 'none'],
    ['', 'none'],
  ];
  for (const [head, compression] of rows) t.equal(compressionOf(Buffer.from(head, 'hex')), compression, head);
});
