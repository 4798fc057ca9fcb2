import t from 'tap';
import { AARCH64, X86_64 } from '../../../../src/host/seccomp/arch.ts';
import { INSTRUCTION_BYTES } from '../../../../src/host/seccomp/assembler.ts';
import { compileFilter } from '../../../../src/host/seccomp/bpf.ts';
import { actionName, runFilter } from '../../../../src/host/seccomp/interpreter.ts';
import { jobProfile } from '../../../../src/host/seccomp/profile.ts';
import { oneOf, type Profile } from '../../../../src/host/seccomp/rules.ts';
import { captureWorkerProfile, unpackWorkerProfile } from '../../../../src/host/seccomp/worker-profiles.ts';
import { ask, readProfile } from './reading.ts';

const PROFILES = [jobProfile(), jobProfile({ allowPtrace: true }), unpackWorkerProfile, captureWorkerProfile];
const ARCHES = [X86_64, AARCH64];
const ONES = 0xffffffff_ffffffffn;

/** Arguments from all zero to all one, and some in between that rules look at. */
const ARGUMENTS: readonly (readonly bigint[])[] = [
  [],
  Array(6).fill(ONES),
  [16n, 3n, 0n, 0n, 0n, 0n],
  [16n, 3n, 9n],
  [0x10000n, 0x10000n, 0x10000n],
  [0x0001_0000_0000_0000n, 0x1_0000_5412n, 0x1_0000_0000n],
  [0x1000_0000n, 0x5401n, 0x41n],
  [0x0002_0008n, 0x541cn, 0x8000n],
];

t.test('compileFilter() does for every number from 0 to 600 what a reading of the profile says', async (t) => {
  for (const arch of ARCHES) {
    for (const profile of PROFILES) {
      const filter = compileFilter(profile, arch);
      const differing: string[] = [];
      for (let nr = 0; nr <= 600; nr++) {
        for (const args of ARGUMENTS) {
          const does = ask(filter, arch, nr, ...args);
          const says = readProfile(profile, arch, nr, args);
          if (does !== says) differing.push(`${nr}(${args.join()}): does ${does}, says ${says}`);
        }
      }
      t.same(differing, [], `${profile.name} on ${arch.name}`);
    }
  }
});

t.test('compileFilter() gives ENOSYS for every number beyond its table', async (t) => {
  for (const arch of ARCHES) {
    const filter = compileFilter(jobProfile(), arch);
    for (const nr of [470, 511, 512, 547, 1000, 0x10000, 0x3fffffff, 0xffffffff])
      t.equal(ask(filter, arch, nr), 'ENOSYS', `${nr} on ${arch.name}`);
  }
});

t.test('compileFilter() kills x32 calls on x86-64, and knows no such ABI on aarch64 (S16)', async (t) => {
  const x86 = compileFilter(jobProfile(), X86_64);
  const arm = compileFilter(jobProfile(), AARCH64);
  for (let nr = 0; nr <= 600; nr++) {
    t.equal(ask(x86, X86_64, 0x40000000 + nr), 'kill-process');
    t.equal(ask(arm, AARCH64, 0x40000000 + nr), 'ENOSYS');
  }
  for (const nr of [0x7fffffff, 0x80000000, 0xc0000001, 0xfffffffe]) t.equal(ask(x86, X86_64, nr), 'kill-process', nr.toString(16));
});

t.test('compileFilter() kills calls of a foreign architecture, whatever the number (S16)', async (t) => {
  /** AUDIT_ARCH_I386, ARM, RISCV64, and the two supported ones with their endianness or word size changed. */
  const foreign = [0x40000003, 0x40000028, 0xc00000f3, 0x4000003e, 0x8000003e, 0xc000003f, 0x400000b7, 0, 0xffffffff];
  for (const arch of ARCHES) {
    const other = arch === X86_64 ? AARCH64 : X86_64;
    for (const profile of PROFILES) {
      const filter = compileFilter(profile, arch);
      for (const auditArch of [...foreign, other.auditArch]) {
        const actions = new Set([0, 1, 39, 60, 102, 231, 360, 600].map((nr) => actionName(runFilter(filter, { auditArch, nr }))));
        t.same([...actions], ['kill-process'], `${profile.name} on ${arch.name} from ${auditArch.toString(16)}`);
      }
    }
  }
});

t.test('compileFilter() gives the same bytes every time', async (t) => {
  for (const arch of ARCHES) t.ok(compileFilter(jobProfile(), arch).equals(compileFilter(jobProfile(), arch)), arch.name);
});

t.test('compileFilter() stays below 400 instructions', async (t) => {
  for (const arch of ARCHES) {
    for (const profile of PROFILES) {
      const count = compileFilter(profile, arch).length / INSTRUCTION_BYTES;
      t.ok(Number.isInteger(count) && count < 400, `${profile.name} on ${arch.name}: ${count}`);
    }
  }
});

t.test('compileFilter() reaches rules and verdicts that are hundreds of instructions away', async (t) => {
  const value = (index: number): number => 2 * index + 1;
  const values = Array.from({ length: 700 }, (_, index) => value(index));
  const profile: Profile = {
    name: 'far',
    allowed: [
      {
        why: 'every second call, for as many ranges as can be',
        calls: [...X86_64.syscalls].filter(([, nr]) => nr % 2 === 0).map(([name]) => name),
      },
    ],
    rules: new Map([
      ['read', { cases: [{ when: [oneOf(5, ...values), oneOf(0, 1)], verdict: 'allow' }], otherwise: 'EAFNOSUPPORT' }],
      ['write', { cases: [{ when: [oneOf(1, ...values)], verdict: 'EPROTONOSUPPORT' }], otherwise: 'EPERM' }],
    ]),
    absent: [],
  };
  const filter = compileFilter(profile, X86_64);
  t.ok(filter.length / INSTRUCTION_BYTES > 1500, 'is long');
  const differing: string[] = [];
  for (let nr = 0; nr <= 600; nr++) {
    for (const word of [0n, 1n, 2n, BigInt(value(350)), BigInt(value(699)), BigInt(value(700))]) {
      const args = [1n, word, 0n, 0n, 0n, word];
      const does = ask(filter, X86_64, nr, ...args);
      const says = readProfile(profile, X86_64, nr, args);
      if (does !== says) differing.push(`${nr}(${word}): does ${does}, says ${says}`);
    }
  }
  t.same(differing, []);
});
