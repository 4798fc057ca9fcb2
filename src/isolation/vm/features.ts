import type { Feature } from '../../core/engine.ts';
import { toRootlayerError } from '../../core/errors.ts';
import type { VmReadiness } from '../choose.ts';
import type { VmStatus } from './types.ts';

const ACCELERATION = 'vm-acceleration';
const EMULATION_REMEDY =
  'Use a machine whose /dev/kvm works for --isolation vm; without it scripts take 5 to 45 times as long, and nothing is a boundary.';
const VM_REMEDY = 'Only --isolation vm needs it.';

/** The parts that virtual machines are made of, as rows for `rootlayer doctor`. `findKernel` throws when there is none. */
export function vmPartFeatures(qemuVersion: () => string, findKernel: () => { release: string }): Feature[] {
  return [row('qemu', qemuVersion), row('vm-kernel', () => findKernel().release)];
}

function row(name: string, find: () => string): Feature {
  try {
    return { name, ok: true, required: false, detail: find(), remedy: null };
  } catch (thrown) {
    const error = toRootlayerError(thrown);
    return { name, ok: false, required: false, detail: error.message, remedy: `${VM_REMEDY} ${error.hint ?? ''}`.trim() };
  }
}

/** What is known of acceleration without starting anything. */
export function knownAccelerationFeature(readiness: VmReadiness): Feature {
  if (!readiness.ok) return absent(readiness.lacked, VM_REMEDY);
  if (readiness.acceleration === 'untried')
    return absent('whether KVM works has not been tried since this machine booted', 'Run rootlayer doctor --vm.');
  return accelerationFeature(readiness.acceleration, readiness.why);
}

/** What came of booting a guest. */
export function triedAccelerationFeature(status: VmStatus): Feature {
  return status.ok ? accelerationFeature(status.acceleration, status.why) : absent(status.lacked, status.remedy);
}

function accelerationFeature(acceleration: 'kvm' | 'tcg', why: string): Feature {
  if (acceleration === 'tcg') return absent(`software emulation, which is no security boundary: ${why}`, EMULATION_REMEDY);
  return { name: ACCELERATION, ok: true, required: false, detail: `KVM, a security boundary: ${why}`, remedy: null };
}

function absent(detail: string, remedy: string): Feature {
  return { name: ACCELERATION, ok: false, required: false, detail, remedy };
}
