import process from 'node:process';
import { RootlayerError } from '../../core/errors.ts';
import { SYSCALLS_AARCH64 } from './syscalls-aarch64.ts';
import { SYSCALLS_X86_64 } from './syscalls-x86-64.ts';

/** A system call that at least one of the supported architectures has. */
export type SyscallName = keyof typeof SYSCALLS_X86_64 | keyof typeof SYSCALLS_AARCH64;

/** What a filter has to know of an architecture. */
export type SeccompArch = {
  readonly name: string;
  /** `AUDIT_ARCH_*` of `<linux/audit.h>`, as `seccomp_data.arch` holds it. */
  readonly auditArch: number;
  readonly syscalls: ReadonlyMap<SyscallName, number>;
  /** Whether bit 30 of a number selects a second ABI (x32) under the same audit arch. */
  readonly hasX32: boolean;
};

/** 64-bit x86. */
export const X86_64: SeccompArch = { name: 'x86-64', auditArch: 0xc000003e, syscalls: toMap(SYSCALLS_X86_64), hasX32: true };

/** 64-bit Arm. */
export const AARCH64: SeccompArch = { name: 'aarch64', auditArch: 0xc00000b7, syscalls: toMap(SYSCALLS_AARCH64), hasX32: false };

/** Gives the architecture of a Node `process.arch` value, that of this machine when left out. Throws `E_MISSING_FEATURE` for one without a table. */
export function seccompArch(nodeArch: string = process.arch): SeccompArch {
  switch (nodeArch) {
    case 'x64':
      return X86_64;
    case 'arm64':
      return AARCH64;
    default:
      throw new RootlayerError(
        'E_MISSING_FEATURE',
        `Cannot make seccomp filter for "${nodeArch}": no system call table, want x64 or arm64`,
      );
  }
}

function toMap(table: Readonly<Partial<Record<SyscallName, number>>>): ReadonlyMap<SyscallName, number> {
  return new Map(Object.entries(table) as [SyscallName, number][]);
}
