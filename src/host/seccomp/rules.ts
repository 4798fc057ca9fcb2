import type { SyscallName } from './arch.ts';

/** The errno values that filters of rootlayer answer with. Numbers from `<asm-generic/errno.h>`, the same on every supported architecture. */
export const FILTER_ERRNO = { EPERM: 1, ENOSYS: 38, EPROTONOSUPPORT: 93, EAFNOSUPPORT: 97 } as const;

/** What becomes of a call: it runs, it fails with an errno before the kernel looks at it, or the whole process dies by SIGSYS. */
export type Verdict = 'allow' | 'kill-process' | keyof typeof FILTER_ERRNO;

/**
 * A test of one 32-bit half of one argument. A parameter that the kernel declares as `int` or `unsigned int` must be tested
 * by its low half alone: the kernel drops the high half, so a test of all 64 bits could be passed by setting a high bit.
 */
export type ArgTest = {
  /** Index of the argument, 0 to 5. */
  readonly arg: number;
  /** Bits 0 to 31, or 32 to 63. */
  readonly half: 'low' | 'high';
} & ({ readonly is: 'one-of'; readonly values: readonly number[] } | { readonly is: 'with-bits' | 'without-bits'; readonly mask: number });

/** One test or more. */
export type ArgTests = readonly [ArgTest, ...ArgTest[]];

/** What becomes of a call whose arguments pass all tests. */
export type ArgCase = { readonly when: ArgTests; readonly verdict: Verdict };

/** A verdict that depends on arguments: that of the first case whose tests all hold, else `otherwise`. */
export type ArgRule = {
  readonly cases: readonly [ArgCase, ...ArgCase[]];
  readonly otherwise: Verdict;
};

/** Calls that belong together, and why they are in a profile. */
export type CallGroup = { readonly why: string; readonly calls: readonly SyscallName[] };

/**
 * A seccomp profile as data: an allow list. A call that the kernel's tables know and no list names gives EPERM; a number
 * that no table knows (a newer kernel's call) gives ENOSYS, so that programs fall back to older calls.
 */
export type Profile = {
  readonly name: string;
  readonly allowed: readonly CallGroup[];
  /** Calls whose arguments decide. */
  readonly rules: ReadonlyMap<SyscallName, ArgRule>;
  /** Calls that give ENOSYS, as on a kernel without them, because programs fall back only then. */
  readonly absent: readonly CallGroup[];
};

/** Passes when the low half of an argument is one of these values. */
export function oneOf(arg: number, ...values: readonly number[]): ArgTest {
  return { arg, half: 'low', is: 'one-of', values };
}

/** Passes when the low half of an argument has all bits of the mask. */
export function withBits(arg: number, mask: number): ArgTest {
  return { arg, half: 'low', is: 'with-bits', mask };
}

/** Passes when the low half of an argument has no bit of the mask. */
export function withoutBits(arg: number, mask: number): ArgTest {
  return { arg, half: 'low', is: 'without-bits', mask };
}

/** Passes when all 64 bits of an argument, a pointer or an `unsigned long`, are zero. */
export function isNull(arg: number): ArgTests {
  return [oneOf(arg, 0), { arg, half: 'high', is: 'one-of', values: [0] }];
}

/** A rule that allows a call when all tests hold, and else refuses it with EPERM. */
export function allowWhen(...when: ArgTests): ArgRule {
  return { cases: [{ when, verdict: 'allow' }], otherwise: 'EPERM' };
}

/** `CLONE_NEW*` of `<linux/sched.h>`, less CLONE_NEWTIME: its bit is part of the exit signal in clone(2) and means a namespace only to unshare and clone3. */
export const CLONE_NAMESPACES = 0x7e020000;

/** CLONE_THREAD of `<linux/sched.h>`. */
export const CLONE_THREAD = 0x00010000;
