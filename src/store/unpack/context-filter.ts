import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { TarEntry, TarHandler } from '../../core/tar/entry.ts';

/** The top directories of a context: what is copied as root's, what is copied as it is, what is shown to the script. */
export const contextTops = ['copy', 'exact', 'files'] as const;

/** See {@link contextTops}. */
export type ContextTop = (typeof contextTops)[number];

const PREFIXES: Readonly<Record<ContextTop, Buffer>> = {
  copy: Buffer.from('copy/'),
  exact: Buffer.from('exact/'),
  files: Buffer.from('files/'),
};

const WHITEOUT = Buffer.from('.wh.');

/**
 * Hands on only the members below one top directory of an uploaded context, with that directory taken off their names and hard-link
 * targets. A context brings files and deletes none: whiteout names are refused (`E_ARCHIVE_WHITEOUT`). What is below `exact` keeps its
 * owners, and may have no device, not even one that would be left out (`E_ARCHIVE_DEVICE`).
 */
export class ContextFilter implements TarHandler {
  /** Top directories that have had members. */
  readonly tops = new Set<ContextTop>();
  readonly #isExact: boolean;
  readonly #prefix: Buffer;
  readonly #next: TarHandler;
  #isPassing = false;

  constructor(top: ContextTop, next: TarHandler) {
    this.#isExact = top === 'exact';
    this.#prefix = PREFIXES[top];
    this.#next = next;
  }

  entry(header: TarEntry): void {
    this.#noteTop(header.name);
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
    if (this.#isExact && (header.type === 'char' || header.type === 'block')) {
      throw new RootlayerError('E_ARCHIVE_DEVICE', `Cannot copy "${escapeName(header.name)}": it is a device`);
    }
    // What is copied belongs to root in the layer, whatever the client's tar says.
    this.#next.entry(this.#isExact ? { ...header, name, linkName } : { ...header, name, linkName, uid: 0, gid: 0 });
  }

  data(chunk: Buffer): void {
    if (this.#isPassing) this.#next.data(chunk);
  }

  entryEnd(): void {
    if (this.#isPassing) this.#next.entryEnd();
  }

  #noteTop(name: Buffer): void {
    const top = contextTops.find((each) => isBelow(name, PREFIXES[each]));
    if (top !== undefined) this.tops.add(top);
  }

  /** Null for the top directory itself and what is not below it. */
  #strip(name: Buffer): Buffer | null {
    return isBelow(name, this.#prefix) ? name.subarray(this.#prefix.length) : null;
  }
}

function isBelow(name: Buffer, prefix: Buffer): boolean {
  return name.length > prefix.length && name.subarray(0, prefix.length).equals(prefix);
}
