import type { SeccompArch } from '../../../../src/host/seccomp/arch.ts';
import { actionName, runFilter } from '../../../../src/host/seccomp/interpreter.ts';
import type { ArgTest, Profile } from '../../../../src/host/seccomp/rules.ts';

/** What a profile says about a call, read from its lists alone: the second opinion that compiled filters are held against. */
export function readProfile(profile: Profile, arch: SeccompArch, nr: number, args: readonly bigint[]): string {
  if (arch.hasX32 && nr >= 0x40000000 && nr !== 0xffffffff) return 'kill-process';
  const name = [...arch.syscalls].find(([, number]) => number === nr)?.[0];
  if (name === undefined) return 'ENOSYS';
  const rule = profile.rules.get(name);
  if (rule !== undefined) return rule.cases.find(({ when }) => when.every((test) => holds(test, args)))?.verdict ?? rule.otherwise;
  if (profile.allowed.some(({ calls }) => calls.includes(name))) return 'allow';
  return profile.absent.some(({ calls }) => calls.includes(name)) ? 'ENOSYS' : 'EPERM';
}

function holds(test: ArgTest, args: readonly bigint[]): boolean {
  const whole = BigInt.asUintN(64, args[test.arg] ?? 0n);
  const word = Number(test.half === 'low' ? whole % 2n ** 32n : whole / 2n ** 32n);
  if (test.is === 'one-of') return test.values.includes(word);
  const bits = BigInt(word) & BigInt(test.mask);
  return test.is === 'with-bits' ? bits === BigInt(test.mask) : bits === 0n;
}

/** What a filter does with a native call, in words. */
export function ask(filter: Buffer, arch: SeccompArch, nr: number, ...args: bigint[]): string {
  return actionName(runFilter(filter, { auditArch: arch.auditArch, nr, args }));
}
