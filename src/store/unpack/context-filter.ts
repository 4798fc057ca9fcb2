import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { TarEntry, TarHandler } from '../../core/tar/entry.ts';

const WHITEOUT = Buffer.from('.wh.');

/**
 * Hands on only the members below one top directory of an uploaded context, with that directory taken off their names and hard-link
 * targets. A context brings files and deletes none: whiteout names are refused (`E_ARCHIVE_WHITEOUT`).
 */
export class ContextFilter implements TarHandler {
  readonly #prefix: Buffer;
  readonly #next: TarHandler;
  #isPassing = false;

  constructor(top: string, next: TarHandler) {
    this.#prefix = Buffer.from(`${top}/`);
    this.#next = next;
  }

  entry(header: TarEntry): void {
    const name = this.#strip(header.name);
    this.#isPassing = name !== null;
    if (name === null) return;
    const trimmed = name[name.length - 1] === 0x2f ? name.subarray(0, -1) : name;
    if (
      trimmed
        .subarray(trimmed.lastIndexOf(0x2f) + 1, trimmed.length)
        .subarray(0, 4)
        .equals(WHITEOUT)
    ) {
      throw new RootlayerError('E_ARCHIVE_WHITEOUT', `Cannot copy "${escapeName(header.name)}": its name means deletion in a layer`);
    }
    const linkName = header.type === 'hardlink' ? this.#strip(header.linkName) : header.linkName;
    if (linkName === null)
      throw new RootlayerError('E_ARCHIVE_LINK', `Cannot copy "${escapeName(header.name)}": it links outside what is copied`);
    // What is copied belongs to root in the layer, whatever the client's tar says.
    this.#next.entry({ ...header, name, linkName, uid: 0, gid: 0 });
  }

  data(chunk: Buffer): void {
    if (this.#isPassing) this.#next.data(chunk);
  }

  entryEnd(): void {
    if (this.#isPassing) this.#next.entryEnd();
  }

  /** Null for the top directory itself and what is not below it. */
  #strip(name: Buffer): Buffer | null {
    const { length } = this.#prefix;
    return name.length > length && name.subarray(0, length).equals(this.#prefix) ? name.subarray(length) : null;
  }
}
