import { deferred } from './deferred.ts';

/** Resolves when somebody else's work has ended, well or not, or when the signal is aborted: whoever waits then looks for itself. */
export async function settledOrAborted(work: Promise<unknown>, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = deferred<void>();
  const wake = (): void => resolve();
  signal.addEventListener('abort', wake, { once: true });
  work.then(wake, wake);
  if (signal.aborted) wake();
  await promise;
  signal.removeEventListener('abort', wake);
}
