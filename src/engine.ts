import { createHash } from 'node:crypto';
import { closeSync, mkdirSync, openSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { captureLayer, captureWorkerKind } from './capture/capture-layer.ts';
import { digestOf, parseDiffId } from './core/digest.ts';
import type { Engine } from './core/engine.ts';
import { RootlayerError } from './core/errors.ts';
import type { ImageRecord } from './core/image.ts';
import type { LayerSummary } from './core/job.ts';
import { Scope } from './core/scope.ts';
import { assembleVm } from './engine-vm.ts';
import { CgroupManager } from './host/cgroup.ts';
import { close } from './host/libc.ts';
import { seccompArch } from './host/seccomp/arch.ts';
import { compileFilter } from './host/seccomp/bpf.ts';
import { jobProfile } from './host/seccomp/profile.ts';
import { WorkerPool } from './host/worker-pool.ts';
import { chooseIsolation, type IsolationPolicy } from './isolation/choose.ts';
import { openDevices } from './isolation/devices.ts';
import { type AdmissionLimits, checkFreeSpace, checkKeptJobs, checkLimits, checkQuota, DEFAULT_ADMISSION } from './job/admission.ts';
import { ContextStore } from './job/contexts.ts';
import type { QueueLimits } from './job/queue.ts';
import { DEFAULT_UID_BASE, RangePool } from './job/ranges.ts';
import type { RangeLease, RunnerParts } from './job/runner.ts';
import { type BaseLease, JobService } from './job/service.ts';
import { LocalEngine } from './local-engine.ts';
import { chooseMounter, type OverlayMounter } from './overlay/mounter.ts';
import { UpperFactory } from './overlay/upper.ts';
import { JobTable } from './state/jobs.ts';
import { Store } from './store/store.ts';
import { unpackContext } from './store/unpack/unpack-context.ts';

/** How an engine is set up; every member but the first has a default. */
export type EngineOptions = {
  /** Everything the engine keeps: a directory of root's, 0700, on a filesystem with idmapped mounts. Made if missing. */
  stateDir: string;
  /** Tells the engine's control groups from those of another engine on the same machine; made from the state directory when left out. */
  name?: string;
  /** First host id of the store's and the jobs' id ranges; a multiple of 65,536. */
  uidBase?: number;
  queue?: Partial<QueueLimits>;
  policy?: Partial<IsolationPolicy>;
  admission?: Partial<AdmissionLimits>;
  /** Runs jobs although the machine cannot hold their memory, process or cpu limits. */
  allowDegraded?: boolean;
  /** Keeps workers started for the next request: for a daemon, not for one command. */
  keepWarm?: boolean;
  /** How long to wait for another engine that has the state directory open. */
  lockWaitMs?: number;
  /** Told of what goes wrong behind the scenes; never of scripts, environments or file contents. */
  onProblem?: (what: string, error: unknown) => void;
  /** Mounts overlays; found out by trying when left out. */
  mounter?: OverlayMounter;
};

const GIB = 1024 ** 3;
/** 1980-01-01, which nixpkgs' builders set. */
const SEED_EPOCH = 315_532_800;
const EMPTY_TAR = Buffer.alloc(1024);

/**
 * Opens an engine: takes the state directory, removes what an earlier process left there, and is ready for jobs. Close it with `close`.
 * Throws `E_STATE` (another engine has the directory), `E_MISSING_FEATURE` (the machine lacks something, with the remedy), `E_TOOL`.
 */
export async function createEngine(options: EngineOptions): Promise<Engine> {
  const scope = new Scope();
  try {
    return await assemble(options, scope);
  } catch (error) {
    await scope[Symbol.asyncDispose]();
    throw error;
  }
}

async function assemble(options: EngineOptions, scope: Scope): Promise<Engine> {
  const uidBase = options.uidBase ?? DEFAULT_UID_BASE;
  const onProblem = options.onProblem ?? (() => {});
  checkRoot();
  mkdirSync(options.stateDir, { recursive: true, mode: 0o700 });
  // Before anything starts a process: the daemon may have to move itself.
  const cgroups = openCgroups(options);
  scope.defer(() => cgroups.close());
  const store = scope.use(await openStore(options, uidBase));
  // The state directory is ours now, so nothing of its name can be anybody else's.
  cgroups.removeLeftovers();
  await store.recover();
  const directory = (name: string): string => makeDirectory(options.stateDir, name);
  const admission: AdmissionLimits = { ...DEFAULT_ADMISSION, ...options.admission };
  const checkSpace = (): void => checkFreeSpace(options.stateDir, 0, admission);
  const contexts = new ContextStore(
    join(options.stateDir, 'contexts'),
    { maxBytes: 10 * GIB, maxPerUid: 16, lifeMs: 3_600_000 },
    checkSpace,
  );
  scope.defer(() => contexts.close());
  const ranges = new RangePool(uidBase);
  scope.defer(() => ranges.close());
  const captureWorkers = new WorkerPool(captureWorkerKind);
  scope.defer(() => captureWorkers.close());
  const devices = new DeviceDirectories();
  scope.defer(() => devices.close());
  const seccompFd = writeFilter(directory('run'));
  scope.defer(() => closeSync(seccompFd));
  if (options.keepWarm === true) captureWorkers.prepare();
  const results = directory('results');

  const policy: IsolationPolicy = { chrootUids: [], networkUids: [], emulation: 'allow', ...options.policy };
  const mounter = options.mounter ?? (await chooseMounter());
  const vm = assembleVm(
    {
      directory: join(options.stateDir, 'vm'),
      cgroups,
      mounter,
      disks: store.disks,
      emulation: policy.emulation,
      checkSpace,
      takeRange: (signal) => ranges.take(signal),
    },
    scope,
  );
  const runner: RunnerParts = {
    cgroups,
    uppers: new UpperFactory(directory('uppers')),
    mounter,
    devicesFd: (isolation, range) => devices.get(isolation, range),
    seccompFd,
    takeRange: (signal) => ranges.take(signal),
    extractContext: (contextId, top, fds, base, signal) =>
      contexts.extract(contextId, top, (contextFd) =>
        unpackContext({ contextFd, top, directoryFd: fds.directory, lowerFd: fds.lower, uidBase: base, signal }),
      ),
    capture: async ({ sourceDateEpoch, compat, id, devices }, upper, lower, signal) => {
      const path = join(results, id);
      const worker = await captureWorkers.take();
      try {
        const output = openSync(path, 'wx', 0o600);
        try {
          const epoch = compat === 'seed' ? (sourceDateEpoch ?? SEED_EPOCH) : sourceDateEpoch;
          const layer = await captureLayer(worker, { upper, output, lower }, { sourceDateEpoch: epoch, compat, devices }, null, signal);
          await store.addLayerBlob(`job ${id}`, { path, digest: layer.diffId, sizeBytes: layer.sizeBytes });
          return layer;
        } finally {
          closeSync(output);
          rmSync(path, { force: true });
        }
      } finally {
        captureWorkers.release(worker);
        if (options.keepWarm === true) captureWorkers.prepare();
      }
    },
    vm: vm.parts,
    emptyLayer: await addEmptyLayer(store, results),
    prepareCapture: () => captureWorkers.prepare(),
  };

  // Jobs make images, and the engine that makes them needs the jobs: this one is set before the first job can run.
  const made: LocalEngine[] = [];
  const local = (): LocalEngine => made[0] ?? assertOpen();
  const jobTable = new JobTable(store.database);
  const jobs = new JobService({
    directory: directory('jobs'),
    table: jobTable,
    queue: queueLimits(options.queue ?? {}),
    runner,
    findBase: (caller, ref) => (ref === 'scratch' ? null : store.findImage(caller.uid, ref)),
    leaseBase: async (image, signal) => await leaseBase(store, image, signal),
    checkRequest: (caller, request) => {
      checkSpace();
      checkLimits(caller.uid, request.limits, admission);
      checkKeptJobs(caller.uid, jobTable.usage(caller.uid), admission);
    },
    chooseIsolation: (caller, request) => chooseIsolation(policy, vm.readiness(), caller, request),
    takeContext: (caller, id) => contexts.take(caller, id),
    imageConfig: (job, base, request) => local().jobImageConfig(job, base, request),
    nameImage: (job, base, request, config) => local().nameJobImage(job, base, request, config),
    atomically: (action) => store.database.transaction(action)(),
    hold: (job, base) => {
      // The result can be had as an image as long as the job is kept: its base must not go before.
      if (base !== null) store.holdImage(`job ${job.id}`, base);
    },
    releaseLayer: (job) => store.release(`job ${job.id}`),
    onTrouble: (job, error) => onProblem(`job ${job.id}`, error),
  });
  jobs.recover();
  const engine = new LocalEngine({
    store,
    jobs,
    contexts,
    captureWorkers,
    stateDir: options.stateDir,
    scope,
    mounter: runner.mounter,
    ranges,
  });
  made.push(engine);
  return engine;
}

function checkRoot(): void {
  if (process.geteuid?.() === 0) return;
  throw new RootlayerError('E_MISSING_FEATURE', 'Cannot open an engine: not running as root', {
    hint: 'Run it with sudo, or be in the group of a running daemon (rootlayer doctor tells more).',
  });
}

/** Two commands in embedded mode take turns. */
async function openStore(options: EngineOptions, uidBase: number): Promise<Store> {
  const deadline = performance.now() + (options.lockWaitMs ?? 0);
  for (;;) {
    try {
      const store: Store = Store.open(options.stateDir, uidBase, {
        keepWarm: options.keepWarm === true,
        onProblem: (error) => options.onProblem?.('store', error),
        admit: ({ uid, bytes }) => {
          const limits = { ...DEFAULT_ADMISSION, ...options.admission };
          checkFreeSpace(options.stateDir, bytes, limits);
          checkQuota(uid, store.listImages(uid), bytes, limits);
        },
      });
      return store;
    } catch (error) {
      const isLocked = error instanceof RootlayerError && error.code === 'E_STATE' && error.message.includes('another rootlayer');
      if (!isLocked || performance.now() > deadline) throw error;
      await sleep(50);
    }
  }
}

function openCgroups(options: EngineOptions): CgroupManager {
  const cgroups = CgroupManager.open(options.name ?? nameOf(options.stateDir));
  if (cgroups.lacking.length > 0 && options.allowDegraded !== true) {
    cgroups.close();
    throw new RootlayerError('E_MISSING_FEATURE', `Cannot hold the limits of jobs: no control group for ${cgroups.lacking.join(', ')}`, {
      hint: 'Mount the control groups writable (systemd: Delegate=yes), or accept it with --allow-degraded.',
    });
  }
  return cgroups;
}

/** The same for whoever opens this directory later, who removes what is left, and different for all others, whose jobs must live on. */
function nameOf(stateDir: string): string {
  return createHash('sha256').update(realpathSync(stateDir)).digest('hex').slice(0, 12);
}

function makeDirectory(stateDir: string, name: string): string {
  const path = join(stateDir, name);
  if (name !== 'jobs') rmSync(path, { recursive: true, force: true });
  mkdirSync(path, { recursive: true, mode: 0o700 });
  return path;
}

/** The filter as a file: each launch reads it by descriptor. */
function writeFilter(directory: string): number {
  const path = join(directory, 'seccomp');
  writeFileSync(path, compileFilter(jobProfile(), seccompArch()), { mode: 0o600 });
  return openSync(path, 'r');
}

async function addEmptyLayer(store: Store, directory: string): Promise<LayerSummary> {
  const digest = digestOf(createHash('sha256').update(EMPTY_TAR).digest());
  const path = join(directory, 'empty');
  writeFileSync(path, EMPTY_TAR, { mode: 0o600 });
  await store.addLayerBlob('empty layer', { path, digest, sizeBytes: EMPTY_TAR.length });
  const nothing = createHash('sha256').digest('hex');
  return { diffId: parseDiffId(digest), tarsum: `tarsum.v1+sha256:${nothing}`, sizeBytes: EMPTY_TAR.length, entries: 0, warnings: [] };
}

function queueLimits(given: Partial<QueueLimits>): QueueLimits {
  const running = Math.max(2, availableParallelism());
  return { running, runningPerUid: running, queuedPerUid: 16, queued: 256, ...given };
}

async function leaseBase(store: Store, image: ImageRecord | null, signal: AbortSignal): Promise<BaseLease> {
  if (image === null) return await leaseNothing();
  const lease = await store.leaseImage(image, () => {}, signal);
  const layers = lease.layers.map(({ diffId, path }) => ({ diffId, path })).reverse();
  return { layers, [Symbol.asyncDispose]: async () => await lease[Symbol.asyncDispose]() };
}

async function leaseNothing(): Promise<BaseLease> {
  return { layers: [], [Symbol.asyncDispose]: async () => {} };
}

/** One directory of device nodes for the jobs of each id range, and one for real root. */
class DeviceDirectories {
  readonly #fds = new Map<number, number>();

  get(isolation: 'userns' | 'chroot', range: RangeLease): number {
    const key = isolation === 'userns' ? range.maps.base : 0;
    const known = this.#fds.get(key);
    if (known !== undefined) return known;
    const fd = openDevices(isolation === 'userns' ? range.maps.upperFd : null);
    this.#fds.set(key, fd);
    return fd;
  }

  close(): void {
    for (const fd of this.#fds.values()) close(fd);
    this.#fds.clear();
  }
}

function assertOpen(): never {
  throw new RootlayerError('E_INTERNAL', 'Cannot use an engine before it is open');
}
