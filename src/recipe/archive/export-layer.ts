import type { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { Scope } from '../../core/scope.ts';
import type { TarEntry, TarHandler } from '../../core/tar/entry.ts';
import { TarReader } from '../../core/tar/reader.ts';
import { type EntryPath, isWhiteoutName, parseEntryPath, pathError } from '../../store/unpack/entry-path.ts';
import { type DirectoryNode, joined, PLAIN_DIRECTORY, Tree, type TreeNode } from '../tree/tree.ts';
import type { BaseLayer } from './base-archive.ts';
import { resolveParent } from './export-parent.ts';
import { Spool } from './spool.ts';

/** What a layer does to those below it. */
export type LayerChanges = {
  /** What it brings; {@link IMPLIED} where it does not list a directory itself. */
  readonly tree: Tree;
  /** Paths that it deletes, and directories of which it hides what was in them. Both speak of lower layers only. */
  readonly deleted: readonly Buffer[];
  readonly opaque: readonly Buffer[];
};

/** A directory that a layer needs and does not list: the lower one stays as it is. */
export const IMPLIED: DirectoryNode = { ...PLAIN_DIRECTORY };

/**
 * Reads a layer to its end, which checks its diffID, and keeps what it says of its files; their bytes stay where they are, or go to a file of the scope
 * when the layer is compressed. `lower` is what the layers below make together: hard links may lead there. Throws `E_DIGEST`, `E_ARCHIVE_LINK`,
 * `E_ARCHIVE_PATH`, `E_ARCHIVE_WHITEOUT` and what {@link TarReader} throws. Source: OCI image-spec layer.md.
 */
export async function readLayer(layer: BaseLayer, lower: Tree, scope: Scope, signal: AbortSignal): Promise<LayerChanges> {
  const { openRange, append } = randomAccess(layer, scope);
  const handler = new LayerHandler(lower, openRange);
  const reader = new TarReader(handler);
  for await (const chunk of layer.open(signal) as AsyncIterable<Buffer>) {
    await append(chunk);
    handler.begin(chunk);
    reader.write(chunk);
  }
  reader.end();
  return handler;
}

type OpenRange = NonNullable<BaseLayer['openRange']>;

function randomAccess(layer: BaseLayer, scope: Scope): { openRange: OpenRange; append(chunk: Buffer): Promise<void> } {
  if (layer.openRange !== null) return { openRange: layer.openRange, append: async () => {} };
  const spool = scope.use(new Spool(layer.name));
  return { openRange: (start, sizeBytes, signal) => spool.openRange(start, sizeBytes, signal), append: (chunk) => spool.append(chunk) };
}

const PREFIX_BYTES = '.wh.'.length;
const OPAQUE = '.wh..wh..opq';
/** Bookkeeping of aufs. Source: aufs(5), "Whiteout". */
const AUFS = /^\.wh\.\.wh\.(?:aufs|orph|plnk)(?:\/|$)/;

class LayerHandler implements TarHandler, LayerChanges {
  readonly tree = new Tree(IMPLIED);
  readonly deleted: Buffer[] = [];
  readonly opaque: Buffer[] = [];
  readonly #lower: Tree;
  readonly #openRange: OpenRange;
  #chunk: Buffer = Buffer.alloc(0);
  /** Offset in the tar of the chunk that is being read. */
  #chunkAt = 0;
  #file: { readonly entry: TarEntry; readonly path: EntryPath; bodyAt: number | null } | null = null;

  constructor(lower: Tree, openRange: OpenRange) {
    this.#lower = lower;
    this.#openRange = openRange;
  }

  /** Says which chunk comes next: bodies are views of it. */
  begin(chunk: Buffer): void {
    this.#chunkAt += this.#chunk.length;
    this.#chunk = chunk;
  }

  entry(entry: TarEntry): void {
    const path = parseEntryPath(entry.name);
    if (path.hasWhiteoutParent || isWhiteoutName(path.name)) this.#whiteout(entry, path);
    else if (entry.type === 'file') this.#file = { entry, path, bodyAt: null };
    else this.#insert(entry, path, entry.type === 'hardlink' ? this.#linked(entry) : nodeOf(entry, entry.type));
  }

  data(chunk: Buffer): void {
    if (this.#file !== null) this.#file.bodyAt ??= this.#chunkAt + chunk.byteOffset - this.#chunk.byteOffset;
  }

  entryEnd(): void {
    if (this.#file === null) return;
    const { entry, path, bodyAt } = this.#file;
    this.#file = null;
    const { size } = entry;
    const open = (signal: AbortSignal): AsyncIterable<Buffer> => this.#openRange(bodyAt ?? 0, size, signal);
    this.#insert(entry, path, { ...attributesOf(entry), type: 'file', size, source: { kind: 'stream', open } });
  }

  #insert(entry: TarEntry, path: EntryPath, node: TreeNode): void {
    if (path.name.length === 0) {
      if (node.type !== 'directory') throw pathError('E_ARCHIVE_PATH', entry.name, `it is the root as a ${entry.type}, want a directory`);
      this.tree.insert(path.name, node);
      return;
    }
    const at = joined(resolveParent(this.tree, path.parent, IMPLIED, entry.name), path.name);
    if (node.type !== 'directory' && this.tree.names(at).length > 0) {
      throw pathError('E_ARCHIVE_PATH', entry.name, `a ${entry.type} takes the place of a directory that has entries`);
    }
    this.tree.insert(at, node);
  }

  /** Docker's layers may link to a file of a lower one. */
  #linked(entry: TarEntry): TreeNode {
    const { parent, name } = parseEntryPath(entry.linkName, 'E_ARCHIVE_LINK', entry.name);
    const target = joined(parent, name);
    const found = this.tree.lookup(target) ?? this.#lower.lookup(target);
    if (found !== undefined && found.type !== 'directory') return found;
    const why = found === undefined ? 'is not there' : 'is a directory';
    throw pathError('E_ARCHIVE_LINK', entry.name, `its target "${escapeName(entry.linkName)}" ${why}, want a file that came before it`);
  }

  #whiteout(entry: TarEntry, path: EntryPath): void {
    const whole = joined(path.parent, path.name).toString('latin1');
    if (AUFS.test(whole)) return;
    const refuse = (why: string): RootlayerError => pathError('E_ARCHIVE_WHITEOUT', entry.name, why);
    if (path.hasWhiteoutParent) throw refuse('it lies below a whiteout');
    if ((entry.type !== 'file' && entry.type !== 'hardlink') || entry.size > 0)
      throw refuse('it is a whiteout with content, want an empty file');
    const parent = resolveParent(this.tree, path.parent, IMPLIED, entry.name);
    const name = path.name.subarray(PREFIX_BYTES);
    if (path.name.toString('latin1') === OPAQUE) this.opaque.push(parent);
    else if (/^\.{0,2}$|^\.wh\./.test(name.toString('latin1'))) throw refuse('its name stands for no file');
    else this.deleted.push(joined(parent, name));
  }
}

function nodeOf(entry: TarEntry, type: 'directory' | 'symlink' | 'char' | 'block' | 'fifo'): TreeNode {
  const attributes = attributesOf(entry);
  if (type === 'symlink') return { ...attributes, type, mode: 0o777, target: entry.linkName };
  if (type === 'char' || type === 'block') return { ...attributes, type, major: entry.devMajor, minor: entry.devMinor };
  return { ...attributes, type };
}

function attributesOf({ mode, uid, gid, mtimeSec, xattrs }: TarEntry): Pick<TarEntry, 'mode' | 'uid' | 'gid' | 'mtimeSec' | 'xattrs'> {
  return { mode, uid, gid, mtimeSec, xattrs };
}
