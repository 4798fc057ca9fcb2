import { TarReader } from '../../core/tar/reader.ts';
import { storePathOf } from './references.ts';

/** What may follow the store directory in a path. Source: Nix manual, "Store Path". */
const NAME = '[0-9A-Za-z+._?=-]+';

/** Longer than any store path: what is kept of one piece to be searched with the next. */
const OVERLAP = 512;

/** Finds the store paths that bytes mention, wherever they stand, as Nix finds the references of what it has built. */
export class MentionFinder {
  readonly #storeDir: string;
  readonly #pattern: RegExp;
  readonly #found = new Set<string>();
  #rest = '';

  constructor(storeDir: string) {
    this.#storeDir = storeDir;
    this.#pattern = new RegExp(`${storeDir.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')}/${NAME}`, 'g');
  }

  /** Mentions so far. One that a piece cut off may be among them with too short a name. */
  get found(): ReadonlySet<string> {
    return this.#found;
  }

  /** Searches a piece of something that goes on. */
  write(piece: Buffer): void {
    const text = this.#rest + piece.toString('latin1');
    for (const [match] of text.matchAll(this.#pattern)) this.#found.add(storePathOf(match, this.#storeDir) ?? match);
    this.#rest = text.slice(-OVERLAP);
  }

  /** What follows is something else. */
  cut(): void {
    this.#rest = '';
  }
}

/** Gives the store paths that the files and links of a tar mention. */
export async function mentionsIn(tar: AsyncIterable<Buffer>, storeDir: string): Promise<ReadonlySet<string>> {
  const finder = new MentionFinder(storeDir);
  const reader = new TarReader({
    entry: ({ linkName }) => {
      finder.cut();
      finder.write(linkName);
      finder.cut();
    },
    data: (piece) => finder.write(piece),
    entryEnd: () => finder.cut(),
  });
  for await (const chunk of tar) reader.write(chunk);
  reader.end();
  return finder.found;
}

/** Gives the store paths that a text mentions. */
export function mentionsInText(text: string, storeDir: string): ReadonlySet<string> {
  const finder = new MentionFinder(storeDir);
  finder.write(Buffer.from(text));
  return finder.found;
}
