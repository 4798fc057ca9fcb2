import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import type { Test } from 'tap';
import { repoRoot } from './repo.ts';

/** What a test can ask of a machine that is no program. */
export type Feature =
  | 'root'
  | 'overlay'
  | 'erofs'
  | 'loop'
  | 'userns'
  | 'cgroup'
  | 'kvm'
  | 'launcher'
  | 'base-image'
  | 'debs'
  | 'vm-kernel';

/**
 * Tells whether this machine has all that a test needs: {@link Feature}s, and programs by their names (`umoci`).
 * With something missing, the test fails in CI (`CI=true`) and under `scripts/test`, and is skipped with the reason elsewhere.
 * In a test, return when the answer is false: `if (!requires(t, 'root', 'umoci')) return;`.
 * With the `t` of a whole file, a missing requirement ends the process, so that nothing after the call runs.
 */
export function requires(t: Test, ...needs: readonly (Feature | (string & {}))[]): boolean {
  const lacks = needs.map(findLack).filter((lack) => lack !== undefined);
  if (lacks.length === 0) return true;
  const reason = `needs ${lacks.join('; ')}`;
  const strict = isStrict();
  if (strict) t.fail(reason);
  else t.plan(0, reason);
  if (t.parent === undefined) process.exit(strict ? 1 : 0);
  if (strict) t.end();
  return false;
}

/** Path of the Debian base image (a docker-archive, `debian:bookworm`) that `scripts/base-image` made. */
export function baseImagePath(): string {
  return readPath('ROOTLAYER_TEST_BASE', 'base-image');
}

/** Path of a directory of some twenty `.deb` files that install on the base image. */
export function debsPath(): string {
  return readPath('ROOTLAYER_TEST_DEBS', 'debs');
}

function readPath(variable: string, need: Feature): string {
  const value = process.env[variable];
  if (value === undefined) throw new Error(`Cannot use ${variable}: it is not set, want requires(t, '${need}') before`);
  return value;
}

function isStrict(): boolean {
  return process.env['CI'] === 'true' || process.env['ROOTLAYER_TEST_STRICT'] === '1';
}

/** What is missing for one need, in a few words; undefined when nothing is. */
function findLack(need: string): string | undefined {
  const probe = PROBES.get(need);
  if (probe === undefined) return isOnPath(need) ? undefined : `the program ${need} (scripts/setup --test installs it)`;
  return probe.has() ? undefined : probe.lack;
}

type Probe = { readonly lack: string; has(): boolean };

const PROBES: ReadonlyMap<string, Probe> = new Map<Feature, Probe>([
  ['root', { lack: 'root', has: () => process.getuid?.() === 0 }],
  ['overlay', { lack: 'overlayfs in the kernel', has: () => hasFilesystem('overlay') }],
  ['erofs', { lack: 'EROFS in the kernel', has: () => hasFilesystem('erofs') }],
  ['loop', { lack: 'loop devices (/dev/loop-control)', has: () => existsSync('/dev/loop-control') }],
  ['userns', { lack: 'user namespaces', has: () => succeeds('unshare', ['--user', 'true']) }],
  ['cgroup', { lack: 'a writable cgroup hierarchy', has: hasCgroup }],
  ['kvm', { lack: 'KVM (/dev/kvm)', has: () => existsSync('/dev/kvm') }],
  ['launcher', { lack: 'the launcher (scripts/build makes it)', has: () => existsSync(path.join(repoRoot, 'dist/bin/rootlayer-launch')) }],
  [
    'base-image',
    { lack: 'ROOTLAYER_TEST_BASE, a base image (scripts/base-image makes one)', has: () => isSetAndThere('ROOTLAYER_TEST_BASE') },
  ],
  [
    'debs',
    { lack: 'ROOTLAYER_TEST_DEBS, a directory of packages (scripts/download-debs)', has: () => isSetAndThere('ROOTLAYER_TEST_DEBS') },
  ],
  [
    'vm-kernel',
    { lack: 'ROOTLAYER_VM_KERNEL, a kernel for guests (scripts/fetch-kernel)', has: () => isSetAndThere('ROOTLAYER_VM_KERNEL') },
  ],
]);

function hasFilesystem(name: string): boolean {
  return listsFilesystem(name) || (succeeds('modprobe', [name]) && listsFilesystem(name));
}

function listsFilesystem(name: string): boolean {
  return readFileSync('/proc/filesystems', 'utf8')
    .split('\n')
    .some((line) => line.endsWith(`\t${name}`));
}

/** The file that every cgroup directory has, in version 2 or in a version 1 hierarchy with the pids controller. */
function hasCgroup(): boolean {
  return ['/sys/fs/cgroup', '/sys/fs/cgroup/pids'].some((dir) => isWritable(path.join(dir, 'cgroup.procs')));
}

function isSetAndThere(variable: string): boolean {
  const value = process.env[variable];
  return value !== undefined && existsSync(value);
}

function isOnPath(program: string): boolean {
  const dirs = (process.env['PATH'] ?? '').split(':').concat('/usr/sbin', '/sbin');
  return dirs.some((dir) => isExecutable(path.join(dir, program)));
}

function isExecutable(file: string): boolean {
  return isAllowed(file, constants.X_OK);
}

function isWritable(file: string): boolean {
  return isAllowed(file, constants.W_OK);
}

function isAllowed(file: string, mode: number): boolean {
  try {
    accessSync(file, mode);
    return true;
  } catch {
    return false;
  }
}

function succeeds(program: string, args: readonly string[]): boolean {
  return spawnSync(program, args, { stdio: 'pipe', timeout: 10_000 }).status === 0;
}
