import { readFileSync, readSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { type DiffId, type Digest, hexOf } from '../core/digest.ts';
import { BLOCK_BYTES } from '../erofs/format.ts';
import { imageBytes } from '../erofs/superblock.ts';
import { close, O_CREAT, O_EXCL, O_RDWR, openAt, statFd } from '../host/libc.ts';
import { type StateLayout, sealFile, type WorkDir } from './layout.ts';

const IMAGE = '.erofs';
/** Beside the image of a flattened chain: the layers in it, a line each. */
const LIST = '.layers';
const LIST_TEXT = /^(?:[0-9a-f]{64}\n)+$/;

/**
 * Layers as disk images, `disks/<hex of the diffID>.erofs`, and chains of layers in one image, named by their chainID. They can be made again at any time: what
 * is here is whole and on disk, and goes with the first layer of it that goes.
 */
export class DiskFiles {
  readonly #layout: StateLayout;
  /** Layers of each chain that is here, in hex. */
  readonly #chains = new Map<string, readonly string[]>();

  constructor(layout: StateLayout) {
    this.#layout = layout;
  }

  /** A descriptor of an image for reading, which the caller closes; null when there is none, or one that is damaged: it is deleted, to be made anew. */
  tryOpen(id: Digest): number | null {
    const fd = this.#layout.tryOpenDisk(hexOf(id) + IMAGE);
    if (fd === null || isWhole(fd)) return fd;
    close(fd);
    this.#remove(hexOf(id));
    return null;
  }

  /**
   * Makes an image: `write` fills an empty file and gives its size. The caller holds leases on all of the layers. Throws what `write` throws: then nothing has
   * changed.
   */
  async add(id: Digest, layers: readonly DiffId[], write: (fd: number) => Promise<number>): Promise<void> {
    const work = this.#layout.makeWork(0, 0o700);
    try {
      const fd = openAt(work.fd, IMAGE, O_RDWR | O_CREAT | O_EXCL, 0o600);
      let sizeBytes: number;
      try {
        sizeBytes = await write(fd);
      } finally {
        close(fd);
      }
      await sealFile(work.fd, IMAGE, sizeBytes);
      if (layers.length > 1) await this.#placeList(work, hexOf(id), layers.map(hexOf));
      this.#layout.placeDisk(work, IMAGE, hexOf(id) + IMAGE);
    } finally {
      await this.#layout.dropWork(work);
    }
  }

  /** The list is there before the image, so that no image is without one. */
  async #placeList(work: WorkDir, chain: string, layers: readonly string[]): Promise<void> {
    const text = layers.map((layer) => `${layer}\n`).join('');
    writeFileSync(path.join(work.path, LIST), text, { flag: 'wx', mode: 0o600 });
    await sealFile(work.fd, LIST, text.length);
    this.#layout.placeDisk(work, LIST, chain + LIST);
    this.#chains.set(chain, layers);
  }

  /** Deletes the images that a layer is in; nothing happens when there are none. */
  removeWith(layer: Digest): void {
    const hex = hexOf(layer);
    this.#remove(hex);
    for (const [chain, layers] of this.#chains) if (layers.includes(hex)) this.#remove(chain);
  }

  /** Deletes an image, and the list of a chain. */
  #remove(name: string): void {
    this.#layout.removeDisk(name + IMAGE);
    this.#layout.removeDisk(name + LIST);
    this.#chains.delete(name);
  }

  /** Deletes what is no image of layers that are listed (in hex). Gives how many files there were. */
  recover(listed: ReadonlySet<string>): number {
    const names = new Set(this.#layout.list('disks'));
    const before = names.size;
    for (const name of names) {
      const [stem, suffix] = [path.parse(name).name, path.extname(name)];
      const layers = suffix === LIST || (suffix === IMAGE && names.has(stem + LIST)) ? this.#readList(stem) : [stem];
      const isWhole = names.has(stem + IMAGE) && (suffix === LIST || suffix === IMAGE);
      if (isWhole && layers.length > 0 && layers.every((layer) => listed.has(layer))) {
        if (suffix === LIST) this.#chains.set(stem, layers);
      } else {
        this.#layout.removeDisk(name);
      }
    }
    return before - this.#layout.list('disks').length;
  }

  /** Empty for what is no list of ours. */
  #readList(chain: string): string[] {
    const fd = this.#layout.tryOpenDisk(chain + LIST);
    if (fd === null) return [];
    try {
      const text = readFileSync(fd, 'latin1');
      return LIST_TEXT.test(text) ? text.split('\n').slice(0, -1) : [];
    } finally {
      close(fd);
    }
  }
}

/** Whether a file has the size that its superblock tells: what was cut, emptied or overwritten at its beginning is told, other damage is not looked for. */
function isWhole(fd: number): boolean {
  const block = Buffer.alloc(BLOCK_BYTES);
  try {
    return readSync(fd, block, 0, BLOCK_BYTES, 0) === BLOCK_BYTES && imageBytes(block) === statFd(fd).size;
  } catch {
    return false; // a medium that fails; another place may do
  }
}
