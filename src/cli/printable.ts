import { StringDecoder } from 'node:string_decoder';

/**
 * Control characters but line feed, tab and carriage return, and the marks that turn the direction of text: what lets output move a terminal's
 * cursor, set its title, write its clipboard or show other text than there is.
 */
const UNSAFE = /[\p{Cc}\p{Bidi_Control}]/gu;
const SAFE_CONTROLS = new Set(['\n', '\t', '\r']);

/** Gives the text with each character that could command a terminal replaced by U+FFFD. */
export function printable(text: string): string {
  return text.replace(UNSAFE, (char) => (SAFE_CONTROLS.has(char) ? char : '\ufffd'));
}

/** Like {@link printable}, for bytes that come in pieces: a character cut in two is put together first. */
export class PrintableStream {
  readonly #decoder = new StringDecoder('utf8');

  write(chunk: Buffer): string {
    return printable(this.#decoder.write(chunk));
  }

  end(): string {
    return printable(this.#decoder.end());
  }
}
