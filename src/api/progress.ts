import { setTimeout as sleep } from 'node:timers/promises';
import type { Progress } from '../core/engine.ts';

/** Shortest time between two lines of progress. */
const PROGRESS_INTERVAL_MS = 100;

type ProgressState = Parameters<Progress>[0];

/**
 * Runs work and gives its progress and then its result. Progress that nobody has taken yet is replaced by newer progress, so a slow reader never
 * makes a queue.
 */
export async function* withProgress<T>(
  work: (progress: Progress) => Promise<T>,
): AsyncGenerator<{ type: 'progress'; progress: ProgressState } | { type: 'result'; result: T }, void, undefined> {
  let latest: ProgressState | undefined;
  let wake = (): void => {};
  let isDone = false;
  const result = work((progress) => {
    latest = progress;
    wake();
  }).finally(() => {
    isDone = true;
    wake();
  });
  result.catch(() => {});
  while (!isDone) {
    if (latest === undefined) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
      continue;
    }
    const progress = latest;
    latest = undefined;
    yield { type: 'progress', progress };
    await Promise.race([result.catch(() => {}), sleep(PROGRESS_INTERVAL_MS)]);
  }
  yield { type: 'result', result: await result };
}
