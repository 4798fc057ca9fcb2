import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Counts the CPU time of this process and of all that it starts from now on, whoever reaps them, in a control group of its own.
 * Source: cgroups(7), Documentation/admin-guide/cgroup-v1/cpuacct.rst and cgroup-v2.rst ("cpu.stat").
 */
export class CpuAccount {
  readonly #group: string | null;
  readonly #parent: string;
  readonly #version: 1 | 2;

  private constructor(parent: string, group: string | null, version: 1 | 2) {
    this.#parent = parent;
    this.#group = group;
    this.#version = version;
  }

  /** Where no control group can be made, it counts nothing. */
  static open(): CpuAccount {
    const own = findGroup();
    if (own === null) return new CpuAccount('', null, 1);
    const group = path.join(own.path, `rootlayer-bench-${process.pid}`);
    try {
      mkdirSync(group);
      writeFileSync(path.join(group, 'cgroup.procs'), String(process.pid));
      return new CpuAccount(own.path, group, own.version);
    } catch {
      return new CpuAccount('', null, 1);
    }
  }

  /** Milliseconds so far, or null. */
  readMs(): number | null {
    if (this.#group === null) return null;
    if (this.#version === 1) return Number(readFileSync(path.join(this.#group, 'cpuacct.usage'), 'utf8')) / 1e6;
    const usage = /^usage_usec (\d+)/m.exec(readFileSync(path.join(this.#group, 'cpu.stat'), 'utf8'));
    return usage === null ? null : Number(usage[1]) / 1e3;
  }

  /** Goes back to the group in which this process was, and removes its own as soon as the others have ended. Throws when they do not. */
  async close(): Promise<void> {
    if (this.#group === null) return;
    writeFileSync(path.join(this.#parent, 'cgroup.procs'), String(process.pid));
    for (let left = CLOSE_TRIES; ; left -= 1) {
      try {
        removeGroup(this.#group);
        return;
      } catch (error) {
        if (left === 0) throw error;
        await sleep(CLOSE_STEP_MS);
      }
    }
  }
}

const CLOSE_TRIES = 60;
const CLOSE_STEP_MS = 50;

/** With the groups below it, which a daemon that was killed leaves. */
function removeGroup(group: string): void {
  for (const entry of readdirSync(group, { withFileTypes: true })) {
    if (entry.isDirectory()) removeGroup(path.join(group, entry.name));
  }
  rmdirSync(group);
}

/** This process's group in the hierarchy that counts: `cpuacct` of version 1 where it is mounted, else version 2. */
function findGroup(): { path: string; version: 1 | 2 } | null {
  const own = readFileSync('/proc/self/cgroup', 'utf8')
    .trim()
    .split('\n')
    .map((line) => /^\d+:([^:]*):(.*)$/.exec(line))
    .map((fields) => ({ controllers: fields?.[1]?.split(',') ?? [], place: fields?.[2] ?? '/' }));
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').trim().split('\n').map(parseMount);
  for (const { type, options, root, point } of mounts.toSorted((a, b) => a.type.length - b.type.length)) {
    const isCounting = type === 'cgroup2' || (type === 'cgroup' && options.includes('cpuacct'));
    const place = own.find(({ controllers }) => controllers.includes(type === 'cgroup2' ? '' : 'cpuacct'))?.place;
    if (isCounting && place !== undefined)
      return { path: path.join(point, path.relative(root, place)), version: type === 'cgroup2' ? 2 : 1 };
  }
  return null;
}

/** One line of proc_pid_mountinfo(5). */
function parseMount(line: string): { root: string; point: string; type: string; options: string[] } {
  const [left = '', right = ''] = line.split(' - ');
  const [, , , root = '/', point = ''] = left.split(' ');
  const [type = '', , options = ''] = right.split(' ');
  return { root, point, type, options: options.split(',') };
}
