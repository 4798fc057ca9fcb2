import { closeSync, existsSync, openSync, readdirSync, readSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { RootlayerError } from '../core/errors.ts';
import { readRelease } from './vmlinux.ts';

/** A kernel for guests: its bzImage, and its modules as /lib/modules/RELEASE has them. */
export type GuestKernel = { vmlinuzPath: string; modulesPath: string; release: string };

/** Where a package puts a kernel for us: "vmlinuz" and "modules/". */
const INSTALLED = '/usr/share/rootlayer/kernel';
/** The oldest that the guest's agent is known to work with. */
const OLDEST = [6, 1] as const;
const HINT = 'Fetch one with scripts/setup --vm, or set ROOTLAYER_VM_KERNEL to a directory with "vmlinuz" and "modules/".';

/**
 * Finds the kernel of guests: in ROOTLAYER_VM_KERNEL, then in /usr/share/rootlayer/kernel (both directories with "vmlinuz" and "modules/"),
 * then the newest of Debian's cloud kernels that is installed. Throws `E_MISSING_FEATURE` when there is none, or the chosen one is too old.
 */
export function findKernel(environment: NodeJS.ProcessEnv = process.env): GuestKernel {
  const chosen = environment['ROOTLAYER_VM_KERNEL'];
  if (chosen !== undefined && chosen !== '') return openKernel(chosen);
  if (existsSync(path.join(INSTALLED, 'vmlinuz'))) return openKernel(INSTALLED);
  const release = newestOf(readdirSync('/boot').flatMap((name) => /^vmlinuz-(.*cloud.*)$/.exec(name)?.[1] ?? []));
  if (release === undefined) throw new RootlayerError('E_MISSING_FEATURE', 'Cannot find a kernel for virtual machines', { hint: HINT });
  return checked({ vmlinuzPath: `/boot/vmlinuz-${release}`, modulesPath: `/lib/modules/${release}` });
}

/** Gives the kernel in a directory with "vmlinuz" and "modules/". Throws `E_MISSING_FEATURE` when it is none, or too old. */
export function openKernel(directory: string): GuestKernel {
  return checked({ vmlinuzPath: path.join(directory, 'vmlinuz'), modulesPath: path.join(directory, 'modules') });
}

function newestOf(releases: string[]): string | undefined {
  const installed = releases.filter((release) => existsSync(`/lib/modules/${release}/modules.builtin`));
  return installed.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).at(-1);
}

function checked(places: Omit<GuestKernel, 'release'>): GuestKernel {
  const { vmlinuzPath, modulesPath } = places;
  const refuse = (why: string): RootlayerError =>
    new RootlayerError('E_MISSING_FEATURE', `Cannot use kernel "${vmlinuzPath}" for virtual machines: ${why}`, { hint: HINT });
  if (!existsSync(vmlinuzPath)) throw refuse('there is no such file');
  if (!existsSync(path.join(modulesPath, 'modules.builtin'))) throw refuse(`its modules are not in "${modulesPath}"`);
  const release = readRelease(readStart(vmlinuzPath));
  if (release === null) throw refuse('it is no bzImage');
  if (!isNewEnough(release)) throw refuse(`it is Linux ${release}, want ${OLDEST.join('.')} or later`);
  return { ...places, release };
}

function isNewEnough(release: string): boolean {
  const [major = 0, minor = 0] = release.split('.', 2).map((part) => Number.parseInt(part, 10));
  return major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
}

/** The setup code, in which a bzImage has its release: 64 sectors at most. */
function readStart(file: string): Buffer {
  const start = Buffer.alloc(64 * 512);
  const fd = openSync(file, 'r');
  try {
    return start.subarray(0, readSync(fd, start, 0, start.length, 0));
  } finally {
    closeSync(fd);
  }
}
