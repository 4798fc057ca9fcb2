import type { Socket } from 'node:net';
import { RootlayerError } from '../../core/errors.ts';
import { mountDetached } from '../../host/filesystems.ts';
import { FIRST_LAUNCH_FD, type LaunchEnd, type LauncherRecords, launch } from '../../host/launcher.ts';
import {
  AT_FDCWD,
  chownAt,
  cloneTree,
  close,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  mknodAt,
  S_IFCHR,
  setMountAttributes,
} from '../../host/libc.ts';
import type { VmSeat } from './types.ts';

/** First number under which the program sees the descriptors that it is handed. Source: isolation/launcher.c, FIRST_PASSED. */
const FIRST_PASSED_FD = 3;

/** What QEMU, or what stands in its place, is started with. Descriptors stay the caller's. */
export type QemuParts = {
  /** Directory that becomes its root, read-only. */
  jailPath: string;
  /** Directory with the files of a guest that boots; null for a restored one. */
  bootPath: string | null;
  hasKvm: boolean;
  seat: Pick<VmSeat, 'uid' | 'cgroup'>;
  seccompFd: number;
  /** Most threads. */
  threads: number;
  /** Longest file that it may write. */
  fileSizeBytes: number;
};

/** The descriptors for one QEMU, in the order in which they were handed over. */
export class HandOver {
  readonly fds: number[] = [];

  /** Gives the number under which QEMU will see the descriptor. */
  add(fd: number): number {
    return FIRST_PASSED_FD + this.fds.push(fd) - 1;
  }
}

/** A running QEMU. */
export type Qemu = {
  ended: Promise<LaunchEnd>;
  /** Resolves when it is confined and runs; rejects with `E_INTERNAL` naming the step of the launcher that failed. */
  started: Promise<void>;
  /** The last of what it printed, for messages. */
  complaint(): string;
  kill(): void;
};

const COMPLAINT_BYTES = 2000;

/**
 * Starts QEMU where nothing is but itself: namespaces of its own, a read-only root with its own files, no /proc, no network, a user of its own, no
 * capability, no_new_privs, a seccomp filter, and no descriptor but those handed over. It dies with the daemon. Source: isolation/launcher.c, vm_child.
 */
export function startQemu(parts: QemuParts, command: string[], passed: HandOver): Qemu {
  const fds: number[] = [];
  const own: number[] = [];
  const hand = (fd: number): number => FIRST_LAUNCH_FD + fds.push(fd) - 1;
  const handOwn = (fd: number): number => hand(own[own.push(fd) - 1] ?? fd);
  const { uid, cgroup } = parts.seat;
  const [program = '', ...args] = command;
  try {
    const records: LauncherRecords = [
      ['root', handOwn(openReadOnly(parts.jailPath))],
      ...(parts.bootPath === null ? [] : ([['files', handOwn(openReadOnly(parts.bootPath))]] satisfies LauncherRecords)),
      ...(parts.hasKvm ? ([['devices', handOwn(openKvmDirectory(uid))]] satisfies LauncherRecords) : []),
      ['seccomp', hand(parts.seccompFd)],
      ['user', uid],
      ['processes', parts.threads],
      ['caps', '0'],
      ['nnp', 1],
      ['fsize', parts.fileSizeBytes],
      ...cgroup.tasksFds.map((fd): [string, number] => ['cgroup', hand(fd)]),
      ...(cgroup.directoryFd === null ? [] : ([['cgroup-dir', hand(cgroup.directoryFd)]] satisfies LauncherRecords)),
      ...passed.fds.map((fd): [string, number] => ['pass', hand(fd)]),
      ['exec', program],
      ...args.map((arg): [string, string] => ['arg', arg]),
    ];
    const launched = launch('vm', records, ['ignore', 'pipe', 'pipe'], fds);
    launched.socket.destroy();
    const complaint = listen([launched.child.stdout, launched.child.stderr]);
    return { ended: launched.ended, started: launched.started, complaint, kill: () => launched.kill() };
  } finally {
    for (const fd of own) close(fd);
  }
}

function openReadOnly(path: string): number {
  const fd = cloneTree(AT_FDCWD, path);
  try {
    setMountAttributes(fd, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

/** Character device 10:232 (Documentation/admin-guide/devices.txt). */
const KVM = [10, 232] as const;

/** A /dev with the one device that acceleration needs, usable by one user alone. */
function openKvmDirectory(uid: number): number {
  const fd = mountDetached('tmpfs', { mode: '0755', size: '4k', nr_inodes: '4' }, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
  try {
    mknodAt(fd, 'kvm', S_IFCHR | 0o600, ...KVM);
    chownAt(fd, 'kvm', uid, uid);
    setMountAttributes(fd, MOUNT_ATTR_RDONLY);
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

/** Far more than an honest QEMU ever says. */
const MAX_LISTEN_BYTES = 64 * 1024;

/** Keeps the end of what comes. One that goes on and on is not listened to any more. */
function listen(streams: (Socket | NodeJS.ReadableStream | null)[]): () => string {
  let text = '';
  let heard = 0;
  for (const stream of streams) {
    stream?.on('data', (chunk: Buffer) => {
      text = (text + chunk.toString('latin1')).slice(-COMPLAINT_BYTES);
      heard += chunk.length;
      if (heard > MAX_LISTEN_BYTES) for (const each of streams) each?.pause();
    });
    stream?.on('error', () => {});
  }
  return () => printable(text);
}

function printable(text: string): string {
  return text.replace(/[^\x20-\x7e]+/g, ' ').trim();
}

/** Words on how QEMU ended, for `E_VM_CRASH`. */
export function crashError(what: string, end: LaunchEnd, complaint: string): RootlayerError {
  const how =
    end.kind === 'exit'
      ? `QEMU ended with status ${end.status}`
      : end.kind === 'signal'
        ? `QEMU was ended by signal ${end.signal}`
        : `step "${end.step}" failed with ${end.errno}`;
  return new RootlayerError('E_VM_CRASH', `${what}: ${how}${complaint === '' ? '' : ` (${complaint})`}`, {
    hint: 'The guest has crashed or shut down, or this machine cannot run it: see rootlayer doctor.',
  });
}
