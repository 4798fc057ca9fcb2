import type { RootlayerError } from '../core/errors.ts';
import type { LayerSummary } from '../core/job.ts';
import type { Scope } from '../core/scope.ts';
import type { Cgroup, CgroupUsage } from '../host/cgroup.ts';
import { close } from '../host/libc.ts';
import type { Worker } from '../host/worker.ts';
import { SCRIPT_ENVIRONMENT, scriptCandidates } from '../isolation/job-files.ts';
import { vmUid } from '../isolation/vm/machine.ts';
import { stepError } from '../isolation/vm/session.ts';
import type { VmClaims, VmEnd, VmRun } from '../isolation/vm/types.ts';
import { closeLowers, openLowers, openLowerView } from '../overlay/lower.ts';
import { copyRootAttributes } from '../overlay/rootfs.ts';
import type { Upper } from '../overlay/upper.ts';
import { extractCopies } from './copies.ts';
import { judge, startError } from './judge.ts';
import { OutputText } from './output.ts';
import type { Outcome, RangeLease, RunnableJob, RunnerParts } from './runner.ts';
import { Stages } from './stages.ts';
import { LimitWatch, type ReachedLimit } from './watch.ts';

const FILES_LIMITS = { diskBytes: 320 * 1024 * 1024, inodes: 65_536 };
const SIGKILL = 9;
/** While it starts, QEMU's own threads and the guest's processor work side by side, and nothing of the job has run: held back, it takes a quarter longer. */
const STARTING_CPUS = 1;
/** More than a layer may have, since the headers of a result take more room; what is in it is limited by its reader. */
const MAX_RESULT_BYTES = 10 * 1024 ** 3;

/**
 * One job in a virtual machine. The guest gets disks that the host made and gives back one stream, which a confined worker writes to an
 * upper of the host's own: from there on everything is as for a job in namespaces.
 */
export class VirtualMachineRun {
  readonly #parts: RunnerParts;
  readonly #job: RunnableJob;
  readonly #scope: Scope;
  readonly #stages = new Stages();
  #outputBytes = 0;
  #lastOutputMs = performance.now();
  #watch: LimitWatch | null = null;
  /** Unpacks the result; it starts while the script runs. */
  #worker: Promise<Worker> | null = null;

  constructor(parts: RunnerParts, job: RunnableJob, scope: Scope) {
    this.#parts = parts;
    this.#job = job;
    this.#scope = scope;
  }

  async run(signal: AbortSignal): Promise<Outcome> {
    signal.throwIfAborted();
    const range = this.#scope.use(await this.#parts.takeRange(signal));
    const bounds = this.#parts.vm.cgroupLimits(this.#job.request.limits);
    const cgroup = this.#scope.use(this.#parts.cgroups.create(this.#job.id, { ...bounds, cpus: bounds.cpus + STARTING_CPUS }));
    const machine = await this.#start(range, cgroup, signal);
    const ran = await this.#runScript(machine, cgroup, range, signal);
    if (ran.error !== null) return { ...ran.outcome, layer: null, error: ran.error, timingsMs: this.#timings(machine) };
    this.#stages.next('capture');
    this.#job.onCapturing();
    const layer = await this.#capture(machine, range, ran.changed, signal);
    this.#stages.next('end');
    return { ...ran.outcome, layer, error: null, timingsMs: this.#timings(machine) };
  }

  #timings(machine: VmRun): Record<string, number> {
    const marks = Object.entries(machine.timingsMs).map(([name, ms]) => [`vm-${name}`, Math.round(ms * 10) / 10]);
    return { ...this.#stages.timingsMs, ...Object.fromEntries(marks) };
  }

  async #start(range: RangeLease, cgroup: Cgroup, signal: AbortSignal): Promise<VmRun> {
    const { request, id, layers, onProgress } = this.#job;
    const script = Buffer.from(request.script, 'base64');
    const lowerFds = await this.#parts.vm.openDisks(layers, range.plainFd, onProgress, signal);
    this.#scope.defer(() => closeLowers(lowerFds));
    const filesFd = await this.#makeFilesDisk(range, signal);
    const scratchFd = await this.#makeScratch(range, signal);
    this.#stages.next('boot');
    const texts = { stdout: new OutputText('stdout', this.#job.sink), stderr: new OutputText('stderr', this.#job.sink) };
    const machine = this.#parts.vm.start(
      {
        id,
        lowerFds,
        filesFd,
        scratchFd,
        script,
        program: { candidates: scriptCandidates(script), env: { ...SCRIPT_ENVIRONMENT, ...request.env } },
        limits: request.limits,
        hostname: 'rootlayer',
        terminal: request.terminal,
        uid: vmUid(range.maps.base),
        cgroup,
        maxResultBytes: MAX_RESULT_BYTES,
        onOutput: (stream, bytes) => {
          this.#outputBytes += bytes.length;
          this.#lastOutputMs = performance.now();
          texts[stream].push(bytes);
          this.#watch?.checkOutput();
        },
      },
      signal,
    );
    this.#scope.defer(async () => {
      machine.kill();
      await machine.released;
    });
    void machine.ended.then(() => {
      for (const text of Object.values(texts)) text.end();
    });
    return machine;
  }

  /** The files that are shown to the script only, as a disk of their own. */
  async #makeFilesDisk(range: RangeLease, signal: AbortSignal): Promise<number | null> {
    const { contextId, id } = this.#job;
    if (contextId === null) return null;
    const upper = await this.#parts.uppers.create(FILES_LIMITS, range.maps.upperFd, `${id}-files`);
    try {
      await this.#parts.extractContext(contextId, 'files', { directory: upper.upperDirFd, lower: null }, range.maps.base, signal);
      return this.#keep(await this.#parts.vm.packDisk(upper.plainDirFd, signal));
    } finally {
      await upper.close();
    }
  }

  async #makeScratch(range: RangeLease, signal: AbortSignal): Promise<number> {
    const { contextId, id, request } = this.#job;
    const fill =
      contextId === null
        ? null
        : (upper: Upper): Promise<void> => extractCopies(this.#parts, this.#job, range, upper, range.maps.base, signal);
    return this.#keep(await this.#parts.uppers.createDisk(request.limits, range.maps.upperFd, id, fill));
  }

  #keep(fd: number): number {
    this.#scope.defer(() => close(fd));
    return fd;
  }

  async #runScript(machine: VmRun, cgroup: Cgroup, range: RangeLease, signal: AbortSignal): Promise<Ran> {
    const onAbort = (): void => machine.kill();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      if (signal.aborted) onAbort();
      const hasStarted = await machine.started.then(
        () => true,
        () => false,
      );
      if (hasStarted) {
        this.#beginWatch(machine, cgroup);
        this.#startWorker(range, signal);
      }
      const end = await machine.ended;
      this.#watch?.[Symbol.dispose]();
      signal.throwIfAborted();
      return this.#judge(end, this.#watch?.reached ?? null, cgroup.usage());
    } finally {
      this.#watch?.[Symbol.dispose]();
      signal.removeEventListener('abort', onAbort);
    }
  }

  #beginWatch(machine: VmRun, cgroup: Cgroup): void {
    this.#stages.next('run');
    cgroup.limitCpus(this.#job.request.limits.cpus);
    if (this.#job.request.terminal !== null) {
      this.#job.onTerminal({ write: (bytes) => machine.input(bytes), resize: ({ rows, columns }) => machine.resize(rows, columns) });
    }
    this.#job.onRunning(machine.acceleration);
    this.#parts.prepareCapture();
    this.#watch = new LimitWatch({
      limits: this.#job.request.limits,
      outputBytes: () => this.#outputBytes,
      lastOutputMs: () => this.#lastOutputMs,
      usage: () => cgroup.usage(),
      kill: () => machine.kill(),
    });
  }

  #startWorker(range: RangeLease, signal: AbortSignal): void {
    const worker = this.#parts.vm.startResultWorker(range, signal);
    this.#worker = worker;
    // One that does not start is told where it is wanted.
    worker.catch(() => {});
    this.#scope.defer(async () => {
      const [started] = await Promise.allSettled([worker]);
      if (started?.status === 'fulfilled') await started.value[Symbol.asyncDispose]();
    });
  }

  #judge(end: VmEnd, watched: ReachedLimit | null, usage: CgroupUsage): Ran {
    if (end.kind === 'failed' && watched === null && usage.oomKills === 0) throw end.error;
    if (end.kind === 'error' && watched === null) {
      const cause = stepError(end.step, end.errno);
      throw startError(end.step, end.errno, cause) ?? cause;
    }
    const hasEnded = end.kind === 'exit' || end.kind === 'signal';
    const claims = hasEnded ? end.claims : NO_CLAIMS;
    const verdict = judge({
      end: hasEnded ? end : { kind: 'signal', signal: SIGKILL },
      watched,
      limits: this.#job.request.limits,
      usage: believe(usage, claims),
      disk: { bytes: claims.diskBytes ?? 0, bytesLeft: claims.bytesLeft ?? Infinity, inodesLeft: claims.inodesLeft ?? Infinity },
      outputBytes: this.#outputBytes,
    });
    const { error, ...outcome } = verdict;
    return { outcome, error, changed: claims.changed };
  }

  /** A job that changed nothing needs no result: its layer is the empty one. */
  async #capture(machine: VmRun, range: RangeLease, changed: boolean, signal: AbortSignal): Promise<LayerSummary> {
    const { sourceDateEpoch, compat, limits } = this.#job.request;
    if (!changed && compat === 'none') return this.#parts.emptyLayer;
    const lowerView = await this.#openLowerView(range);
    const upper = await this.#parts.uppers.create(limits, range.maps.upperFd, `${this.#job.id}-result`);
    this.#scope.defer(async () => await upper.close());
    copyRootAttributes(upper, lowerView);
    const warnings = changed ? await this.#receive(machine, upper, range, signal) : [];
    machine.kill();
    await upper.freeze();
    const job = { sourceDateEpoch, compat, id: this.#job.id, devices: 'keep' as const };
    const layer = await this.#parts.capture(job, upper.plainDirFd, lowerView, signal);
    return { ...layer, warnings: [...warnings, ...layer.warnings] };
  }

  async #openLowerView(range: RangeLease): Promise<number | null> {
    const lowers = openLowers(
      this.#job.layers.map((layer) => layer.path),
      range.plainFd,
    );
    this.#scope.defer(() => closeLowers(lowers));
    if (lowers.length === 0) return null;
    return this.#keep(await openLowerView(this.#parts.mounter, lowers));
  }

  /** Reader and guest end together: when one fails, the other is told. */
  async #receive(machine: VmRun, upper: Upper, range: RangeLease, signal: AbortSignal): Promise<string[]> {
    const worker = await (this.#worker ?? this.#parts.vm.startResultWorker(range, signal));
    const stop = new AbortController();
    const failures: unknown[] = [];
    const whole = machine.resultDone.catch((error: unknown) => {
      failures.push(error);
      stop.abort(error);
    });
    const both = AbortSignal.any([signal, stop.signal]);
    const written = this.#parts.vm
      .unpackResult(machine.resultFd, upper, range, worker, this.#job.onProgress, both)
      .catch((error: unknown) => {
        failures.push(error);
        machine.kill();
        return [];
      });
    const [, warnings] = await Promise.all([whole, written]);
    signal.throwIfAborted();
    // Whoever failed first tells why: the other one was only stopped.
    if (failures.length > 0) throw failures[0];
    return warnings;
  }
}

type Ran = { outcome: Pick<Outcome, 'exitStatus' | 'reached' | 'usage'>; error: RootlayerError | null; changed: boolean };

const NO_CLAIMS: VmClaims = {
  oomKills: 0,
  forksRefused: 0,
  memoryPeakBytes: null,
  pidsPeak: null,
  diskBytes: null,
  bytesLeft: null,
  inodesLeft: null,
  changed: false,
};

/** What the host counted is about the machine; about the script only the guest can tell. */
function believe(usage: CgroupUsage, claims: VmClaims): CgroupUsage {
  return {
    memoryPeakBytes: claims.memoryPeakBytes ?? usage.memoryPeakBytes,
    pidsPeak: claims.pidsPeak,
    cpuMs: usage.cpuMs,
    oomKills: usage.oomKills + claims.oomKills,
    forksRefused: claims.forksRefused,
  };
}
