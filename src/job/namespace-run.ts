import { existsSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { RootlayerError } from '../core/errors.ts';
import type { LayerSummary } from '../core/job.ts';
import type { Scope } from '../core/scope.ts';
import type { CgroupManager, CgroupUsage } from '../host/cgroup.ts';
import type { LaunchEnd } from '../host/launcher.ts';
import { AT_FDCWD, cloneTree, close, isEmptyDirectory, MOUNT_ATTR_RDONLY, setMountAttributes, statFd } from '../host/libc.ts';
import { makeJobFiles, SCRIPT_ENVIRONMENT, scriptCandidates } from '../isolation/job-files.ts';
import { type Sandbox, startSandbox } from '../isolation/sandbox.ts';
import { closeLowers, openLowers, openLowerView } from '../overlay/lower.ts';
import { copyRootAttributes, mountRootfs } from '../overlay/rootfs.ts';
import type { Upper } from '../overlay/upper.ts';
import { extractCopies } from './copies.ts';
import { judge, startError } from './judge.ts';
import { JobOutput, type OutputSink, type ScriptOutput } from './output.ts';
import type { Outcome, RangeLease, RunnableJob, RunnerParts } from './runner.ts';
import { Stages } from './stages.ts';
import { TerminalOutput } from './terminal.ts';
import { LimitWatch, type ReachedLimit } from './watch.ts';

const FILES_BYTES = 256 * 1024 * 1024;
const DRAIN_MS = 2000;
const SIGKILL = 9;

/** One job in namespaces of the host's kernel: `userns` or `chroot`. */
export class NamespaceRun {
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
    const { request, isolation, id } = this.#job;
    const isUserns = isolation.used === 'userns';
    const uidBase = isUserns ? range.maps.base : 0;
    const upper = await this.#parts.uppers.create(request.limits, isUserns ? range.maps.upperFd : null, id);
    // Unmounting a used upper takes the kernel some milliseconds: not on the daemon's only thread.
    this.#scope.defer(async () => await upper.close());
    const plainLowers = openLowers(pathsOf(this.#job), range.plainFd);
    this.#scope.defer(() => closeLowers(plainLowers));
    const lowerView = plainLowers.length === 0 ? null : await openLowerView(this.#parts.mounter, plainLowers);
    if (lowerView !== null) this.#scope.defer(() => close(lowerView));
    copyRootAttributes(upper, lowerView);
    if (this.#job.contextId !== null) {
      await extractCopies(this.#parts, this.#job, range, upper, uidBase, signal);
      // Copying contents changed the root's own time; the base's counts until the script changes it.
      copyRootAttributes(upper, lowerView);
    }
    const before = rootFingerprint(upper);
    const rootFd = this.#keep(await this.#mountRoot(range, upper, uidBase));
    return { upper, lowerView, rootFd, uidBase, before };
  }

  async #mountRoot(range: RangeLease, upper: Upper, uidBase: number): Promise<number> {
    const { request, isolation } = this.#job;
    const isUserns = isolation.used === 'userns';
    const lowerFds = openLowers(pathsOf(this.#job), isUserns ? range.maps.lowerFd : range.plainFd);
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
    const fill =
      contextId === null
        ? null
        : (fd: number) => this.#parts.extractContext(contextId, 'files', { directory: fd, lower: null }, uidBase, signal);
    const filesFd = this.#keep(await makeJobFiles(script, uidBase, FILES_BYTES + script.length, fill));
    const cgroup = this.#scope.use(this.#parts.cgroups.create(id, request.limits));
    const output = this.#makeOutput(uidBase, (stream, data, encoding) => {
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
      this.#job.onRunning(null);
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

  #makeOutput(uidBase: number, sink: OutputSink): ScriptOutput {
    const { terminal } = this.#job.request;
    if (terminal === null) return new JobOutput(uidBase, sink);
    return new TerminalOutput(terminal, sink, (device) => this.#job.onTerminal(device));
  }

  #start(
    range: RangeLease,
    prepared: Prepared,
    script: Buffer,
    filesFd: number,
    cgroup: ReturnType<CgroupManager['create']>,
    output: ScriptOutput,
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
        stdio: output.stdio,
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
    return startError(failure?.[1] ?? '', failure?.[2] ?? '', error) ?? error;
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
    const told = end.kind === 'error' ? ({ kind: 'signal', signal: SIGKILL } as const) : end;
    return judge({ end: told, watched, limits: this.#job.request.limits, usage, disk: upper.usage(), outputBytes });
  }

  /** A job that left its upper as it was needs no worker: its layer is the empty one. */
  async #capture(prepared: Prepared, signal: AbortSignal): Promise<LayerSummary> {
    const { upper, lowerView, before } = prepared;
    this.#job.onCapturing();
    if (this.#job.request.compat === 'none' && isEmptyDirectory(upper.plainDirFd) && isDeepStrictEqual(rootFingerprint(upper), before))
      return this.#parts.emptyLayer;
    await upper.freeze();
    const { sourceDateEpoch, compat } = this.#job.request;
    return await this.#parts.capture({ sourceDateEpoch, compat, id: this.#job.id, devices: 'refuse' }, upper.plainDirFd, lowerView, signal);
  }
}

function pathsOf(job: RunnableJob): string[] {
  return job.layers.map((layer) => layer.path);
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
