import process from 'node:process';
import { sendDatagram } from './libc.ts';

/** The address and the rhythm that systemd has given this process. */
export type Notifier = {
  /** Tells systemd the state, such as `READY=1`; without a notification socket nothing is sent. */
  notify(...states: string[]): void;
  /** How often `WATCHDOG=1` is wanted: half of systemd's patience; null without a watchdog. */
  watchdogMs: number | null;
};

/**
 * Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID and takes them out of the environment, so that no child speaks for us. Source:
 * sd_notify(3), sd_watchdog_enabled(3).
 */
export function takeNotifier(env: NodeJS.ProcessEnv = process.env, pid = process.pid): Notifier {
  const { NOTIFY_SOCKET: socket = '', WATCHDOG_USEC: usec = '', WATCHDOG_PID: forPid = String(pid) } = env;
  for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete env[name];
  const address = addressOf(socket);
  const isWatched = address !== null && forPid === String(pid) && /^[1-9]\d*$/.test(usec);
  return {
    notify: (...states) => {
      if (address !== null) sendDatagram(address, Buffer.from(states.join('\n')));
    },
    watchdogMs: isWatched ? Number(usec) / 2000 : null,
  };
}

/** A path, or an abstract name written with `@` for its leading NUL byte. */
function addressOf(socket: string): Buffer | null {
  if (socket.startsWith('@')) return Buffer.from(`\0${socket.slice(1)}`);
  return socket.startsWith('/') ? Buffer.from(socket) : null;
}
