import { Command } from 'commander';
import type { RootlayerError } from '../../core/errors.ts';
import { EXIT_FAILURE } from '../exit-status.ts';
import type { Outcome } from '../program.ts';
import { DEFAULT_SOCKET, DEFAULT_STATE_DIR } from '../session.ts';

/** The options of `daemon` as the command line has them. */
export type DaemonOptions = {
  socket: string;
  group?: string;
  stateDir: string;
  maxJobs?: string;
  maxJobsPerUser?: string;
  maxQueued?: string;
  maxQueuedPerUser?: string;
  maxConnections?: string;
  maxConnectionsPerUser?: string;
  allowChroot: string[];
  allowNetwork: string[];
  vmEmulation: string;
  allowDegraded?: boolean;
  drain: string;
  logLevel: string;
};

/** Another daemon is there: EX_TEMPFAIL of sysexits.h(3head). */
const EXIT_ALREADY_RUNNING = 75;

const collect = (value: string, previous: string[]): string[] => [...previous, value];

export function daemonCommand(outcome: Outcome): Command {
  return new Command('daemon')
    .option('--socket <path>', 'where to listen, unless systemd passes a socket', DEFAULT_SOCKET)
    .option('--group <group>', 'name or id of the group that may use the socket (default: only root may)')
    .option('--state-dir <dir>', 'where images, layers and jobs are kept', DEFAULT_STATE_DIR)
    .option('--max-jobs <number>', 'jobs that run at once (default: one a core, at least 2)')
    .option('--max-jobs-per-user <number>', 'of one user (default: as many)')
    .option('--max-queued <number>', 'jobs that wait (default: 256)')
    .option('--max-queued-per-user <number>', 'of one user (default: 16)')
    .option('--max-connections <number>', 'connections at once (default: 64)')
    .option('--max-connections-per-user <number>', 'of one user (default: 8)')
    .option('--allow-chroot <user>', 'let this user use the isolation "chroot", which is as good as root; repeatable', collect, [])
    .option('--allow-network <user>', 'let this user use the network of the host; repeatable', collect, [])
    .option('--vm-emulation <policy>', 'allow or refuse virtual machines without KVM, which are no security boundary', 'allow')
    .option('--allow-degraded', 'run jobs although this machine cannot hold their memory, process or cpu limits')
    .option('--drain <time>', 'how long running jobs may take after SIGTERM', '60s')
    .option('--log-level <level>', 'debug, info, warn, error or silent', 'info')
    .addHelpText(
      'after',
      `
SIGTERM and SIGINT end it in order: no new jobs, the running ones finish. A second one cancels them. Log lines are JSON on standard error.
Exit status: 75 when another daemon has the state directory or the socket.

Example:
  rootlayer daemon --group rootlayer --max-jobs 4`,
    )
    .action(async (options: DaemonOptions) => {
      outcome.statusOf = startFailure;
      const { serve } = await import('../serve.ts');
      await serve(options);
    });
}

function startFailure({ code }: RootlayerError): number {
  return code === 'E_STATE' || code === 'E_CONFLICT' ? EXIT_ALREADY_RUNNING : EXIT_FAILURE;
}
