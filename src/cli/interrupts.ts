import process from 'node:process';
import { EXIT_CANCELLED } from './exit-status.ts';

/** What SIGINT, SIGTERM and SIGHUP do while a command works. */
export type Interrupts = {
  /** Aborts at the first signal. */
  signal: AbortSignal;
  /** Gives the signals back what they do by default. */
  stop(): void;
};

/** The first signal asks the command to end in order, the second ends the process at once. */
export function listenForInterrupts(onFirst: () => void = () => {}): Interrupts {
  const controller = new AbortController();
  const onSignal = (): void => {
    if (controller.signal.aborted) process.exit(EXIT_CANCELLED);
    controller.abort();
    onFirst();
  };
  const names = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const name of names) process.on(name, onSignal);
  return {
    signal: controller.signal,
    stop: () => {
      for (const name of names) process.off(name, onSignal);
    },
  };
}
