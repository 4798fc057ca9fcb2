import { RootlayerError } from '../core/errors.ts';
import type { Isolation, NetworkChoice, TerminalSize } from '../core/job.ts';
import type { Cgroup } from '../host/cgroup.ts';
import { FIRST_LAUNCH_FD, type LaunchEnd, type Launched, type LauncherRecords, launch } from '../host/launcher.ts';
import { close, makeSocketPair, receiveWithFds } from '../host/libc.ts';
import type { PtyEnds } from '../host/pty.ts';
import { CAP } from '../host/worker.ts';

/** One process to run as PID 1 of a sandbox; the first candidate whose program exists is taken. */
export type Program = { candidates: (string | Buffer)[][]; env: Record<string, string> };

/** What a sandbox is made of. All descriptors stay the caller's. */
export type SandboxParts = {
  isolation: Extract<Isolation, 'userns' | 'chroot'>;
  /** Detached mount that becomes `/`. */
  rootFd: number;
  /** Detached, read-only mount for /dev/rootlayer: the script and its extra files. */
  filesFd: number;
  /** Directory whose device nodes are lent to the sandbox. */
  devicesFd: number;
  /** Detached mount of the host's resolv.conf, for `network: host`. */
  resolvConfFd: number | null;
  /** File with the seccomp program; null for `chroot`. */
  seccompFd: number | null;
  uidBase: number;
  network: NetworkChoice;
  program: Program;
  cgroup: Cgroup;
  stdio: SandboxStdio;
  /** Longest file, so that a sparse one cannot exceed the disk limit. */
  fileSizeBytes: number;
};

/** What the program prints to: descriptors, or a terminal, of which the caller takes both ends over once the program runs. */
export type SandboxStdio =
  | { kind: 'pipes'; stdoutFd: number; stderrFd: number }
  | { kind: 'terminal'; size: TerminalSize; onOpen(ends: PtyEnds): void };

/** A running sandbox. */
export type Sandbox = {
  /** Resolves when the program runs; rejects with `E_INTERNAL` naming the step of the launcher that failed. */
  started: Promise<void>;
  ended: Promise<LaunchEnd>;
  /** Ends every process in it, at once. */
  kill(): void;
};

/** Docker's default set less MKNOD, NET_RAW and SETPCAP's use after set-up; what real installs need. Measured in docs/architecture.md. */
const JOB_CAPABILITIES =
  CAP.CHOWN |
  CAP.DAC_OVERRIDE |
  CAP.FOWNER |
  CAP.FSETID |
  CAP.KILL |
  CAP.SETGID |
  CAP.SETUID |
  CAP.SETPCAP |
  CAP.NET_BIND_SERVICE |
  CAP.SYS_CHROOT |
  CAP.AUDIT_WRITE |
  CAP.SETFCAP;
const ALL_CAPABILITIES = (1n << 63n) - 1n;

/** Starts the launcher that becomes the program. Source of the order of its steps: isolation/launcher.c. */
export function startSandbox(parts: SandboxParts): Sandbox {
  const fds: number[] = [];
  const hand = (fd: number): number => FIRST_LAUNCH_FD + fds.push(fd) - 1;
  const isUserns = parts.isolation === 'userns';
  const records: LauncherRecords = [
    ...(isUserns ? ([['userns', parts.uidBase]] satisfies LauncherRecords) : []),
    ['network', parts.network],
    ['root', hand(parts.rootFd)],
    ['files', hand(parts.filesFd)],
    ['devices', hand(parts.devicesFd)],
    ...(parts.resolvConfFd === null ? [] : ([['resolv', hand(parts.resolvConfFd)]] satisfies LauncherRecords)),
    ...(parts.seccompFd === null ? [] : ([['seccomp', hand(parts.seccompFd)]] satisfies LauncherRecords)),
    ['caps', (isUserns ? JOB_CAPABILITIES : ALL_CAPABILITIES).toString(16)],
    ['nnp', isUserns ? 1 : 0],
    ['fsize', parts.fileSizeBytes],
    ['hostname', 'rootlayer'],
    ...(parts.stdio.kind === 'pipes'
      ? []
      : ([['terminal', `${parts.stdio.size.rows} ${parts.stdio.size.columns}`]] satisfies LauncherRecords)),
    ...parts.cgroup.tasksFds.map((fd): [string, number] => ['cgroup', hand(fd)]),
    ...(parts.cgroup.directoryFd === null ? [] : ([['cgroup-dir', hand(parts.cgroup.directoryFd)]] satisfies LauncherRecords)),
    ...Object.entries(parts.program.env).map(([name, value]): [string, string] => ['env', `${name}=${value}`]),
    ...parts.program.candidates.flatMap(
      ([path = '', ...args]): LauncherRecords => [['exec', path], ...args.map((arg): [string, string | Buffer] => ['arg', arg])],
    ),
  ];
  const { launched, started } = launchWith(parts.stdio, records, fds);
  return {
    started,
    ended: launched.ended,
    kill() {
      parts.cgroup.kill();
      launched.kill();
    },
  };
}

/** A terminal is made inside, and its ends come back over the launcher's socket before the program starts. */
function launchWith(stdio: SandboxStdio, records: LauncherRecords, fds: number[]): { launched: Launched; started: Promise<void> } {
  if (stdio.kind === 'pipes') {
    const launched = launch('job', records, ['ignore', stdio.stdoutFd, stdio.stderrFd], fds);
    launched.socket.destroy();
    return { launched, started: launched.started };
  }
  const [ours, theirs] = makeSocketPair();
  try {
    const launched = launch('job', records, ['ignore', 'ignore', 'ignore'], fds, theirs);
    const started = launched.started.then(() => stdio.onOpen(receiveEnds(ours))).finally(() => close(ours));
    return { launched, started };
  } catch (error) {
    close(ours);
    throw error;
  } finally {
    close(theirs);
  }
}

/** Both were sent before the program started: nothing is waited for. */
function receiveEnds(socketFd: number): PtyEnds {
  const [nearFd, farFd] = [receiveOne(socketFd), receiveOne(socketFd)];
  if (nearFd === undefined || farFd === undefined) {
    throw new RootlayerError('E_INTERNAL', 'Cannot open the terminal: the launcher sent no descriptor');
  }
  return { nearFd, farFd };
}

function receiveOne(socketFd: number): number | undefined {
  return receiveWithFds(socketFd, Buffer.alloc(1)).fds[0];
}
