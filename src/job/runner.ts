import { existsSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { RootlayerError } from '../core/errors.ts';
import type { CompatChoice, IsolationReport, JobRequest, JobUsage, LayerSummary } from '../core/job.ts';
import { Scope } from '../core/scope.ts';
import type { CgroupManager, CgroupUsage } from '../host/cgroup.ts';
import type { IdMaps } from '../host/idmap.ts';
import type { LaunchEnd } from '../host/launcher.ts';
import { AT_FDCWD, cloneTree, close, isEmptyDirectory, MOUNT_ATTR_RDONLY, setMountAttributes, statFd } from '../host/libc.ts';
import { makeJobFiles, SCRIPT_ENVIRONMENT, scriptCandidates } from '../isolation/job-files.ts';
import { type Sandbox, startSandbox } from '../isolation/sandbox.ts';
import { closeLowers, openLowers, openLowerView } from '../overlay/lower.ts';
import type { OverlayMounter } from '../overlay/mounter.ts';
import { copyRootAttributes, mountRootfs } from '../overlay/rootfs.ts';
import type { Upper, UpperFactory } from '../overlay/upper.ts';
import { JobOutput, type OutputSink } from './output.ts';
import { Stages } from './stages.ts';
import { LimitWatch, limitBehindFailure, type ReachedLimit } from './watch.ts';

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

/** One job, as the runner sees it. */
export type RunnableJob = {
  id: string;
  request: JobRequest;
  isolation: IsolationReport;
  /** Unpacked layers of the base, topmost first; empty for `scratch`. */
  layerPaths: string[];
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

const FILES_BYTES = 256 * 1024 * 1024;
const DRAIN_MS = 2000;

/**
 * Runs one job from base layers to captured layer. Whatever happens, everything it took is released: `released` resolves
 * when the last of it is gone, a few milliseconds after the outcome, so that a caller need not wait for the kernel's clean-up.
 */
export function runJob(parts: RunnerParts, job: RunnableJob, signal: AbortSignal): { outcome: Promise<Outcome>; released: Promise<void> } {
  const scope = new Scope();
  const run = new JobRun(parts, job, scope);
  const outcome = run.run(signal);
  const release = async (): Promise<void> => await scope[Symbol.asyncDispose]();
  return { outcome, released: outcome.then(release, release) };
}

class JobRun {
  readonly #parts: RunnerParts;
  readonly #job: RunnableJob;
  readonly #scope: Scope;
  readonly #stages = new Stages();
  /** Descriptors that are closed before the job ends, or with the scope when it does not get that far. */
  readonly #open = new Set<number>();

  constructor(parts: RunnerParts, job: RunnableJob, scope: Scope) {
    this.#parts = parts;
    this.#job = job;
    this.#scope = scope;
    scope.defer(() => this.#close(...this.#open));
  }

  #keep(fd: number): number {
    this.#open.add(fd);
    return fd;
  }

  #close(...fds: number[]): void {
    for (const fd of fds) if (this.#open.delete(fd)) close(fd);
  }

  async run(signal: AbortSignal): Promise<Outcome> {
    signal.throwIfAborted();
    const range = this.#scope.use(await this.#parts.takeRange(signal));
    const prepared = await this.#prepare(range, signal);
    const ran = await this.#runScript(range, prepared, signal);
    if (ran.error !== null) return { ...ran, layer: null, timingsMs: this.#stages.timingsMs };
    this.#stages.next('capture');
    const layer = await this.#capture(prepared, signal);
    this.#stages.next('end');
    return { ...ran, layer, timingsMs: this.#stages.timingsMs };
  }

  /** Everything up to the mounted root: upper, lowers, context. */
  async #prepare(range: RangeLease, signal: AbortSignal): Promise<Prepared> {
    const { request, isolation, id, layerPaths } = this.#job;
    const isUserns = isolation.used === 'userns';
    const uidBase = isUserns ? range.maps.base : 0;
    const upper = await this.#parts.uppers.create(request.limits, isUserns ? range.maps.upperFd : null, id);
    // Unmounting a used upper takes the kernel some milliseconds: not on the daemon's only thread.
    this.#scope.defer(async () => await upper.close());
    const plainLowers = openLowers(layerPaths, range.plainFd);
    this.#scope.defer(() => closeLowers(plainLowers));
    const lowerView = plainLowers.length === 0 ? null : await openLowerView(this.#parts.mounter, plainLowers);
    if (lowerView !== null) this.#scope.defer(() => close(lowerView));
    copyRootAttributes(upper, lowerView);
    if (this.#job.contextId !== null) {
      await this.#parts.extractContext(this.#job.contextId, 'copy', upper.upperDirFd, uidBase, signal);
      // Copying contents changed the root's own time; the base's counts until the script changes it.
      copyRootAttributes(upper, lowerView);
    }
    const before = rootFingerprint(upper);
    const rootFd = this.#keep(await this.#mountRoot(range, upper, uidBase));
    return { upper, lowerView, rootFd, uidBase, before };
  }

  async #mountRoot(range: RangeLease, upper: Upper, uidBase: number): Promise<number> {
    const { request, isolation, layerPaths } = this.#job;
    const isUserns = isolation.used === 'userns';
    const lowerFds = openLowers(layerPaths, isUserns ? range.maps.lowerFd : range.plainFd);
    try {
      return await mountRootfs(this.#parts.mounter, {
        lowerFds,
        upper,
        uidBase,
        devices: !isUserns,
        resolvConf: request.network === 'host',
      });
    } finally {
      closeLowers(lowerFds);
    }
  }

  async #runScript(range: RangeLease, prepared: Prepared, signal: AbortSignal): Promise<Omit<Outcome, 'layer' | 'timingsMs'>> {
    const { request, contextId, id } = this.#job;
    const { uidBase, upper } = prepared;
    const script = Buffer.from(request.script, 'base64');
    const fill = contextId === null ? null : (fd: number) => this.#parts.extractContext(contextId, 'files', fd, uidBase, signal);
    const filesFd = this.#keep(await makeJobFiles(script, uidBase, FILES_BYTES + script.length, fill));
    const cgroup = this.#scope.use(this.#parts.cgroups.create(id, request.limits));
    const output = new JobOutput(uidBase, (stream, data, encoding) => {
      this.#job.sink(stream, data, encoding);
      watch?.checkOutput();
    });
    this.#scope.defer(() => output.destroy());
    let watch: LimitWatch | null = null;
    const sandbox = this.#start(range, prepared, script, filesFd, cgroup, output);
    const onAbort = (): void => sandbox.kill();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      if (signal.aborted) onAbort();
      await sandbox.started;
      this.#stages.next('run');
      this.#job.onRunning();
      this.#parts.prepareCapture();
      watch = new LimitWatch({
        limits: request.limits,
        outputBytes: () => output.bytes,
        lastOutputMs: () => output.lastMs,
        usage: () => cgroup.usage(),
        kill: () => sandbox.kill(),
      });
      const end = await sandbox.ended;
      watch[Symbol.dispose]();
      cgroup.kill();
      await output.drained(DRAIN_MS);
      return this.#judge(end, watch.reached, upper, cgroup.usage(), output.bytes, signal);
    } catch (error) {
      sandbox.kill();
      await sandbox.ended;
      signal.throwIfAborted();
      throw this.#explainStart(error);
    } finally {
      watch?.[Symbol.dispose]();
      signal.removeEventListener('abort', onAbort);
    }
  }

  #start(
    range: RangeLease,
    prepared: Prepared,
    script: Buffer,
    filesFd: number,
    cgroup: ReturnType<CgroupManager['create']>,
    output: JobOutput,
  ): Sandbox {
    const { request, isolation } = this.#job;
    const used = isolation.used === 'chroot' ? 'chroot' : 'userns';
    const resolvConfFd = request.network === 'host' ? this.#keep(openResolvConf()) : null;
    try {
      return startSandbox({
        isolation: used,
        rootFd: prepared.rootFd,
        filesFd,
        devicesFd: this.#parts.devicesFd(used, range),
        resolvConfFd,
        seccompFd: used === 'userns' ? this.#parts.seccompFd : null,
        uidBase: prepared.uidBase,
        network: request.network,
        program: { candidates: scriptCandidates(script), env: { ...SCRIPT_ENVIRONMENT, ...request.env } },
        cgroup,
        stdoutFd: output.stdoutFd,
        stderrFd: output.stderrFd,
        fileSizeBytes: request.limits.diskBytes,
      });
    } finally {
      output.closeWriters();
      // The sandbox has its own copies by now: with ours closed, its end is the end of the mounts.
      this.#close(prepared.rootFd, filesFd, ...(resolvConfFd === null ? [] : [resolvConfFd]));
    }
  }

  #explainStart(error: unknown): unknown {
    const failure = error instanceof RootlayerError ? /step "(\w+)" failed with (\w+)/.exec(error.message) : null;
    if (failure?.[1] === 'exec' && failure[2] === 'E2BIG') {
      return new RootlayerError('E_USAGE', 'Cannot run the script: its environment is too large', {
        hint: 'Give large values as files, with --file.',
        cause: error,
      });
    }
    if (failure?.[1] === 'exec' && ['ENOENT', 'EACCES', 'ENOTDIR', 'ENOEXEC', 'ELOOP'].includes(failure[2] ?? '')) {
      return new RootlayerError(
        'E_IMAGE_LAYOUT',
        'Cannot run the script: the base image has no shell that starts, want /bin/bash or /bin/sh',
        {
          hint: 'Choose a base with a shell, or start the script with "#!" and a program that the image or --copy brings.',
          cause: error,
        },
      );
    }
    return error;
  }

  #judge(
    end: LaunchEnd,
    watched: ReachedLimit | null,
    upper: Upper,
    usage: CgroupUsage,
    outputBytes: number,
    signal: AbortSignal,
  ): Omit<Outcome, 'layer' | 'timingsMs'> {
    signal.throwIfAborted();
    if (end.kind === 'error' && watched === null)
      throw new RootlayerError('E_INTERNAL', `Cannot run the sandbox: step "${end.step}" failed with ${end.errno}`);
    const exitStatus = end.kind === 'exit' ? end.status : 128 + (end.kind === 'signal' ? end.signal : 9);
    const { limits } = this.#job.request;
    const disk = upper.usage();
    const reached =
      watched ??
      limitBehindFailure(limits, { usage, exitStatus, bytesLeft: disk.bytesLeft, inodesLeft: disk.inodesLeft, diskBytesUsed: disk.bytes });
    const jobUsage: JobUsage = {
      memoryPeakBytes: usage.memoryPeakBytes,
      pidsPeak: usage.pidsPeak,
      cpuMs: usage.cpuMs,
      diskBytes: disk.bytes,
      outputBytes,
    };
    const error = reached !== null ? limitError(reached) : exitStatus !== 0 ? scriptError(end, exitStatus) : null;
    return { exitStatus, reached, usage: jobUsage, error };
  }

  /** A job that left its upper as it was needs no worker: its layer is the empty one. */
  async #capture(prepared: Prepared, signal: AbortSignal): Promise<LayerSummary> {
    const { upper, lowerView, before } = prepared;
    this.#job.onCapturing();
    if (this.#job.request.compat === 'none' && isEmptyDirectory(upper.plainDirFd) && isDeepStrictEqual(rootFingerprint(upper), before))
      return this.#parts.emptyLayer;
    await upper.freeze();
    const { sourceDateEpoch, compat } = this.#job.request;
    return await this.#parts.capture({ sourceDateEpoch, compat, id: this.#job.id }, upper.plainDirFd, lowerView, signal);
  }
}

type Prepared = { upper: Upper; lowerView: number | null; rootFd: number; uidBase: number; before: object };

/** What of the root directory itself can be in a layer. */
function rootFingerprint(upper: Upper): object {
  const { mode, uid, gid, mtimeSec, mtimeNsec } = statFd(upper.plainDirFd);
  return { mode, uid, gid, mtimeSec, mtimeNsec, xattrs: upper.rootXattrs() };
}

function openResolvConf(): number {
  if (!existsSync('/etc/resolv.conf')) {
    throw new RootlayerError('E_MISSING_FEATURE', 'Cannot join the network of the host: it has no /etc/resolv.conf', {
      hint: 'Make one, or use --network none.',
    });
  }
  const fd = cloneTree(AT_FDCWD, '/etc/resolv.conf');
  setMountAttributes(fd, MOUNT_ATTR_RDONLY);
  return fd;
}

function limitError(reached: ReachedLimit): RootlayerError {
  const { limit, value, peak } = reached;
  const told = `${value}${peak === null ? '' : `, reached ${peak}`}`;
  switch (limit) {
    case 'memory':
      return new RootlayerError('E_LIMIT_MEMORY', `The script ran out of memory: limit ${told} bytes`, { hint: 'Raise it with --memory.' });
    case 'pids':
      return new RootlayerError('E_LIMIT_PIDS', `The script had too many processes: limit ${told}`, { hint: 'Raise it with --pids.' });
    case 'disk':
      return new RootlayerError('E_LIMIT_DISK', `The script filled its disk: limit ${told} bytes`, {
        hint: 'Raise it with --disk, or --inodes for many small files.',
      });
    case 'time':
      return new RootlayerError('E_LIMIT_TIME', `The script took too long: limit ${value} ms`, { hint: 'Raise it with --timeout.' });
    case 'silence':
      return new RootlayerError('E_LIMIT_SILENCE', `The script printed nothing for too long: limit ${value} ms`, {
        hint: 'Raise it with --silence.',
      });
    case 'output':
      return new RootlayerError('E_LIMIT_OUTPUT', `The script printed too much: limit ${told} bytes`, {
        hint: 'Raise it with --output-limit.',
      });
  }
}

function scriptError(end: LaunchEnd, exitStatus: number): RootlayerError {
  const how = end.kind === 'signal' ? `was ended by signal ${end.signal}` : `ended with status ${exitStatus}`;
  return new RootlayerError('E_SCRIPT', `The script ${how}`, { hint: 'Its log tells why; no layer was made.' });
}
