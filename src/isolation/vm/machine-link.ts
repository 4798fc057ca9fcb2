import { Socket } from 'node:net';
import { type Deferred, deferred } from '../../core/deferred.ts';
import { RootlayerError, toRootlayerError } from '../../core/errors.ts';
import { close, makeSocketPair } from '../../host/libc.ts';
import type { Jail } from './jail.ts';
import { type Acceleration, qemuCommand, readTscKhz, threadLimit, type VmShape } from './machine.ts';
import { openAgain } from './nameless-file.ts';
import { crashError, HandOver, type Qemu, startQemu } from './qemu.ts';
import { type GuestEvent, StreamReader } from './stream-reader.ts';
import type { VmSeat } from './types.ts';

/** What all machines of an engine have in common. */
export type VmHost = {
  jail: Jail;
  /** Directory with `kernel` and `initramfs`. */
  bootPath: string;
  seccompFd: number;
  /** An empty disk for slots that a job does not need. */
  emptyFd: number;
};

/** What one machine is made of. Descriptors stay the caller's. */
export type MachineParts = {
  shape: VmShape;
  acceleration: Acceleration;
  seat: Pick<VmSeat, 'uid' | 'cgroup'>;
  /** Disks in the order of the slots, the first can be written; those that are missing are empty. */
  diskFds: number[];
  /** A saved state, read from its descriptor's position on; null boots the guest. */
  stateFd: number | null;
  /** Longest file that QEMU may write. */
  fileSizeBytes: number;
  /** Whether QEMU is to be told to save its state. */
  hasMonitor: boolean;
};

/**
 * One QEMU and the stream to its guest. Whatever goes wrong (the guest says what it must not, QEMU ends) ends QEMU and resolves
 * {@link failed}, once.
 */
export class MachineLink {
  /** Resolves with the reason when the link breaks; never after {@link end}. */
  readonly failed: Promise<RootlayerError>;
  /** QEMU is gone. */
  readonly gone: Promise<void>;
  /** Our end of the monitor's socket; null without one. The caller of {@link takeMonitor} closes it. */
  #monitorFd: number | null;
  readonly #failure: Deferred<RootlayerError> = deferred();
  readonly #qemu: Qemu;
  readonly #control: Socket;
  readonly #reader: StreamReader;
  readonly #handle: (events: Iterable<GuestEvent>) => void;
  #isOver = false;
  #isPaused = false;

  /** `handle` gets what each piece of the stream completes; what it throws breaks the link. */
  constructor(host: VmHost, parts: MachineParts, handle: (events: Iterable<GuestEvent>) => void) {
    this.failed = this.#failure.promise;
    this.#handle = handle;
    this.#reader = new StreamReader(parts.stateFd === null);
    const [ours, theirs] = makeSocketPair();
    const monitor = parts.hasMonitor ? makeSocketPair() : null;
    try {
      this.#qemu = start(host, parts, theirs, monitor?.[1] ?? null);
    } catch (error) {
      close(ours);
      if (monitor !== null) close(monitor[0]);
      throw error;
    } finally {
      close(theirs);
      if (monitor !== null) close(monitor[1]);
    }
    this.#monitorFd = monitor?.[0] ?? null;
    this.#control = new Socket({ fd: ours, readable: true, writable: true });
    this.#control.on('data', (chunk: Buffer) => this.#receive(chunk));
    this.#control.on('error', () => {}); // the close that follows is what counts
    this.#control.on('close', () => void this.#explainEnd());
    this.#qemu.started.catch(() => this.#control.destroy());
    this.gone = this.#qemu.ended.then(() => {});
  }

  #receive(chunk: Buffer): void {
    if (this.#isOver) return;
    const begin = performance.now();
    try {
      this.#handle(this.#reader.push(chunk));
    } catch (error) {
      this.fail(toRootlayerError(error));
    }
    if (performance.now() - begin > TURN_MS) this.#letOthers();
  }

  /** A guest that sends only small frames would keep the daemon's one thread: the others come first now. */
  #letOthers(): void {
    if (this.#isOver || this.#isPaused) return;
    this.#control.pause();
    setImmediate(() => {
      if (!this.#isPaused) this.#control.resume();
    });
  }

  async #explainEnd(): Promise<void> {
    if (this.#isOver) return;
    // A guest cannot close its end; should QEMU have closed it and gone on, it is of no use any more.
    const timer = setTimeout(() => this.#qemu.kill(), CLOSE_GRACE_MS);
    const end = await this.#qemu.ended;
    clearTimeout(timer);
    this.fail(crashError('Cannot go on with the virtual machine', end, this.#qemu.complaint()));
  }

  /** Sends to the guest. Gives false when it takes nothing at the moment: see {@link drained}. */
  write(bytes: Buffer): boolean {
    return this.#isOver || this.#control.write(bytes);
  }

  /** Resolves when all that was sent is on its way, or never will be. */
  async drained(): Promise<void> {
    if (this.#isOver || !this.#control.writableNeedDrain) return;
    const { promise, resolve } = deferred<void>();
    this.#control.once('drain', resolve);
    this.#control.once('close', resolve);
    await promise;
    this.#control.off('drain', resolve);
    this.#control.off('close', resolve);
  }

  /** Takes nothing from the guest, until {@link resume}. */
  pause(): void {
    this.#isPaused = true;
    this.#control.pause();
  }

  resume(): void {
    this.#isPaused = false;
    this.#control.resume();
  }

  /** Hands over the monitor's descriptor. */
  takeMonitor(): number {
    const fd = this.#monitorFd;
    if (fd === null) throw new RootlayerError('E_INTERNAL', 'Cannot use the monitor of the virtual machine: it has none');
    this.#monitorFd = null;
    return fd;
  }

  /** Breaks the link for a reason. */
  fail(error: RootlayerError): void {
    if (this.#isOver) return;
    this.end();
    this.#failure.resolve(error);
  }

  /**
   * Ends QEMU at once, and with it its PID namespace; nothing is heard of it any more. The control group is not told to kill: Linux from 6.14 on
   * would end the next machine too that is born in it, and a cold boot may follow.
   */
  end(): void {
    this.#isOver = true;
    this.#control.destroy();
    this.#qemu.kill();
    if (this.#monitorFd !== null) close(this.takeMonitor());
  }
}

const CLOSE_GRACE_MS = 500;
/** So long one piece of the stream may take. */
const TURN_MS = 2;

function start(host: VmHost, parts: MachineParts, controlFd: number, monitorFd: number | null): Qemu {
  // Opened for this machine alone: flags that one QEMU sets must not be seen by another.
  const emptyFd = openAgain(host.emptyFd);
  try {
    return startWith(host, parts, { controlFd, monitorFd, emptyFd });
  } finally {
    close(emptyFd);
  }
}

type OwnFds = { controlFd: number; monitorFd: number | null; emptyFd: number };

function startWith(host: VmHost, parts: MachineParts, { controlFd, monitorFd, emptyFd }: OwnFds): Qemu {
  const passed = new HandOver();
  const fds = {
    control: passed.add(controlFd),
    disks: Array.from({ length: parts.shape.slots }, (_, slot) => passed.add(parts.diskFds[slot] ?? emptyFd)),
    qmp: monitorFd === null ? null : passed.add(monitorFd),
  };
  const { stateFd, acceleration, shape, seat, fileSizeBytes } = parts;
  const beginning =
    stateFd === null ? ({ kind: 'boot', tscKhz: readTscKhz() } as const) : ({ kind: 'restore', stateFd: passed.add(stateFd) } as const);
  return startQemu(
    {
      jailPath: host.jail.path,
      bootPath: stateFd === null ? host.bootPath : null,
      hasKvm: acceleration === 'kvm',
      seat,
      seccompFd: host.seccompFd,
      threads: threadLimit(shape),
      fileSizeBytes,
    },
    qemuCommand(shape, acceleration, fds, beginning),
    passed,
  );
}
