import t from 'tap';
import { AARCH64, seccompArch, X86_64 } from '../../../../src/host/seccomp/arch.ts';

t.test('seccompArch() gives the table of a Node architecture', async (t) => {
  t.equal(seccompArch('x64'), X86_64);
  t.equal(seccompArch('arm64'), AARCH64);
  t.equal(seccompArch(), seccompArch(process.arch));
});

t.test('seccompArch() refuses an architecture without a table', async (t) => {
  t.throws(() => seccompArch('riscv64'), { code: 'E_MISSING_FEATURE', message: /"riscv64"/ });
});

t.test('SYSCALLS have no number twice', async (t) => {
  for (const arch of [X86_64, AARCH64]) t.equal(new Set(arch.syscalls.values()).size, arch.syscalls.size, arch.name);
});

t.test('SYSCALLS of both architectures are the same from 424 on', async (t) => {
  const recent = (arch: typeof X86_64): [string, number][] =>
    [...arch.syscalls].filter(([, nr]) => nr >= 424).sort(([, a], [, b]) => a - b);
  t.same(recent(AARCH64), recent(X86_64));
  t.same(
    recent(X86_64).map(([, nr]) => nr),
    Array.from({ length: 46 }, (_, index) => 424 + index),
  );
});
