import type { Caller } from '../core/engine.ts';
import { RootlayerError } from '../core/errors.ts';
import type { Boundary, Isolation, IsolationReport, JobRequest } from '../core/job.ts';

/** Who may use what; decided by the administrator who starts the engine. */
export type IsolationPolicy = {
  /** Callers whose scripts may be real root (`chroot`): uid 0 always, and these. */
  chrootUids: number[];
  /** Callers who may join the host's network: uid 0 always, and these. */
  networkUids: number[];
  /** Whether `vm` may run under software emulation, which is no security boundary. */
  emulation: 'allow' | 'refuse';
};

/** What this machine can do for `vm`, as far as it is known at the moment: nothing is started to find out. */
export type VmReadiness = { ok: false; lacked: string } | { ok: true; acceleration: 'kvm' | 'tcg' | 'untried'; why: string };

/** Chooses the isolation of a job and says why. Throws `E_FORBIDDEN` or `E_MISSING_FEATURE` for one that was asked for and cannot be. */
export function chooseIsolation(policy: IsolationPolicy, vm: VmReadiness, caller: Caller, request: JobRequest): IsolationReport {
  if (request.network === 'host' && caller.uid !== 0 && !policy.networkUids.includes(caller.uid)) {
    throw new RootlayerError('E_FORBIDDEN', "Cannot join the host's network: not allowed for this user, want --network none", {
      hint: 'Bring the files that the script needs with --copy or --file.',
    });
  }
  return request.isolation === 'auto' ? chooseStrongest(policy, vm, request) : chooseAsked(policy, vm, caller, request.isolation, request);
}

/** A virtual machine where hardware makes it a boundary and fast, else the namespaces of the kernel. */
function chooseStrongest(policy: IsolationPolicy, vm: VmReadiness, request: JobRequest): IsolationReport {
  const lacked = vmLacks(policy, vm, request) ?? vmLacksForAuto(vm);
  if (lacked === null) return { used: 'vm', why: 'the strongest that this machine offers', boundary: 'hardware', refused: [] };
  return { used: 'userns', why: 'the strongest that this machine offers', boundary: 'kernel', refused: [{ isolation: 'vm', lacked }] };
}

function chooseAsked(policy: IsolationPolicy, vm: VmReadiness, caller: Caller, used: Isolation, request: JobRequest): IsolationReport {
  switch (used) {
    case 'userns':
      return { used, why: 'asked for', boundary: 'kernel', refused: [] };
    case 'chroot':
      if (caller.uid !== 0 && !policy.chrootUids.includes(caller.uid)) {
        throw refusal('E_FORBIDDEN', used, 'its script would be real root, which this user may not be');
      }
      return { used, why: 'asked for', boundary: 'none', refused: [] };
    case 'vm': {
      const lacked = vmLacks(policy, vm, request);
      if (lacked !== null) throw refusal(isPolicy(policy, vm) ? 'E_FORBIDDEN' : 'E_MISSING_FEATURE', used, lacked);
      return { used, why: `asked for; ${vmWhy(vm)}`, boundary: vmBoundary(vm), refused: [] };
    }
  }
}

/** The report of a job in a virtual machine, once it is known how that runs; `acceleration` is null when it never did. */
export function settleIsolation(report: IsolationReport, acceleration: 'kvm' | 'tcg' | null): IsolationReport {
  if (acceleration === 'tcg' && report.boundary === 'hardware') {
    return { ...report, boundary: 'none', why: 'KVM had been seen to work and no longer does: software emulation' };
  }
  if (acceleration !== 'kvm' || report.boundary === 'hardware') return report;
  return { ...report, boundary: 'hardware', why: 'asked for; KVM' };
}

/** What a user is told before the script runs; null when there is nothing to say. */
export function isolationWarning({ used, boundary }: IsolationReport): string | null {
  if (used !== 'vm' || boundary === 'hardware') return null;
  return 'The virtual machine runs under software emulation: several times slower, and no security boundary. See rootlayer doctor.';
}

function vmLacks(policy: IsolationPolicy, vm: VmReadiness, request: JobRequest): string | null {
  if (!vm.ok) return vm.lacked;
  if (request.network === 'host') return 'a virtual machine has no network, want --network none';
  return isPolicy(policy, vm) ? 'it would be software emulation, which the policy refuses' : null;
}

function isPolicy(policy: IsolationPolicy, vm: VmReadiness): boolean {
  return vm.ok && vm.acceleration === 'tcg' && policy.emulation === 'refuse';
}

/** Nobody who did not ask for it gets a virtual machine that is slow and no boundary. */
function vmLacksForAuto(vm: VmReadiness): string | null {
  if (!vm.ok || vm.acceleration === 'kvm') return null;
  return vm.acceleration === 'untried'
    ? 'no virtual machine has been started since this machine booted, so whether KVM works is not known (rootlayer doctor --vm finds out)'
    : `software emulation only, which is slow and no security boundary: ${vm.why}`;
}

function vmWhy(vm: VmReadiness): string {
  if (!vm.ok || vm.acceleration === 'untried') return 'whether KVM works shows when it starts';
  return vm.acceleration === 'kvm' ? 'KVM' : `software emulation, which is slow and no security boundary: ${vm.why}`;
}

/** What is not known is not promised; {@link settleIsolation} makes it true once the machine runs. */
function vmBoundary(vm: VmReadiness): Boundary {
  return vm.ok && vm.acceleration === 'kvm' ? 'hardware' : 'none';
}

function refusal(code: 'E_FORBIDDEN' | 'E_MISSING_FEATURE', isolation: Isolation, lacked: string): RootlayerError {
  return new RootlayerError(code, `Cannot use isolation "${isolation}": ${lacked}`, {
    hint: 'Use --isolation userns, which needs no trust; rootlayer doctor tells what this machine offers.',
  });
}
