import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Feature } from './core/engine.ts';
import { AGENT, buildGuestImage } from './guest/guest-image.ts';
import { findKernel } from './guest/kernel.ts';
import { CgroupManager } from './host/cgroup.ts';
import { knownAccelerationFeature, triedAccelerationFeature, vmPartFeatures } from './isolation/vm/features.ts';
import { readQemuVersion } from './isolation/vm/jail.ts';
import { VirtualMachines } from './isolation/vm/machines.ts';
import { vmReadiness } from './isolation/vm/readiness.ts';
import type { VmStatus } from './isolation/vm/types.ts';

/** A host user that no job and no other program has: the last below the ranges of jobs. */
const UID = 0x6fff_ffff;
/** Those of a job that sets none: what is saved meanwhile serves the first job. */
const LIMITS = { memoryBytes: 2 * 1024 ** 3, cpus: 1 };

/** What is there for virtual machines, from the engine's directory for them; nothing is started. */
export function findVmFeatures(directory: string): Feature[] {
  return [...vmPartFeatures(readQemuVersion, findKernel), knownAccelerationFeature(vmReadiness(directory, () => findKernel()))];
}

/**
 * The same, by booting a guest: some seconds, ten more where /dev/kvm deceives. What was found is remembered in the directory for as long as this
 * machine runs; without a directory it is forgotten. Needs root.
 */
export async function tryVmFeatures(directory: string | null, signal: AbortSignal): Promise<Feature[]> {
  const place = directory ?? mkdtempSync(join(tmpdir(), 'rootlayer-vm-'));
  try {
    return [...vmPartFeatures(readQemuVersion, findKernel), triedAccelerationFeature(await boot(place, signal))];
  } finally {
    if (directory === null) rmSync(place, { recursive: true });
  }
}

async function boot(directory: string, signal: AbortSignal): Promise<VmStatus> {
  const cgroups = CgroupManager.open(`vm-probe-${process.pid}`, false);
  cgroups.removeLeftovers();
  let seats = 0;
  try {
    await using machines = VirtualMachines.open({
      directory,
      emulation: 'allow',
      findGuest: async (signal) =>
        await buildGuestImage({ kernel: findKernel(), agentPath: AGENT, outputDir: join(directory, 'guest') }, signal),
      takeSeat: async (limits) => {
        seats += 1;
        const cgroup = cgroups.create(String(seats), limits);
        return { uid: UID, cgroup, [Symbol.asyncDispose]: async () => await cgroup[Symbol.asyncDispose]() };
      },
      // An engine may be running from the same directory.
      removeOthers: false,
    });
    return await machines.status(LIMITS, signal);
  } finally {
    cgroups.close();
  }
}
