import { setTimeout as sleep } from 'node:timers/promises';

const LIMIT_MS = 60_000;

/** Waits until something holds, asking every few milliseconds. Throws after a minute, naming what it waited for. */
export async function until(what: string, holds: () => boolean, stepMs = 5): Promise<void> {
  const deadline = performance.now() + LIMIT_MS;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`Cannot go on: waited ${LIMIT_MS} ms for ${what}`);
    await sleep(stepMs);
  }
}
