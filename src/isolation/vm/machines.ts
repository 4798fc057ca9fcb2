import { closeSync, constants, ftruncateSync, writeSync } from 'node:fs';
import { chmod, copyFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { deferred } from '../../core/deferred.ts';
import { RootlayerError, toRootlayerError } from '../../core/errors.ts';
import { seccompArch } from '../../host/seccomp/arch.ts';
import { compileFilter } from '../../host/seccomp/bpf.ts';
import { qemuProfile } from '../../host/seccomp/qemu-profile.ts';
import { type Accelerated, findAcceleration, hostKey } from './acceleration.ts';
import { type Step, stepMs } from './deadlines.ts';
import { openJail } from './jail.ts';
import { keepDirectory } from './kept-directory.ts';
import { removeLeftovers } from './leftovers.ts';
import { shapeFor, type VmShape } from './machine.ts';
import type { VmHost } from './machine-link.ts';
import { openNameless } from './nameless-file.ts';
import { ACCELERATION_FILE } from './readiness.ts';
import { Session, type SessionParts } from './session.ts';
import { Templates } from './templates.ts';
import type { VmGuest, VmJob, VmLimits, VmOptions, VmRun, VmStatus } from './types.ts';

/** What was found or made before the first machine. */
type Ready = { host: VmHost; templates: Templates; accelerated: Accelerated; guest: VmGuest };

/**
 * The virtual machines of one engine: QEMU and the guest are found when they are first asked for, states of booted guests are saved and
 * restored for each job. Dispose ends the making of states; running machines end with their own {@link VmRun.kill}.
 */
export class VirtualMachines implements AsyncDisposable {
  readonly #options: VmOptions;
  readonly #closing = new AbortController();
  readonly #running = new Set<VmRun>();
  readonly #fds: number[] = [];
  #ready: Promise<Ready> | null = null;

  private constructor(options: VmOptions) {
    this.#options = options;
  }

  /** Takes nothing yet; leftovers go when they are to. */
  static open(options: VmOptions): VirtualMachines {
    if (options.removeOthers) removeLeftovers(options.directory);
    return new VirtualMachines(options);
  }

  /**
   * Tells what there is, by booting a guest with the default limits where no saved state shows that one has booted: a few seconds the first time,
   * ten more where /dev/kvm deceives. Never rejects but for `signal`.
   */
  async status(limits: Pick<VmLimits, 'memoryBytes' | 'cpus'>, signal: AbortSignal): Promise<VmStatus> {
    try {
      const ready = await orAborted(this.#prepared(), signal);
      await this.prepare(limits, 1, signal);
      const { acceleration, why } = ready.accelerated;
      const { kernelRelease } = ready.guest;
      return { ok: true, acceleration, why, boundary: acceleration === 'kvm', qemuVersion: ready.host.jail.qemuVersion, kernelRelease };
    } catch (thrown) {
      signal.throwIfAborted();
      const error = toRootlayerError(thrown);
      return { ok: false, lacked: error.message, remedy: error.hint ?? 'See rootlayer doctor.' };
    }
  }

  /** Saves the state for jobs with these limits and so many disks, unless it is there. Throws why a guest does not boot. */
  async prepare(limits: Pick<VmLimits, 'memoryBytes' | 'cpus'>, disks: number, signal: AbortSignal): Promise<void> {
    const { templates, accelerated } = await orAborted(this.#prepared(), signal);
    await orAborted(templates.ensure(shapeFor(limits, disks), accelerated.acceleration, null, this.#closing.signal), signal);
  }

  /** Starts a machine for a job; it ends on abort. Whatever is wrong, the run tells. */
  start(job: VmJob, signal: AbortSignal): VmRun {
    const run = new Session(job, this.#sessionParts());
    this.#running.add(run);
    const onAbort = (): void => run.kill();
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    void run.released.finally(() => {
      this.#running.delete(run);
      signal.removeEventListener('abort', onAbort);
    });
    return run;
  }

  async #sessionParts(): Promise<SessionParts> {
    const { host, templates, accelerated } = await this.#prepared();
    const { acceleration } = accelerated;
    if (acceleration === 'tcg' && this.#options.emulation === 'refuse') throw emulationRefused();
    return {
      host,
      acceleration,
      openState: async (shape: VmShape) => await templates.open(shape, acceleration, this.#closing.signal),
      stepMs: (step) => this.#stepMs(step),
    };
  }

  #stepMs(step: Step): number {
    return stepMs(step, this.#running.size);
  }

  /** Once for all; again after a failure, since what was missing may have been installed. */
  #prepared(): Promise<Ready> {
    this.#closing.signal.throwIfAborted();
    if (this.#ready === null) {
      const ready = this.#prepare(this.#closing.signal);
      this.#ready = ready;
      ready.catch(() => {
        this.#ready = null;
        this.#closeFds();
      });
    }
    return this.#ready;
  }

  async #prepare(signal: AbortSignal): Promise<Ready> {
    const { directory, takeSeat, removeOthers } = this.#options;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const [jail, guest] = await Promise.all([openJail(directory, removeOthers, signal), this.#options.findGuest(signal)]);
    const bootPath = await keepGuest(directory, removeOthers, guest);
    const host: VmHost = { jail, bootPath, seccompFd: await this.#openFilter(), emptyFd: await this.#openEmptyDisk() };
    const parts = { host, guestDigest: guest.digest, hostKey: hostKey(), takeSeat, stepMs: (step: Step) => this.#stepMs(step) };
    const templates = new Templates(directory, parts);
    const accelerated = await findAcceleration(
      join(directory, ACCELERATION_FILE),
      `${jail.key} ${guest.digest}`,
      async (acceleration, ms) => {
        await templates.ensure(shapeFor(PROBE_LIMITS, 1), acceleration, ms, signal);
      },
      signal,
    );
    return { host, templates, accelerated, guest };
  }

  #keep(fd: number): number {
    this.#fds.push(fd);
    return fd;
  }

  #closeFds(): void {
    for (const fd of this.#fds.splice(0)) closeSync(fd);
  }

  async #openFilter(): Promise<number> {
    return this.#keep(
      await openNameless(this.#options.directory, async (fd) => void writeSync(fd, compileFilter(qemuProfile, seccompArch()))),
    );
  }

  async #openEmptyDisk(): Promise<number> {
    return this.#keep(await openNameless(this.#options.directory, async (fd) => ftruncateSync(fd, EMPTY_DISK_BYTES)));
  }

  /** Machines that still run are ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new RootlayerError('E_CANCELLED', 'The engine is ending'));
    const running = [...this.#running];
    for (const run of running) run.kill();
    await Promise.all(running.map(async (run) => await run.released));
    const ready = await this.#ready?.catch(() => null);
    await ready?.templates.settled();
    this.#closeFds();
  }
}

/** Whether KVM works may show only when the first job wants it. */
function emulationRefused(): RootlayerError {
  return new RootlayerError('E_FORBIDDEN', 'Cannot use isolation "vm": it would be software emulation, which the policy refuses', {
    hint: 'Use --isolation userns; rootlayer doctor --vm tells why KVM does not work.',
  });
}

const EMPTY_DISK_BYTES = 1024 * 1024;
/** Those of a job that sets none. */
const PROBE_LIMITS = { memoryBytes: 2 * 1024 ** 3, cpus: 1 };

/** Copies the guest's files to where QEMU's user can read them, and where nothing changes them. */
async function keepGuest(parent: string, removeOthers: boolean, guest: VmGuest): Promise<string> {
  const key = guest.digest.replace(/^sha256:/, '').slice(0, 32);
  return await keepDirectory({ parent, kind: 'guest', key, removeOthers }, async (path) => {
    for (const [from, name] of [
      [guest.kernelPath, 'kernel'],
      [guest.initramfsPath, 'initramfs'],
    ] as const) {
      await copyFile(from, join(path, name), constants.COPYFILE_FICLONE);
      await chmod(join(path, name), 0o444);
    }
  });
}

/** Waits for what others may wait for too: an abort ends the waiting, not the work. */
async function orAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const { promise, reject } = deferred<never>();
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
