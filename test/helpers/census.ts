import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';

/** What must not grow by what a test does: this process's descriptors and children, its mounts, loop devices and control groups of rootlayer. */
export type Census = { fds: string[]; children: string[]; mounts: string[]; loops: string[]; cgroups: string[]; nullDevice: string };

/** Counts what is there now. `label` is part of the names that the tested engine gives to its loop devices and groups. */
export function takeCensus(label: string): Census {
  const { mode, uid, gid } = statSync('/dev/null');
  return {
    fds: openFiles(),
    children: childrenOf(process.pid),
    mounts: mountsNamed(label),
    loops: loopsNamed(label),
    cgroups: groupsNamed(label),
    nullDevice: `${mode.toString(8)} ${uid}:${gid}`,
  };
}

/** Asserts that nothing of `before` has grown; waits up to two seconds for what the kernel still takes down. */
export async function assertNoLeak(t: Test, label: string, before: Census): Promise<void> {
  let now = takeCensus(label);
  for (let tries = 0; tries < 40 && JSON.stringify(now) !== JSON.stringify(before); tries++) {
    await sleep(50);
    now = takeCensus(label);
  }
  t.same(now, before, 'no descriptor, process, mount, loop device or control group is left, and /dev/null is as it was');
}

/** Mounts that the label, which is part of the engine's directory, shows in; those of other programs come and go. */
function mountsNamed(label: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(label));
}

/** Descriptors by what they are open on; sockets and pipes of Node's own come and go, so only files and namespaces count. */
function openFiles(): string[] {
  return readdirSync('/proc/self/fd')
    .map((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`);
      } catch {
        return '';
      }
    })
    .filter(
      (target) =>
        target.startsWith('/') && !target.startsWith('/proc/') && !target.startsWith('/dev/null') && !target.startsWith('/dev/pts'),
    )
    .sort();
}

function childrenOf(pid: number): string[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .split(' ')
    .filter((text) => text !== '');
}

function loopsNamed(label: string): string[] {
  return readdirSync('/sys/block').filter((name) => {
    try {
      return name.startsWith('loop') && readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8').includes(label);
    } catch {
      return false;
    }
  });
}

function groupsNamed(label: string): string[] {
  const found: string[] = [];
  const visit = (path: string, depth: number): void => {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      if (!entry.isDirectory()) continue;
      const below = `${path}/${entry.name}`;
      if (entry.name.startsWith('job-') && below.includes(label)) found.push(below);
      else if (depth < 5) visit(below, depth + 1);
    }
  };
  visit('/sys/fs/cgroup', 0);
  return found.sort();
}
