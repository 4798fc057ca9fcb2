import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { RootlayerError } from '../core/errors.ts';

/** What one control group may use; sizes in bytes, cpus in cores. */
export type CgroupLimits = { memoryBytes: number; pids: number; cpus: number };

/** What happened in a control group; null where the machine cannot tell. */
export type CgroupUsage = {
  memoryPeakBytes: number | null;
  pidsPeak: number | null;
  cpuMs: number | null;
  /** Processes that the kernel killed for memory. */
  oomKills: number;
  /** Forks that the pids limit refused. */
  forksRefused: number;
};

/** The control group of one sandbox. Dispose kills what is in it and removes it. */
export interface Cgroup extends AsyncDisposable {
  /** Open `tasks` files of version 1: the first process writes itself into each before it runs. */
  readonly tasksFds: number[];
  /** The directory in version 2, for clone3 to start the first process in; null without version 2. */
  readonly directoryFd: number | null;
  kill(): void;
  usage(): CgroupUsage;
  /** Sets another limit of cpu time, in cores. */
  limitCpus(cpus: number): void;
}

type Controller = 'memory' | 'pids' | 'cpu' | 'cpuacct';
type Hierarchy = { version: 1 | 2; controllers: Controller[]; parent: string };

const CONTROLLERS: Controller[] = ['memory', 'pids', 'cpu', 'cpuacct'];
const FOLDER = 'rootlayer';

/**
 * Makes control groups below the daemon's own, in cgroup v2 where its controllers are there, in v1 hierarchies where they
 * sit in those. Where both are mounted, v2 is used to kill: only it can end a whole tree at once. Source: cgroups(7).
 */
export class CgroupManager {
  readonly #hierarchies: Hierarchy[];
  #isOwned = false;
  /** Limits that this machine cannot hold, in words; empty when all can. */
  readonly lacking: string[];

  private constructor(hierarchies: Hierarchy[]) {
    this.#hierarchies = hierarchies;
    const held = new Set(hierarchies.flatMap((hierarchy) => hierarchy.controllers));
    this.lacking = (['memory', 'pids', 'cpu'] as const).filter((name) => !held.has(name));
  }

  /**
   * Finds the writable hierarchies. Call {@link removeLeftovers} once it is certain that no other process uses this `name`. To be called before the process has
   * children: in cgroup v2 it may have to move itself. With `mayMove` false it never does.
   */
  static open(name: string, mayMove = true): CgroupManager {
    const hierarchies: Hierarchy[] = [];
    for (const mounted of readHierarchies()) {
      const hierarchy = mounted.version === 2 ? placeV2(mounted, name, mayMove) : placeBelowOwn(mounted, name);
      // A read-only or foreign hierarchy: what it would limit shows up in `lacking`.
      if (hierarchy !== null) hierarchies.push(hierarchy);
    }
    return new CgroupManager(hierarchies);
  }

  /** Makes the control group of a job, limits set before any process is in it. Limits that the machine lacks are left out: see `lacking`. */
  create(id: string, limits: CgroupLimits): Cgroup {
    const paths = new Map<Hierarchy, string>();
    try {
      for (const hierarchy of this.#hierarchies) {
        const path = join(hierarchy.parent, `job-${id}`);
        mkdirSync(path);
        paths.set(hierarchy, path);
        setLimits(hierarchy, path, limits);
      }
      return new JobCgroup(paths);
    } catch (error) {
      for (const path of paths.values()) rmdirSync(path);
      throw error;
    }
  }

  /** Takes over the name: ends and removes what an earlier process left under it. */
  removeLeftovers(): void {
    this.#isOwned = true;
    for (const { parent } of this.#hierarchies) {
      for (const entry of readdirSync(parent, { withFileTypes: true })) {
        if (entry.isDirectory()) {
          killAll(join(parent, entry.name));
          removeSoon(join(parent, entry.name));
        }
      }
    }
  }

  /** Removes the folder of this manager; for an engine that ends. One whose name was never taken over may be another's. */
  close(): void {
    if (!this.#isOwned) return;
    for (const { parent } of this.#hierarchies) {
      try {
        rmdirSync(parent);
      } catch {
        // another job of the same daemon is still ending, the next start removes it
      }
    }
  }
}

class JobCgroup implements Cgroup {
  readonly tasksFds: number[];
  readonly directoryFd: number | null;
  readonly #paths: Map<Hierarchy, string>;
  readonly #fds: number[];

  constructor(paths: Map<Hierarchy, string>) {
    this.#paths = paths;
    const pathsOf = (version: 1 | 2): string[] => [...paths].filter(([hierarchy]) => hierarchy.version === version).map(([, path]) => path);
    this.tasksFds = pathsOf(1).map((path) => openSync(join(path, 'tasks'), 'w'));
    const [directory] = pathsOf(2);
    this.directoryFd = directory === undefined ? null : openSync(directory, 'r');
    this.#fds = [...this.tasksFds, ...(this.directoryFd === null ? [] : [this.directoryFd])];
  }

  kill(): void {
    for (const path of this.#paths.values()) killAll(path);
  }

  limitCpus(cpus: number): void {
    for (const [hierarchy, path] of this.#paths) {
      if (!hierarchy.controllers.includes('cpu')) continue;
      const [file, value] = cpuLimit(hierarchy, cpus);
      writeFileSync(join(path, file), value);
    }
  }

  usage(): CgroupUsage {
    const of = (controller: Controller): [Hierarchy, string] | null =>
      [...this.#paths].find(([hierarchy]) => hierarchy.controllers.includes(controller)) ?? null;
    const read = (controller: Controller, v1: string, v2: string): string | null => {
      const found = of(controller);
      return found === null ? null : readText(join(found[1], found[0].version === 2 ? v2 : v1));
    };
    const field = (text: string | null, name: string): number => Number(new RegExp(`^${name} (\\d+)`, 'm').exec(text ?? '')?.[1] ?? 0);
    const number = (text: string | null): number | null => (text === null ? null : Number(text));
    const nanoseconds = of('cpuacct')?.[0].version === 1 ? number(read('cpuacct', 'cpuacct.usage', '')) : null;
    const v2cpu = of('cpu')?.[0].version === 2 ? field(read('cpu', '', 'cpu.stat'), 'usage_usec') / 1000 : null;
    return {
      memoryPeakBytes: number(read('memory', 'memory.max_usage_in_bytes', 'memory.peak')),
      pidsPeak: number(read('pids', 'pids.peak', 'pids.peak')),
      cpuMs: nanoseconds === null ? v2cpu : nanoseconds / 1e6,
      oomKills: field(read('memory', 'memory.oom_control', 'memory.events'), 'oom_kill'),
      forksRefused: field(read('pids', 'pids.events', 'pids.events'), 'max'),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const fd of this.#fds.splice(0)) closeSync(fd);
    for (const path of this.#paths.values()) {
      if (!existsSync(path)) continue;
      await remove(path);
    }
  }
}

function setLimits(hierarchy: Hierarchy, path: string, limits: CgroupLimits): void {
  const wanted: [Controller, string, string][] =
    hierarchy.version === 2
      ? [
          ['memory', 'memory.max', String(limits.memoryBytes)],
          ['memory', 'memory.swap.max', '0'],
          ['memory', 'memory.oom.group', '1'],
          ['pids', 'pids.max', String(limits.pids)],
          ['cpu', ...cpuLimit(hierarchy, limits.cpus)],
        ]
      : [
          ['memory', 'memory.limit_in_bytes', String(limits.memoryBytes)],
          ['memory', 'memory.memsw.limit_in_bytes', String(limits.memoryBytes)],
          ['pids', 'pids.max', String(limits.pids)],
          ['cpu', ...cpuLimit(hierarchy, limits.cpus)],
        ];
  for (const [controller, file, value] of wanted) {
    if (!hierarchy.controllers.includes(controller)) continue;
    const target = join(path, file);
    // Swap accounting is a kernel option: without it there is no swap to limit.
    if (/swap|memsw/.test(file) && !existsSync(target)) continue;
    writeFileSync(target, value);
  }
}

/** The file, and what it is to say. */
function cpuLimit(hierarchy: Hierarchy, cpus: number): [file: string, value: string] {
  const quota = Math.max(1000, Math.round(cpus * 100_000));
  return hierarchy.version === 2 ? ['cpu.max', `${quota} 100000`] : ['cpu.cfs_quota_us', String(quota)];
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return null;
  }
}

function killAll(path: string): void {
  try {
    writeFileSync(join(path, 'cgroup.kill'), '1');
    return;
  } catch {
    // cgroup v1, or a kernel before 5.14
  }
  for (const pid of (readText(join(path, 'cgroup.procs')) ?? '').split('\n')) {
    if (pid !== '' && pid !== '0') killProcess(Number(pid));
  }
}

function killProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // already gone
  }
}

const REMOVE_TRIES = 500;

/** A group with a dying process cannot be removed yet. Throws `E_INTERNAL` after five seconds. */
async function remove(path: string): Promise<void> {
  for (let attempt = 0; attempt < REMOVE_TRIES; attempt++) {
    try {
      rmdirSync(path);
      return;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'ENOENT') return;
      if (code !== 'EBUSY') throw error;
      killAll(path);
      await sleep(attempt < 20 ? 1 : 10);
    }
  }
  throw new RootlayerError('E_INTERNAL', `Cannot remove control group "${path}": processes in it do not end`);
}

function removeSoon(path: string): void {
  for (let attempt = 0; attempt < 100; attempt++) {
    try {
      rmdirSync(path);
      return;
    } catch {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
  }
}

/** `path` is this process's own place in the hierarchy, `point` where it is mounted. */
type Mounted = { version: 1 | 2; controllers: Controller[]; path: string; point: string };

/** The mounted hierarchies and this process's place in each (proc(5): mountinfo, cgroup). */
function readHierarchies(): Mounted[] {
  const own = new Map<string, string>();
  for (const line of readFileSync('/proc/self/cgroup', 'utf8').trim().split('\n')) {
    const [, controllers = '', path = '/'] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    own.set(controllers, path);
  }
  const found: Mounted[] = [];
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').trim().split('\n')) {
    const [left = '', right = ''] = line.split(' - ');
    const [, , , root = '/', point = ''] = left.split(' ');
    const [type = '', , options = ''] = right.split(' ');
    if (type === 'cgroup2') {
      const path = placeBelow(point, root, own.get('') ?? '/');
      const offered = (readText(join(path, 'cgroup.controllers')) ?? '').split(' ');
      found.push({ version: 2, controllers: CONTROLLERS.filter((name) => offered.includes(name)), path, point });
    } else if (type === 'cgroup') {
      const controllers = CONTROLLERS.filter((name) => options.split(',').includes(name));
      const key = [...own.keys()].find((names) => names.split(',').some((name) => controllers.includes(name as Controller)));
      if (controllers.length > 0 && key !== undefined) {
        found.push({ version: 1, controllers, path: placeBelow(point, root, own.get(key) ?? '/'), point });
      }
    }
  }
  // v2 first: a controller that it offers is not mounted in v1. A hierarchy that is mounted twice is one.
  const hierarchies = new Map(
    found.map((mounted) => [`${mounted.version} ${mounted.controllers.join()}`, mounted]).reverse() as [string, Mounted][],
  );
  return [...hierarchies.values()].sort((a, b) => b.version - a.version);
}

function placeBelow(point: string, root: string, own: string): string {
  const below = relative(root, own);
  const path = join(point, below);
  return below.startsWith('..') || !existsSync(path) ? point : path;
}

const SUPERVISOR = 'supervisor';

function placeBelowOwn(mounted: Mounted, name: string): Hierarchy | null {
  const parent = join(mounted.path, `${FOLDER}-${name}`);
  try {
    mkdirSync(parent, { recursive: true });
    return { version: mounted.version, controllers: mounted.controllers, parent };
  } catch {
    return null;
  }
}

/**
 * A v2 group with processes of its own cannot hand controllers on. So: below the own group if it can (or if moving the daemon into a leaf of it makes
 * it so: systemd's `Delegate=`), else at the top of the hierarchy, as container engines do, else only for killing. Source: cgroups(7).
 */
function placeV2(mounted: Mounted, name: string, mayMove: boolean): Hierarchy | null {
  const usable = mounted.controllers.filter((controller) => controller !== 'cpuacct');
  const own = basename(mounted.path) === SUPERVISOR ? dirname(mounted.path) : mounted.path;
  for (const place of [own, mounted.point]) {
    if (usable.length === 0) break;
    const parent = join(place, `${FOLDER}-${name}`);
    if (
      handsOn(place, usable, mayMove) &&
      succeeds(() => mkdirSync(parent, { recursive: true })) &&
      succeeds(() => enable(parent, usable))
    ) {
      return { version: 2, controllers: usable, parent };
    }
  }
  return placeBelowOwn({ ...mounted, controllers: [], path: own }, name);
}

function handsOn(place: string, controllers: Controller[], mayMove: boolean): boolean {
  if (succeeds(() => enable(place, controllers))) return true;
  if (!isOnlyOurs(place)) return false;
  if (!mayMove) return true;
  return succeeds(() => moveSelf(place)) && succeeds(() => enable(place, controllers));
}

/** Other people's processes are never moved. */
function isOnlyOurs(place: string): boolean {
  return (readText(join(place, 'cgroup.procs')) ?? '0') === String(process.pid);
}

function succeeds(action: () => unknown): boolean {
  try {
    action();
    return true;
  } catch {
    return false;
  }
}

function enable(path: string, controllers: Controller[]): void {
  writeFileSync(join(path, 'cgroup.subtree_control'), controllers.map((name) => `+${name}`).join(' '));
}

function moveSelf(own: string): void {
  const leaf = join(own, SUPERVISOR);
  mkdirSync(leaf, { recursive: true });
  writeFileSync(join(leaf, 'cgroup.procs'), String(process.pid));
}
