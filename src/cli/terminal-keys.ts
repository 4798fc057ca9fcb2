const CTRL_P = 0x10;
const CTRL_Q = 0x11;

/** Finds ctrl-p ctrl-q in what is typed. A ctrl-p is held back until the next key tells whether it is half of the two. */
export class DetachKeys {
  #isHeld = false;

  /** Gives what is to be passed on; nothing behind the two keys counts any more. */
  push(typed: Buffer): { bytes: Buffer; isDetach: boolean } {
    const bytes: number[] = [];
    for (const byte of typed) {
      if (this.#isHeld && byte === CTRL_Q) return { bytes: Buffer.from(bytes), isDetach: true };
      if (this.#isHeld) bytes.push(CTRL_P);
      this.#isHeld = byte === CTRL_P;
      if (!this.#isHeld) bytes.push(byte);
    }
    return { bytes: Buffer.from(bytes), isDetach: false };
  }
}
