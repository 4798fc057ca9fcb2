/** Measures the stages of a job, for its record: whole names, milliseconds with one digit. */
export class Stages {
  readonly timingsMs: Record<string, number> = {};
  #name = 'prepare';
  #start = performance.now();

  /** Ends the present stage and begins the next. */
  next(name: string): void {
    const now = performance.now();
    this.timingsMs[this.#name] = Math.round((now - this.#start) * 10) / 10;
    this.#name = name;
    this.#start = now;
  }
}
