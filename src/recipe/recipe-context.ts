import type { Session } from '../api/session.ts';
import type { Progress } from '../core/engine.ts';

/** What an image function needs beside its arguments. */
export type RecipeContext = {
  readonly signal: AbortSignal;
  /** Shows a line of what is being done to people. */
  note(line: string): void;
  readonly progress: Progress;
  /** Gives the engine that scripts run in; called only when one must run, and always with the same answer. The caller closes it. */
  session(): Promise<Session>;
};
