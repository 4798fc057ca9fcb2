import { RootlayerError } from '../core/errors.ts';
import type { JobUsage } from '../core/job.ts';
import type { Limits } from '../core/limits.ts';
import type { CgroupUsage } from '../host/cgroup.ts';
import { limitBehindFailure, type ReachedLimit } from './watch.ts';

/** How a script ended, as far as its isolation can tell. */
export type ScriptEnd = { kind: 'exit'; status: number } | { kind: 'signal'; signal: number };

/** What is known when a script has ended. Sizes in bytes. */
export type ScriptFacts = {
  end: ScriptEnd;
  /** The limit that the watch ended it at. */
  watched: ReachedLimit | null;
  limits: Limits;
  usage: CgroupUsage;
  disk: { bytes: number; bytesLeft: number; inodesLeft: number };
  outputBytes: number;
};

/** The verdict on a script that has ended; `error` is null when it succeeded. */
export type Verdict = { exitStatus: number; reached: ReachedLimit | null; usage: JobUsage; error: RootlayerError | null };

/** Judges a script by its end and by what the kernel counted. */
export function judge(facts: ScriptFacts): Verdict {
  const { end, watched, limits, usage, disk, outputBytes } = facts;
  const exitStatus = end.kind === 'exit' ? end.status : 128 + end.signal;
  const reached =
    watched ??
    limitBehindFailure(limits, { usage, exitStatus, bytesLeft: disk.bytesLeft, inodesLeft: disk.inodesLeft, diskBytesUsed: disk.bytes });
  const jobUsage: JobUsage = {
    memoryPeakBytes: usage.memoryPeakBytes,
    pidsPeak: usage.pidsPeak,
    cpuMs: usage.cpuMs,
    diskBytes: disk.bytes,
    outputBytes,
  };
  const error = reached !== null ? limitError(reached) : exitStatus !== 0 ? scriptError(end, exitStatus) : null;
  return { exitStatus, reached, usage: jobUsage, error };
}

const EXEC_FAILURES = ['ENOENT', 'EACCES', 'ENOTDIR', 'ENOEXEC', 'ELOOP'];

/** What a user can do about a program that could not be started; `step` and `errno` are those of the launcher or the guest. Null when it is no fault of theirs. */
export function startError(step: string, errno: string, cause: unknown): RootlayerError | null {
  if (step !== 'exec') return null;
  if (errno === 'E2BIG') {
    return new RootlayerError('E_USAGE', 'Cannot run the script: its environment is too large', {
      hint: 'Give large values as files, with --file.',
      cause,
    });
  }
  if (!EXEC_FAILURES.includes(errno)) return null;
  return new RootlayerError('E_IMAGE_LAYOUT', 'Cannot run the script: the base image has no shell that starts, want /bin/bash or /bin/sh', {
    hint: 'Choose a base with a shell, or start the script with "#!" and a program that the image or --copy brings.',
    cause,
  });
}

function limitError(reached: ReachedLimit): RootlayerError {
  const { limit, value, peak } = reached;
  const told = `${value}${peak === null ? '' : `, reached ${peak}`}`;
  switch (limit) {
    case 'memory':
      return new RootlayerError('E_LIMIT_MEMORY', `The script ran out of memory: limit ${told} bytes`, { hint: 'Raise it with --memory.' });
    case 'pids':
      return new RootlayerError('E_LIMIT_PIDS', `The script had too many processes: limit ${told}`, { hint: 'Raise it with --pids.' });
    case 'disk':
      return new RootlayerError('E_LIMIT_DISK', `The script filled its disk: limit ${told} bytes`, {
        hint: 'Raise it with --disk, or --inodes for many small files.',
      });
    case 'time':
      return new RootlayerError('E_LIMIT_TIME', `The script took too long: limit ${value} ms`, { hint: 'Raise it with --timeout.' });
    case 'silence':
      return new RootlayerError('E_LIMIT_SILENCE', `The script printed nothing for too long: limit ${value} ms`, {
        hint: 'Raise it with --silence.',
      });
    case 'output':
      return new RootlayerError('E_LIMIT_OUTPUT', `The script printed too much: limit ${told} bytes`, {
        hint: 'Raise it with --output-limit.',
      });
  }
}

function scriptError(end: ScriptEnd, exitStatus: number): RootlayerError {
  const how = end.kind === 'signal' ? `was ended by signal ${end.signal}` : `ended with status ${exitStatus}`;
  return new RootlayerError('E_SCRIPT', `The script ${how}`, { hint: 'Its log tells why; no layer was made.' });
}
