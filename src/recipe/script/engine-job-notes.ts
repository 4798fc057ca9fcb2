import { StringDecoder } from 'node:string_decoder';

/** A line without an end is shown in pieces of this many characters. */
const MAX_LINE = 8192;

/** Cuts what a script prints into lines, each stream on its own. */
export class LineNotes {
  readonly #note: (line: string) => void;
  readonly #streams = {
    stdout: { decoder: new StringDecoder('utf8'), rest: '' },
    stderr: { decoder: new StringDecoder('utf8'), rest: '' },
  };

  constructor(note: (line: string) => void) {
    this.#note = note;
  }

  add(name: 'stdout' | 'stderr', bytes: Buffer): void {
    const stream = this.#streams[name];
    const lines = (stream.rest + stream.decoder.write(bytes)).split('\n');
    stream.rest = lines.pop() ?? '';
    for (const line of lines) this.#note(line);
    for (; stream.rest.length > MAX_LINE; stream.rest = stream.rest.slice(MAX_LINE)) this.#note(stream.rest.slice(0, MAX_LINE));
  }

  /** Shows what came without an end of line. */
  end(): void {
    for (const stream of Object.values(this.#streams)) {
      const rest = stream.rest + stream.decoder.end();
      stream.rest = '';
      if (rest !== '') this.#note(rest);
    }
  }
}
