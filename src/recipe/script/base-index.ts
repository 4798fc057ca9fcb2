import { TarReader } from '../../core/tar/reader.ts';
import type { BaseImage } from '../archive/base-archive.ts';
import { cleanPath } from './layer.ts';

/** What a path of a base image is. */
export type BaseNode = { readonly isDirectory: boolean; readonly mode: number; readonly isEmpty: boolean };

/** The names in the merged root of a base image: paths are latin1 text, without a first slash. */
export type BaseIndex = { has(path: string): boolean; get(path: string): BaseNode | undefined };

/**
 * Reads the headers of all layers, bottom to top, and applies whiteouts; once for each image. Throws what `TarReader` throws. Source: OCI image-spec
 * layer.md, "Whiteouts".
 */
export async function baseIndex(image: BaseImage, signal: AbortSignal): Promise<BaseIndex> {
  const found = known.get(image) ?? readIndex(image, signal);
  known.set(image, found);
  return await found;
}

const known = new WeakMap<BaseImage, Promise<BaseIndex>>();

async function readIndex(image: BaseImage, signal: AbortSignal): Promise<BaseIndex> {
  const merged = new Names();
  for (const layer of image.layers) {
    const changes = new LayerNames();
    const reader = new TarReader({
      entry: ({ name, type, mode }) => changes.add(name, type === 'directory', mode),
      data: () => {},
      entryEnd: () => {},
    });
    for await (const chunk of layer.open(signal) as AsyncIterable<Buffer>) reader.write(chunk);
    reader.end();
    changes.applyTo(merged);
  }
  return merged;
}

type Name = { isDirectory: boolean; mode: number; readonly children: Map<string, Name> };

class Names implements BaseIndex {
  readonly #root: Name = newName(true, 0o755);

  has(path: string): boolean {
    return this.#find(path) !== undefined;
  }

  get(path: string): BaseNode | undefined {
    const found = this.#find(path);
    return found === undefined ? undefined : { isDirectory: found.isDirectory, mode: found.mode, isEmpty: found.children.size === 0 };
  }

  put(path: string, isDirectory: boolean, mode: number): void {
    if (path === '') {
      this.#root.mode = mode;
      return;
    }
    const { parent, name } = this.#parentOf(path);
    const before = parent.children.get(name);
    if (before?.isDirectory && isDirectory) before.mode = mode;
    else parent.children.set(name, newName(isDirectory, mode));
  }

  remove(path: string): void {
    const slash = path.lastIndexOf('/');
    this.#find(path.slice(0, Math.max(slash, 0)))?.children.delete(path.slice(slash + 1));
  }

  empty(path: string): void {
    this.#find(path)?.children.clear();
  }

  #find(path: string): Name | undefined {
    if (path === '') return this.#root;
    let found: Name | undefined = this.#root;
    for (const part of path.split('/')) found = found?.children.get(part);
    return found;
  }

  /** Directories that the archive leaves out are made on the way. */
  #parentOf(path: string): { parent: Name; name: string } {
    const parts = path.split('/');
    const name = parts.pop() ?? '';
    let parent = this.#root;
    for (const part of parts) {
      const next = parent.children.get(part) ?? newName(true, 0o755);
      parent.children.set(part, next);
      parent = next;
    }
    return { parent, name };
  }
}

function newName(isDirectory: boolean, mode: number): Name {
  return { isDirectory, mode, children: new Map() };
}

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';

/** One layer's changes: its deletions are for what lies below it, wherever they stand in it. */
class LayerNames {
  readonly #added: { path: string; isDirectory: boolean; mode: number }[] = [];
  readonly #removed: string[] = [];
  readonly #emptied: string[] = [];

  add(memberName: Buffer, isDirectory: boolean, mode: number): void {
    const path = cleanPath(memberName).toString('latin1');
    const slash = path.lastIndexOf('/');
    const name = path.slice(slash + 1);
    if (name === OPAQUE) this.#emptied.push(path.slice(0, Math.max(slash, 0)));
    else if (name.startsWith(WHITEOUT)) this.#removed.push(path.slice(0, slash + 1) + name.slice(WHITEOUT.length));
    else this.#added.push({ path, isDirectory, mode });
  }

  applyTo(names: Names): void {
    for (const path of this.#emptied) names.empty(path);
    for (const path of this.#removed) names.remove(path);
    for (const { path, isDirectory, mode } of this.#added) names.put(path, isDirectory, mode);
  }
}
