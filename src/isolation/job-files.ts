import { writeSync } from 'node:fs';
import { RootlayerError } from '../core/errors.ts';
import { mountDetached } from '../host/filesystems.ts';
import {
  chownAt,
  close,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  mkdirAt,
  O_CREAT,
  O_DIRECTORY,
  O_EXCL,
  O_RDONLY,
  O_WRONLY,
  openAt,
  setMountAttributes,
} from '../host/libc.ts';

/** Where the sandbox sees the script and the extra files: below /dev, which is never part of a layer. */
export const JOB_FILES_PATH = '/dev/rootlayer';

/** Fills a directory (given by descriptor) with the extra files; the descriptor is closed afterwards. */
export type FillFiles = (directoryFd: number) => Promise<void>;

/**
 * A small read-only filesystem with `script` (mode 0555) and `files/`, owned by the sandbox's root. The script's bytes are
 * written as they are: never expanded, quoted or put on a command line. The caller closes the descriptor.
 */
export async function makeJobFiles(script: Buffer, uidBase: number, maxBytes: number, fill: FillFiles | null): Promise<number> {
  const mountFd = mountDetached(
    'tmpfs',
    { mode: '0755', size: String(maxBytes), nr_inodes: '65536' },
    MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
  );
  try {
    chownAt(mountFd, '', uidBase, uidBase);
    writeScript(mountFd, script, uidBase);
    mkdirAt(mountFd, 'files', 0o755);
    chownAt(mountFd, 'files', uidBase, uidBase);
    if (fill !== null) {
      const filesFd = openAt(mountFd, 'files', O_RDONLY | O_DIRECTORY);
      try {
        await fill(filesFd);
      } finally {
        close(filesFd);
      }
    }
    setMountAttributes(mountFd, MOUNT_ATTR_RDONLY);
    return mountFd;
  } catch (error) {
    close(mountFd);
    throw error;
  }
}

function writeScript(directoryFd: number, script: Buffer, owner: number): void {
  const fd = openAt(directoryFd, 'script', O_CREAT | O_EXCL | O_WRONLY, 0o555);
  try {
    for (let at = 0; at < script.length; ) at += writeSync(fd, script, at);
  } finally {
    close(fd);
  }
  chownAt(directoryFd, 'script', owner, owner);
}

/**
 * How the script is started: by a shell that stops at the first error, as the dockerTools seed has it; by the program of its `#!` line
 * when that is no shell.
 */
export function scriptCandidates(script: Buffer): (string | Buffer)[][] {
  const path = `${JOB_FILES_PATH}/script`;
  const line = firstLine(script);
  if (line !== null && !isShell(line.interpreter.toString('latin1'), line.argument.toString('latin1'))) {
    return [line.argument.length === 0 ? [line.interpreter, path] : [line.interpreter, line.argument, path]];
  }
  return [
    ['/bin/bash', '-e', path],
    ['/usr/bin/bash', '-e', path],
    ['/bin/sh', '-e', path],
  ];
}

const LINE_BYTES = 256;

/** The interpreter and its one argument, as bytes, read as the kernel reads them (execve(2)). Throws `E_USAGE` for a NUL byte in them. */
function firstLine(script: Buffer): { interpreter: Buffer; argument: Buffer } | null {
  const end = script.subarray(0, LINE_BYTES).indexOf(0x0a);
  const line = script.subarray(0, end < 0 ? LINE_BYTES : end);
  if (line[0] !== 0x23 || line[1] !== 0x21) return null;
  if (line.includes(0)) {
    throw new RootlayerError('E_USAGE', 'Cannot run the script: its first line holds a NUL byte, want "#!" and the path of a program');
  }
  const words = /^[ \t]*([^ \t]+)[ \t]*(.*?)[ \t\r]*$/s.exec(line.subarray(2).toString('latin1'));
  if (words === null) return null;
  return { interpreter: Buffer.from(words[1] ?? '', 'latin1'), argument: Buffer.from(words[2] ?? '', 'latin1') };
}

function isShell(interpreter: string, argument: string): boolean {
  const name = interpreter.endsWith('/env') ? argument.split(/\s/)[0] : interpreter;
  return /(?:^|\/)(?:sh|bash|dash|ash)$/.test(name ?? '');
}

/** The environment that every script starts with; the job's own variables come on top. */
export const SCRIPT_ENVIRONMENT: Readonly<Record<string, string>> = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/root',
  LANG: 'C.UTF-8',
  ROOTLAYER_FILES: `${JOB_FILES_PATH}/files`,
};
