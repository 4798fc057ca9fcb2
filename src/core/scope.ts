/**
 * Holds what must be released, in the order in which it was taken, and releases it in reverse. Stands in for
 * `AsyncDisposableStack`, which Node 20 lacks. When several releases fail, the first error is thrown at the end.
 */
export class Scope implements AsyncDisposable {
  readonly #releases: (() => void | Promise<void>)[] = [];

  /** Takes over a resource and gives it back for use. */
  use<T extends AsyncDisposable>(resource: T): T {
    this.#releases.push(async () => await resource[Symbol.asyncDispose]());
    return resource;
  }

  /** Registers a release of its own. */
  defer(release: () => void | Promise<void>): void {
    this.#releases.push(release);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const errors: unknown[] = [];
    for (let release = this.#releases.pop(); release !== undefined; release = this.#releases.pop()) {
      try {
        await release();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  }
}
