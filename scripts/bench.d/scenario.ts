import { Scope } from '../../src/core/scope.ts';

/** One measurement. CPU time is that of every process involved, user and system; null where the machine cannot tell. */
export type Sample = { value: number; cpuMs: number | null };

/** One way of doing a thing. */
export type Contender = { name: string; sample(): Promise<Sample> };

/** What a comparison must reach: at most this ratio to the peer, or at most this value. Source: the project's budgets. */
export type Target = { kind: 'ratio' | 'value'; atMost: number };

/** One row of the table. */
export type Comparison = { ours: Contender; peer: Contender | null; target: Target | null };

/** Contenders that do the same, on inputs that are ready. Closing it removes what only it needs. */
export type Scenario = {
  title: string;
  unit: 'ms' | 'MiB';
  comparisons: Comparison[];
  /** Short things want more rounds. */
  roundsFactor: number;
  close(): Promise<void>;
};

/** Makes a scenario of contenders that register in a scope what must be released: at its end, or now when one of them cannot be made. */
export async function openScenario(make: (scope: Scope) => Promise<Omit<Scenario, 'close'>>): Promise<Scenario> {
  const scope = new Scope();
  const close = async (): Promise<void> => await scope[Symbol.asyncDispose]();
  try {
    return { ...(await make(scope)), close };
  } catch (error) {
    await close();
    throw error;
  }
}
