import { type FinalResults, Parser, type Result } from 'tap-parser';

/** A test that failed: the names from the outermost test down to it, and what TAP says about it. */
export type Failure = { readonly name: string; readonly detail: string };

/** A test that did not run, and why. */
export type Skip = { readonly name: string; readonly reason: string };

/**
 * The tests of one TAP stream. A test is an innermost subtest, or an assertion outside of any subtest.
 * A subtest around others counts only when it fails by itself.
 */
export type Tally = { passed: number; readonly failures: Failure[]; readonly skips: Skip[] };

/** Gives an empty {@link Tally}. */
export function emptyTally(): Tally {
  return { passed: 0, failures: [], skips: [] };
}

/**
 * Reads TAP (version 13 or 14, the form of node-tap) chunk by chunk and counts its tests.
 * What breaks the protocol fails: a plan that is not met, a bail-out, a stream with no test and no reason for it.
 */
export class TapTally {
  readonly #tally = emptyTally();
  readonly #root: Subtest;

  constructor() {
    this.#root = new Subtest(new Parser(), [], this.#tally);
  }

  write(chunk: Buffer): void {
    this.#root.parser.write(chunk);
  }

  /** Ends the stream and gives the counts. */
  end(): Tally {
    this.#root.parser.end();
    this.#root.finish();
    return this.#tally;
  }
}

/** One level of the stream: its own assertions, and the subtests in it. */
class Subtest {
  readonly parser: Parser;
  readonly #path: readonly string[];
  readonly #tally: Tally;
  readonly #own: Result[] = [];
  #inner: Subtest | undefined;
  #innerCount = 0;
  #results: FinalResults | undefined;

  constructor(parser: Parser, path: readonly string[], tally: Tally) {
    this.parser = parser;
    this.#path = path;
    this.#tally = tally;
    parser.on('complete', (results: FinalResults) => {
      this.#results = results;
    });
    parser.on('child', (child: Parser) => {
      this.#inner = new Subtest(child, [...path, child.name], tally);
    });
    parser.on('assert', (point: Result) => this.#onPoint(point));
  }

  /** Ends the outermost level, whose assertions count one by one. */
  finish(): void {
    for (const point of this.#own) this.#count(point.name, point, [point]);
    const errors = findProtocolErrors(this.#results);
    if (errors.length > 0) this.#fail('the TAP stream', errors.join('\n'));
    else if (this.#own.length + this.#innerCount === 0) this.#finishEmpty();
  }

  #finishEmpty(): void {
    // NOTE: tap-parser makes up the plan "1..0 # no tests found" for a stream without one.
    const reason = this.parser.syntheticPlan ? '' : (this.#results?.plan.skipReason ?? '');
    if (reason === '') this.#fail('the TAP stream', 'no test ran');
    else this.#tally.skips.push({ name: 'all tests', reason });
  }

  #onPoint(point: Result): void {
    const inner = this.#inner;
    this.#inner = undefined;
    if (inner === undefined) this.#own.push(point);
    else {
      this.#innerCount += 1;
      inner.#close(point);
    }
  }

  /** Ends a subtest with the point that its parent gives it. */
  #close(point: Result): void {
    if (this.#innerCount === 0) this.#count(undefined, point, this.#own);
    else this.#closeAround(point);
  }

  #closeAround(point: Result): void {
    const bad = this.#own.filter((own) => !isFine(own));
    const explained = this.#tally.failures.some(({ name }) => name.startsWith(this.#name(undefined)));
    const broken = !isFine(point) || this.#results?.ok !== true;
    if (bad.length > 0 || (broken && !explained)) this.#fail(undefined, this.#explain(point, bad));
  }

  #count(name: string | undefined, point: Result, own: readonly Result[]): void {
    const bad = own.filter((one) => !isFine(one));
    const reason =
      skipReason(point) ?? (own.length > 0 && own.every((one) => skipReason(one) !== undefined) ? skipReason(own[0]) : undefined);
    if (!isFine(point) || (name === undefined && this.#results?.ok !== true)) this.#fail(name, this.#explain(point, bad));
    else if (reason !== undefined) this.#tally.skips.push({ name: this.#name(name), reason });
    else this.#tally.passed += 1;
  }

  /** The assertions that failed say more than the point that sums them up. */
  #explain(point: Result, bad: readonly Result[]): string {
    const errors = findProtocolErrors(this.#results);
    return [explainPoints(bad.length > 0 ? bad : [point]), ...errors].filter(Boolean).join('\n');
  }

  #fail(name: string | undefined, detail: string): void {
    this.#tally.failures.push({ name: this.#name(name), detail });
  }

  #name(last: string | undefined): string {
    return (last === undefined ? this.#path : [...this.#path, last]).join(' > ');
  }
}

/** A skipped point, and one that is known not to work yet, is no failure (TAP 14, directives). */
function isFine(point: Result): boolean {
  return (point.ok || Boolean(point.todo) || Boolean(point.skip)) && point.tapError === null;
}

function skipReason(point: Result | undefined): string | undefined {
  const directive = point?.skip || point?.todo;
  if (directive === undefined || directive === false) return undefined;
  return directive === true ? 'no reason given' : directive;
}

function explainPoints(points: readonly Result[]): string {
  return points.map((point) => [point.name, point.tapError, explainDiagnostics(point.diag)].filter(Boolean).join('\n')).join('\n');
}

function explainDiagnostics(diagnostics: unknown): string {
  if (typeof diagnostics !== 'object' || diagnostics === null) return '';
  return Object.entries(diagnostics)
    .filter(([key]) => key !== 'source' && key !== 'at' && key !== 'output')
    .map(([key, value]) => `${key}: ${typeof value === 'string' ? value : JSON.stringify(value, showBuffer)}`)
    .join('\n');
}

/** Output of a child program comes as a Buffer in JSON form: numbers that nobody can read. */
function showBuffer(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || !('type' in value) || value.type !== 'Buffer' || !('data' in value)) return value;
  return Array.isArray(value.data) ? Buffer.from(value.data).toString('utf8') : value;
}

/** A bail-out, a plan that is not met, and the like; a point that failed is none. */
function findProtocolErrors(results: FinalResults | undefined): string[] {
  if (results === undefined) return ['it did not end'];
  if (results.bailout) return [`bail out: ${results.bailout === true ? 'no reason given' : results.bailout}`];
  return results.failures.filter((failure) => !('ok' in failure)).map((failure) => failure.tapError ?? 'unknown error');
}
