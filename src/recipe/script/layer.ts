import type { Readable } from 'node:stream';
import { assertNever } from '../../core/assert-never.ts';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { TarEntry } from '../../core/tar/entry.ts';
import { TarReader } from '../../core/tar/reader.ts';
import { Spool } from '../archive/spool.ts';
import { LayerMeter, type LayerTar } from '../tree/pack-stream.ts';
import { PLAIN_DIRECTORY, Tree, type TreeNode } from '../tree/tree.ts';

/** A layer that lies in a file without a name: as a tree, and as the tar that it came as. Dispose it to free the file; the tree's bytes go with it. */
export interface SpooledLayer extends AsyncDisposable {
  readonly tree: Tree;
  readonly tar: LayerTar;
}

/**
 * Takes a layer's tar to a file and looks at what is in it. Whiteouts are plain files of the tree; members of one name: the last one counts. Throws
 * `E_ARCHIVE_LINK` for a hard link to nothing, and what {@link TarReader} and {@link Tree.insert} throw.
 */
export async function spoolLayer(tar: Readable, signal: AbortSignal): Promise<SpooledLayer> {
  const spool = new Spool('layer');
  try {
    const builder = new TreeBuilder(spool);
    const meter = new LayerMeter();
    for await (const chunk of meter.pass(tar as AsyncIterable<Buffer>)) {
      signal.throwIfAborted();
      builder.write(chunk);
      await spool.append(chunk);
    }
    const facts = meter.facts();
    return {
      tree: builder.tree,
      tar: { ...facts, open: (use) => spool.openRange(0, facts.sizeBytes, use) },
      [Symbol.asyncDispose]: async () => await spool[Symbol.asyncDispose](),
    };
  } catch (error) {
    await spool[Symbol.asyncDispose]();
    throw error;
  } finally {
    tar.destroy();
  }
}

/** Puts members into a tree as they come, their bodies as ranges of the file that they are written to. */
class TreeBuilder {
  readonly tree = new Tree();
  readonly #spool: Spool;
  readonly #reader: TarReader;

  constructor(spool: Spool) {
    this.#spool = spool;
    this.#reader = new TarReader({ entry: (entry) => this.#add(entry), data: () => {}, entryEnd: () => {} });
  }

  write(chunk: Buffer): void {
    this.#reader.write(chunk);
  }

  #add(entry: TarEntry): void {
    const path = cleanPath(entry.name);
    const node = entry.type === 'hardlink' ? this.#linked(entry) : this.#nodeOf(entry);
    this.tree.insertParents(path, PLAIN_DIRECTORY);
    this.tree.insert(path, node);
  }

  /** The same node once more: that is what a hard link is. */
  #linked(entry: TarEntry): TreeNode {
    const node = this.tree.lookup(cleanPath(entry.linkName));
    if (node !== undefined && node.type !== 'directory') return node;
    throw new RootlayerError(
      'E_ARCHIVE_LINK',
      `Cannot read member "${escapeName(entry.name)}": it is a hard link to "${escapeName(entry.linkName)}", want a file that came before`,
    );
  }

  #nodeOf(entry: TarEntry): TreeNode {
    const { mode, uid, gid, mtimeSec, xattrs, size, devMajor: major, devMinor: minor } = entry;
    const common = { mode, uid, gid, mtimeSec, ...(xattrs.length === 0 ? {} : { xattrs }) };
    switch (entry.type) {
      case 'file':
      case 'hardlink':
        return { ...common, type: 'file', size, source: this.#range(size) };
      case 'symlink':
        return { ...common, type: 'symlink', target: entry.linkName };
      case 'char':
      case 'block':
        return { ...common, type: entry.type, major, minor };
      case 'directory':
      case 'fifo':
        return { ...common, type: entry.type };
      default:
        return assertNever(entry.type);
    }
  }

  #range(size: number): { kind: 'stream'; open(signal: AbortSignal): AsyncIterable<Buffer> } {
    const start = this.#reader.bodyAt;
    return { kind: 'stream', open: (signal) => this.#spool.openRange(start, size, signal) };
  }
}

/** Gives a member's name as a path of a tree. Throws `E_ARCHIVE_PATH` for one with `..` in it. */
export function cleanPath(name: Buffer): Buffer {
  const parts = name
    .toString('latin1')
    .split('/')
    .filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) {
    throw new RootlayerError('E_ARCHIVE_PATH', `Cannot read member "${escapeName(name)}": it has ".." in its name`);
  }
  return Buffer.from(parts.join('/'), 'latin1');
}
