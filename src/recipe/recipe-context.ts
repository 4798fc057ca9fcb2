import type { Session } from '../api/session.ts';
import type { Progress } from '../core/engine.ts';
import { RootlayerError } from '../core/errors.ts';

/** What an image function needs beside its arguments. */
export type RecipeContext = {
  readonly signal: AbortSignal;
  /** Shows a line of what is being done to people. */
  note(line: string): void;
  readonly progress: Progress;
  /** Gives the engine that scripts run in; called only when one must run, and always with the same answer. The caller closes it. */
  session(): Promise<Session>;
};

/** Gives a context with what is left out filled in: nobody is shown anything, nothing is cancelled, and a script that must run fails with `E_UNREACHABLE`. */
export function recipeContext(own: Partial<RecipeContext> = {}): RecipeContext {
  return { signal: new AbortController().signal, note: () => {}, progress: () => {}, session: noSession, ...own };
}

async function noSession(): Promise<Session> {
  throw new RootlayerError('E_UNREACHABLE', 'Cannot run the script of a recipe: no engine was given, want "session" in the context', {
    hint: 'give connect(SOCKET), or an engine in this process: sessionOf(await openEngine(...), { uid: 0 })',
  });
}
