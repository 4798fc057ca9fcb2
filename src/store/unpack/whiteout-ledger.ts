import { RootlayerError } from '../../core/errors.ts';
import { isNoDirectory, type StagingDirs } from './staging-dirs.ts';

/** Keeps the list below what one message of a worker can carry. */
const MAX_BYTES = 16 * 1024 * 1024;

/**
 * Remembers what a layer hides and cannot say by a whiteout node alone, so that the order of members makes no difference: OCI's
 * layer.md says that whiteouts act on lower layers only. A whiteout whose name the same layer also brings needs no node when the name
 * ends as a file; when it ends as a directory, that directory has to be opaque, or the entries of the lower one would shine through.
 */
export class WhiteoutLedger {
  readonly #paths = new Set<string>();
  #bytes = 0;

  /** Notes a whiteout of a path (latin1, without symlinks) that the layer itself fills. */
  cover(path: string): void {
    this.#add(path);
  }

  /** Notes an opaque whiteout in a directory. */
  addOpaque(path: string): void {
    this.#add(path);
  }

  /** The directories that hide what lower layers have in them, sorted by the bytes of their paths; the root's is empty. */
  opaqueDirectories(dirs: StagingDirs): Buffer[] {
    const paths = [...this.#paths].sort().map((path) => Buffer.from(path, 'latin1'));
    return paths.filter((path) => isDirectory(dirs, path));
  }

  #add(path: string): void {
    if (this.#paths.has(path)) return;
    this.#bytes += path.length + 8;
    if (this.#bytes > MAX_BYTES) {
      throw new RootlayerError('E_LIMIT_ENTRIES', `Cannot unpack layer: the paths it makes opaque have more than ${MAX_BYTES} bytes`);
    }
    this.#paths.add(path);
  }
}

function isDirectory(dirs: StagingDirs, path: Buffer): boolean {
  try {
    dirs.at(path);
    return true;
  } catch (error) {
    if (isNoDirectory(error)) return false;
    throw error;
  }
}
