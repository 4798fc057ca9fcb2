import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { TarReader } from '../../core/tar/reader.ts';
import { openOuterArchive } from '../archive/outer.ts';
import { cleanPath } from '../script/layer.ts';
import { resolved } from '../tree/contents-link.ts';
import type { Tree } from '../tree/tree.ts';
import { outerTree } from './seed-outer.ts';

/**
 * Tells of an absolute path, as latin1, whether the seed counts it as present in the base or the layer: it lists the members of every `<name>/layer.tar` of
 * the base's archive, deletions or not, with a shell that breaks names at blanks and quotes.
 */
export async function seedBaseFiles(layer: Tree, fromImage: string | null, signal: AbortSignal): Promise<(name: string) => boolean> {
  const found = new Set<string>();
  for (const { path } of layer.entries()) addName(found, path);
  if (fromImage !== null) await addBaseFiles(found, fromImage, signal);
  return (name) => found.has(name);
}

async function addBaseFiles(found: Set<string>, fromImage: string, signal: AbortSignal): Promise<void> {
  await using outer = await openOuterArchive(fromImage, signal);
  const tree = outerTree(outer);
  for (const directory of tree.names(Buffer.alloc(0))) {
    const at = resolved(tree, Buffer.concat([directory, Buffer.from('/layer.tar')]));
    const node = at === null ? undefined : tree.lookup(at);
    if (node?.type !== 'file' || node.source.kind !== 'stream') continue;
    const reader = new TarReader({ entry: ({ name }) => addName(found, cleanPath(name)), data: () => {}, entryEnd: () => {} });
    await pipeline(Readable.from(node.source.open(signal)), async (chunks: AsyncIterable<Buffer>) => {
      for await (const chunk of chunks) reader.write(chunk);
    });
    reader.end();
  }
}

/** What `tar -t` escapes, xargs takes apart or the shell splits comes out as another name. */
const BROKEN = /[^\x21-\x7e]|["'\\]/;

function addName(found: Set<string>, path: Buffer): void {
  const name = path.toString('latin1');
  if (name !== '' && !BROKEN.test(name)) found.add(`/${name}`);
}
