import type { DiffId } from '../core/digest.ts';
import type { Progress } from '../core/engine.ts';
import type { RootlayerError } from '../core/errors.ts';
import type { CompatChoice, IsolationReport, JobRequest, JobUsage, LayerSummary } from '../core/job.ts';
import type { Limits } from '../core/limits.ts';
import { Scope } from '../core/scope.ts';
import type { CgroupLimits, CgroupManager } from '../host/cgroup.ts';
import type { IdMaps } from '../host/idmap.ts';
import type { Worker } from '../host/worker.ts';
import type { VmJob, VmRun } from '../isolation/vm/types.ts';
import type { OverlayMounter } from '../overlay/mounter.ts';
import type { Upper, UpperFactory } from '../overlay/upper.ts';
import type { ContextTop } from '../store/unpack/context-filter.ts';
import { NamespaceRun } from './namespace-run.ts';
import type { OutputSink } from './output.ts';
import type { TerminalDevice } from './terminal.ts';
import { VirtualMachineRun } from './vm-run.ts';
import type { ReachedLimit } from './watch.ts';

/** An id range with its user namespaces, and the one that shows stored layers with plain ids. Given back on dispose. */
export type RangeLease = { maps: IdMaps; plainFd: number } & AsyncDisposable;

/** What the runner is given by the engine. */
export type RunnerParts = {
  cgroups: CgroupManager;
  uppers: UpperFactory;
  mounter: OverlayMounter;
  devicesFd(isolation: 'userns' | 'chroot', range: RangeLease): number;
  seccompFd: number;
  takeRange(signal: AbortSignal): Promise<RangeLease>;
  /**
   * Extracts one part of an uploaded context, if it is there, into a directory, as root of the given id range. `lower` is the merged base below
   * that directory, with the ids of the range, or null.
   */
  extractContext(
    contextId: string,
    top: ContextTop,
    fds: { directory: number; lower: number | null },
    uidBase: number,
    signal: AbortSignal,
  ): Promise<void>;
  /** Packs a frozen upper against the view of its lower layers (null for `scratch`), and takes the layer into the store. */
  capture(
    job: { sourceDateEpoch: number | null; compat: CompatChoice; id: string; devices: 'refuse' | 'keep' },
    upperFd: number,
    lowerFd: number | null,
    signal: AbortSignal,
  ): Promise<LayerSummary>;
  /** The layer of a job that changed nothing. */
  emptyLayer: LayerSummary;
  /** Lets a capture worker start while the script runs. */
  prepareCapture(): void;
  vm: VmParts;
};

/** What jobs in virtual machines need besides. */
export type VmParts = {
  /** Bounds QEMU itself, whatever its guest does. */
  cgroupLimits(limits: Limits): CgroupLimits;
  /** Read-only EROFS images of the layers, topmost first, with the store's ids shown as plain ones by the namespace of `plainFd`. The caller closes them. */
  openDisks(layers: BaseLayer[], plainFd: number, progress: Progress, signal: AbortSignal): Promise<number[]>;
  /** A read-only EROFS image of a directory with plain ids. The caller closes it. */
  packDisk(directoryFd: number, signal: AbortSignal): Promise<number>;
  start(job: VmJob, signal: AbortSignal): VmRun;
  /** Starts the worker that will unpack a result, as root of the range; whoever asked disposes it. */
  startResultWorker(range: RangeLease, signal: AbortSignal): Promise<Worker>;
  /** Writes the tar that a guest sends into a fresh upper, by that worker; gives what could not be kept, a sentence each. */
  unpackResult(
    resultFd: number,
    upper: Upper,
    range: RangeLease,
    worker: Worker,
    progress: Progress,
    signal: AbortSignal,
  ): Promise<string[]>;
};

/** An unpacked layer of a base image. */
export type BaseLayer = { diffId: DiffId; path: string };

/** One job, as the runner sees it. */
export type RunnableJob = {
  id: string;
  request: JobRequest;
  isolation: IsolationReport;
  /** Unpacked layers of the base, topmost first; empty for `scratch`. */
  layers: BaseLayer[];
  contextId: string | null;
  sink: OutputSink;
  onProgress: Progress;
  /** Called before {@link onRunning} for a script that has a terminal. */
  onTerminal(device: TerminalDevice): void;
  /** `acceleration` of a virtual machine, null for other isolations. */
  onRunning(acceleration: 'kvm' | 'tcg' | null): void;
  onCapturing(): void;
};

/** What came of a job's run. `error` is null only with a layer. */
export type Outcome = {
  exitStatus: number | null;
  reached: ReachedLimit | null;
  usage: JobUsage | null;
  layer: LayerSummary | null;
  error: RootlayerError | null;
  timingsMs: Record<string, number>;
};

/**
 * Runs one job from base layers to captured layer. Whatever happens, everything it took is released: `released` resolves
 * when the last of it is gone, a few milliseconds after the outcome, so that a caller need not wait for the kernel's clean-up.
 */
export function runJob(parts: RunnerParts, job: RunnableJob, signal: AbortSignal): { outcome: Promise<Outcome>; released: Promise<void> } {
  const scope = new Scope();
  const run = job.isolation.used === 'vm' ? new VirtualMachineRun(parts, job, scope) : new NamespaceRun(parts, job, scope);
  const outcome = run.run(signal);
  const release = async (): Promise<void> => await scope[Symbol.asyncDispose]();
  return { outcome, released: outcome.then(release, release) };
}
