import { StringDecoder } from 'node:string_decoder';
import { RootlayerError } from '../core/errors.ts';

export const NDJSON_TYPE = 'application/x-ndjson';

/** A line that holds a job's largest event or record by far. */
const MAX_LINE_CHARS = 64 * 1024 * 1024;

/** Reads newline-delimited JSON. A stream that ends within a line fails with `E_PROTOCOL`. */
export async function* parseLines(chunks: AsyncIterable<Buffer>): AsyncGenerator<unknown, void, undefined> {
  const decoder = new StringDecoder('utf8');
  let rest = '';
  for await (const chunk of chunks) {
    const lines = (rest + decoder.write(chunk)).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > MAX_LINE_CHARS) throw new RootlayerError('E_PROTOCOL', 'Cannot read answer: a line is too long');
    for (const line of lines) yield JSON.parse(line);
  }
  if (rest !== '') throw new RootlayerError('E_PROTOCOL', 'Cannot read answer: it ends within a line');
}
