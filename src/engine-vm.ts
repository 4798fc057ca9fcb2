import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type { Scope } from './core/scope.ts';
import { type DiskStore, Disks } from './erofs/disks.ts';
import { diskWorkerKind, makeDisk } from './erofs/make-disk.ts';
import { AGENT, buildGuestImage } from './guest/guest-image.ts';
import { findKernel } from './guest/kernel.ts';
import type { CgroupManager } from './host/cgroup.ts';
import { startWorker, type Worker } from './host/worker.ts';
import type { VmReadiness } from './isolation/choose.ts';
import { vmCgroupLimits, vmUid } from './isolation/vm/machine.ts';
import { VirtualMachines } from './isolation/vm/machines.ts';
import { openNameless } from './isolation/vm/nameless-file.ts';
import { vmReadiness } from './isolation/vm/readiness.ts';
import type { VmSeat } from './isolation/vm/types.ts';
import type { RangeLease, VmParts } from './job/runner.ts';
import type { OverlayMounter } from './overlay/mounter.ts';
import { unpackWorkerKind } from './store/unpack/unpack-layer.ts';
import { unpackResult } from './store/unpack/unpack-result.ts';

/** What virtual machines are put together from. */
export type EngineVmParts = {
  /** Keeps QEMU's files, the guest image and saved states. */
  directory: string;
  cgroups: CgroupManager;
  takeRange(signal: AbortSignal): Promise<RangeLease>;
  mounter: OverlayMounter;
  /** Where images of layers are kept. */
  disks: DiskStore;
  /** The policy's word on software emulation. */
  emulation: 'allow' | 'refuse';
  /** Throws when the disk has no room for an image. */
  checkSpace(): void;
};

/** Virtual machines as the engine uses them. */
export type EngineVm = { machines: VirtualMachines; parts: VmParts; readiness(): VmReadiness };

/** Puts the virtual machines of an engine together. Nothing is looked for, or made, before the first job that wants one. */
export function assembleVm(parts: EngineVmParts, scope: Scope): EngineVm {
  const { directory } = parts;
  const machines = scope.use(
    VirtualMachines.open({
      directory,
      emulation: parts.emulation,
      findGuest: async (signal) =>
        await buildGuestImage({ kernel: findKernel(), agentPath: AGENT, outputDir: join(directory, 'guest') }, signal),
      takeSeat: async (limits, signal) => await takeSeat(parts, limits, signal),
      removeOthers: true,
    }),
  );
  const disks = new Disks({ store: parts.disks, mounter: parts.mounter, takeWorker: takeDiskWorker, checkSpace: parts.checkSpace });
  return {
    machines,
    readiness: () => vmReadiness(directory, () => findKernel()),
    parts: {
      cgroupLimits: vmCgroupLimits,
      openDisks: async (layers, plainFd, progress, signal) => await disks.open(layers, plainFd, progress, signal),
      packDisk: async (root, signal) => await packDisk(directory, root, signal),
      start: (job, signal) => machines.start(job, signal),
      startResultWorker: async ({ maps }, signal) => await startWorker(unpackWorkerKind(maps.base), [], signal),
      unpackResult: async (tarFd, upper, { maps }, worker, progress, signal) =>
        (await unpackResult({ tarFd, upper, uidBase: maps.base, takeWorker: async () => worker, progress, signal })).warnings,
    },
  };
}

async function takeDiskWorker(signal: AbortSignal): Promise<Worker> {
  return await startWorker(diskWorkerKind, [], signal);
}

/** An image without a name, open for reading. */
async function packDisk(directory: string, root: number, signal: AbortSignal): Promise<number> {
  return await openNameless(directory, async (output) => {
    await using worker = await takeDiskWorker(signal);
    await makeDisk(worker, { root, output }, {}, null, signal);
  });
}

/** A place for the machine that a state is saved from: ids and a control group that no job has. */
async function takeSeat(
  { cgroups, takeRange }: EngineVmParts,
  limits: { memoryBytes: number; pids: number; cpus: number },
  signal: AbortSignal,
): Promise<VmSeat> {
  const range = await takeRange(signal);
  try {
    const cgroup = cgroups.create(`vm-${randomBytes(4).toString('hex')}`, limits);
    return {
      uid: vmUid(range.maps.base),
      cgroup,
      [Symbol.asyncDispose]: async () => {
        await cgroup[Symbol.asyncDispose]();
        await range[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await range[Symbol.asyncDispose]();
    throw error;
  }
}
