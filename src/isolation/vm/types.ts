import type { RootlayerError } from '../../core/errors.ts';
import type { Cgroup } from '../../host/cgroup.ts';
import type { Program } from '../sandbox.ts';

/** What guests boot from: made by src/guest, opened by path once a template. `digest` changes when anything of it does. */
export type VmGuest = { kernelPath: string; initramfsPath: string; digest: string; kernelRelease: string };

/** What a job may use inside of its machine. Sizes in bytes, cpus in cores. */
export type VmLimits = { memoryBytes: number; cpus: number; pids: number; diskBytes: number };

/** One job for a virtual machine. Descriptors stay the caller's, who may close them once {@link VmRun.launched} has resolved. */
export type VmJob = {
  id: string;
  /** EROFS images of the base, open for reading, topmost first; at most 16; none for `scratch`. */
  lowerFds: number[];
  /** EROFS image of the extra files, or null. */
  filesFd: number | null;
  /** ext4 image that takes what changes, open for reading and writing. Never to be mounted by the host again. */
  scratchFd: number;
  script: Buffer;
  program: Program;
  limits: VmLimits;
  hostname: string;
  /** Size of the terminal that the script is to have, or null for pipes. */
  terminal: { rows: number; columns: number } | null;
  /** User and group of the host that QEMU runs as, its own while it runs. */
  uid: number;
  /** Bounds QEMU itself: see {@link vmCgroupLimits}. */
  cgroup: Cgroup;
  /** Most bytes of the result; more is `E_LIMIT_RESULT`. */
  maxResultBytes: number;
  /** Called for each piece of output, at most 64 KiB, in order within a stream. */
  onOutput(stream: 'stdout' | 'stderr', bytes: Buffer): void;
};

/** What the guest says of the script's run. The host cannot check any of it. */
export type VmClaims = {
  oomKills: number;
  forksRefused: number;
  memoryPeakBytes: number | null;
  pidsPeak: number | null;
  diskBytes: number | null;
  bytesLeft: number | null;
  inodesLeft: number | null;
  /** False: the script changed nothing, and there is no result. */
  changed: boolean;
};

/** How the script ended, or why it never did. */
export type VmEnd =
  | { kind: 'exit'; status: number; claims: VmClaims }
  | { kind: 'signal'; signal: number; claims: VmClaims }
  /** The agent could not do a step; same form as a launcher's. */
  | { kind: 'error'; step: string; errno: string }
  /** `E_VM_PROTOCOL`, `E_VM_CRASH` or `E_VM_TIMEOUT`. */
  | { kind: 'failed'; error: RootlayerError }
  /** By {@link VmRun.kill}. */
  | { kind: 'killed' };

/** A running virtual machine with one job. */
export type VmRun = {
  /** QEMU has the job's disks for good (or never will): it answers, and no other try will follow. Never rejects. */
  launched: Promise<void>;
  /** The script's first instruction is next. Rejects with what {@link ended} tells, as an error. */
  started: Promise<void>;
  /** Never rejects. Resolves when the script has ended, before the result is whole. */
  ended: Promise<VmEnd>;
  /**
   * Read end of a pipe with the bytes of the result, a tar that nobody has checked; for a reader in another process. It ends early when
   * the guest fails: only {@link resultDone} tells. Nothing comes on it unless the script changed something. Closed by {@link kill}.
   */
  resultFd: number;
  /** Bytes of the whole result; rejects when it will never be whole. Resolves with 0 where there is none. */
  resultDone: Promise<number>;
  /** QEMU is gone and all descriptors of the run but {@link VmRun.resultFd} are closed. Never rejects. */
  released: Promise<void>;
  /** `restored` from a template or `cold` booted; known from {@link launched} on, a restore without an answer turns into a cold boot. */
  readonly way: 'restored' | 'cold';
  /** How its processor is run; null before it is known, which is at the latest when {@link launched} resolves. */
  readonly acceleration: 'kvm' | 'tcg' | null;
  /** Milliseconds from the start of QEMU to each mark: `answer`, `seeded`, `bound`, `mounted`, `started`, `firstByte`, `end`, `result`. */
  readonly timingsMs: Readonly<Record<string, number>>;
  /** Bytes typed at the terminal; none for the end of input. Resolves when more can be taken; what comes after the end is dropped. */
  input(bytes: Buffer): Promise<void>;
  resize(rows: number, columns: number): void;
  /** Ends QEMU at once and gives up the result; safe at any time, and again. To be called in any case once all that is wanted has been taken. */
  kill(): void;
};

/** What virtual machines are here. `boundary`: whether a guest is kept in by hardware; an emulated one is not said to be. */
export type VmStatus =
  | { ok: true; acceleration: 'kvm' | 'tcg'; why: string; boundary: boolean; qemuVersion: string; kernelRelease: string }
  | { ok: false; lacked: string; remedy: string };

/** A uid and a control group for a machine that is no job's: the one a template is made from. */
export type VmSeat = { uid: number; cgroup: Cgroup } & AsyncDisposable;

/** What {@link VirtualMachines} is given. */
export type VmOptions = {
  /** `<stateDir>/vm`, made with mode 0700 if need be. */
  directory: string;
  /** Gives the guest to boot; throws `E_MISSING_FEATURE` or `E_TOOL` where there is none. Called once. */
  findGuest(signal: AbortSignal): Promise<VmGuest>;
  /** Whether jobs may run under software emulation; checked when it is known how they would run. */
  emulation: 'allow' | 'refuse';
  /** Takes a seat whose control group has these limits. */
  takeSeat(limits: { memoryBytes: number; pids: number; cpus: number }, signal: AbortSignal): Promise<VmSeat>;
  /**
   * Whether what earlier processes left in the directory, and what was made of other versions of QEMU and of the guest, goes. For the one that holds the lock
   * of the state directory: any other would take them from a running engine.
   */
  removeOthers: boolean;
};
