import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { isAlive, type ProcessId } from './daemon.ts';

/** Work in progress; between jobs and imports all of these are empty. */
const WORK_DIRECTORIES = ['ingest', 'contexts', 'results', 'uppers', 'trash'];

/** What a dead daemon can have left: the processes it had, the ids of its jobs, its state directory. */
export type Remains = { processes: readonly ProcessId[]; jobIds: readonly string[]; stateDir: string };

/** Describes all that is still there of an earlier daemon, one line each; an empty list is what is wanted. */
export function findLeftovers({ processes, jobIds, stateDir }: Remains): string[] {
  return [
    ...processes.filter(isAlive).map(({ pid, command }) => `process ${pid} ${command}`),
    ...loopsBelow(stateDir).map((device) => `loop device ${device}`),
    ...mountsBelow(stateDir).map((mount) => `mount ${mount}`),
    ...findGroups().filter((group) => jobIds.some((id) => group.endsWith(`/job-${id}`))),
    ...WORK_DIRECTORIES.flatMap((name) => readdirSync(path.join(stateDir, name)).map((entry) => `file ${name}/${entry}`)),
  ];
}

/** Loop devices whose file is, or was, below a directory. */
export function loopsBelow(directory: string): string[] {
  return readdirSync('/sys/block').filter((name) => readIfThere(`/sys/block/${name}/loop/backing_file`).startsWith(`${directory}/`));
}

function mountsBelow(directory: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((mount) => mount === directory || mount.startsWith(`${directory}/`));
}

/** The control groups of all jobs on this machine, in all hierarchies. */
export function findGroups(): string[] {
  const found: string[] = [];
  const visit = (directory: string, depth: number): void => {
    for (const name of directoriesIn(directory)) {
      const below = `${directory}/${name}`;
      if (name.startsWith('job-')) found.push(below);
      else if (depth < 5) visit(below, depth + 1);
    }
  };
  visit('/sys/fs/cgroup', 0);
  return found;
}

/** Other tests make and remove groups meanwhile. */
function directoriesIn(directory: string): string[] {
  if (!existsSync(directory)) return [];
  try {
    return readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    return [];
  }
}

function readIfThere(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
