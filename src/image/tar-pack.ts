import { PassThrough, type Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type Pack, pack as startPack } from 'tar-stream';

/** A file of an image archive: bytes in memory for documents, a stream of known size for blobs, and null for a directory. */
export type PackMember = {
  readonly name: string;
  readonly body: Buffer | null | { readonly sizeBytes: number; open(): Readable | Promise<Readable> };
};

/**
 * Gives a tar of the members in the order of their names, all owned by root and from 1970: the same members give the same bytes. One body is
 * open at a time. The stream fails with what a body fails with, and stops when it is destroyed or the signal aborts.
 */
export function packTar(members: readonly PackMember[], signal: AbortSignal): Readable {
  const pack = startPack();
  const output = new PassThrough({ highWaterMark: 1024 * 1024 });
  const written = writeAll(pack, [...members].sort(byName), signal);
  written.catch((error: unknown) => output.destroy(error instanceof Error ? error : new Error(String(error))));
  pipeline(pack, output, { signal }).catch((error: unknown) => pack.destroy(error instanceof Error ? error : new Error(String(error))));
  return output;
}

async function writeAll(pack: Pack, members: readonly PackMember[], signal: AbortSignal): Promise<void> {
  for (const { name, body } of members) {
    signal.throwIfAborted();
    if (body === null) await addWhole(pack, { name, type: 'directory', mode: 0o755 });
    else if (Buffer.isBuffer(body)) await addWhole(pack, { name, mode: 0o644, size: body.length }, body);
    else if (body.sizeBytes === 0) await addWhole(pack, { name, mode: 0o644, size: 0 }, Buffer.alloc(0));
    else await pipeline(await body.open(), pack.entry({ ...COMMON, name, mode: 0o644, size: body.sizeBytes }), { signal });
  }
  pack.finalize();
}

const COMMON = { mtime: new Date(0), uid: 0, gid: 0 };

/** An entry of size 0 would never end without a body. */
function addWhole(
  pack: Pack,
  header: { name: string; type?: 'directory'; mode: number; size?: number },
  body: Buffer = Buffer.alloc(0),
): Promise<void> {
  return new Promise((resolve, reject) => {
    pack.entry({ ...COMMON, ...header }, body, (error) => (error ? reject(error) : resolve()));
  });
}

function byName(a: PackMember, b: PackMember): number {
  return a.name < b.name ? -1 : 1;
}
