import type { DiffId } from '../core/digest.ts';
import type { RootlayerError } from '../core/errors.ts';
import type { CompatChoice, IsolationReport, JobRequest, JobUsage, LayerSummary } from '../core/job.ts';
import { Scope } from '../core/scope.ts';
import type { CgroupManager } from '../host/cgroup.ts';
import type { IdMaps } from '../host/idmap.ts';
import type { OverlayMounter } from '../overlay/mounter.ts';
import type { UpperFactory } from '../overlay/upper.ts';
import { NamespaceRun } from './namespace-run.ts';
import type { OutputSink } from './output.ts';
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
  /** Extracts the members below `prefix` of an uploaded context into a directory, as root of the given id range. */
  extractContext(contextId: string, prefix: 'copy' | 'files', directoryFd: number, uidBase: number, signal: AbortSignal): Promise<void>;
  /** Packs a frozen upper against the view of its lower layers (null for `scratch`), and takes the layer into the store. */
  capture(
    job: { sourceDateEpoch: number | null; compat: CompatChoice; id: string },
    upperFd: number,
    lowerFd: number | null,
    signal: AbortSignal,
  ): Promise<LayerSummary>;
  /** The layer of a job that changed nothing. */
  emptyLayer: LayerSummary;
  /** Lets a capture worker start while the script runs. */
  prepareCapture(): void;
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
  onRunning(): void;
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
  const run = new NamespaceRun(parts, job, scope);
  const outcome = run.run(signal);
  const release = async (): Promise<void> => await scope[Symbol.asyncDispose]();
  return { outcome, released: outcome.then(release, release) };
}
