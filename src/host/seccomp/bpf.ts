import { assertNever } from '../../core/assert-never.ts';
import type { SeccompArch, SyscallName } from './arch.ts';
import { assemble, type Line, OP, type Target } from './assembler.ts';
import { type ArgRule, type ArgTest, FILTER_ERRNO, type Profile, type Verdict } from './rules.ts';
import { SECCOMP_DATA, SECCOMP_RETURN, SKIPPED_CALL, X32_BIT } from './seccomp-data.ts';

/**
 * Compiles a profile to the program of a seccomp filter: an array of `struct sock_filter` whose length in instructions is
 * that of the Buffer divided by 8. A call of a foreign architecture, x32 included, kills the process. The same profile and
 * architecture give the same bytes. Source: kernel documentation userspace-api/seccomp_filter, seccomp(2).
 */
export function compileFilter(profile: Profile, arch: SeccompArch): Buffer {
  const program = new Program();
  program.add({ op: OP.load, k: SECCOMP_DATA.arch });
  program.add({ op: OP.ifEqual, k: arch.auditArch, yes: 'next', no: program.verdict('kill-process') });
  program.add({ op: OP.load, k: SECCOMP_DATA.nr });
  if (arch.hasX32) addX32Check(program);
  addSearch(program, toRanges(program, profile, arch));
  return program.assemble();
}

/** A program in the making: the lines so far, and the rules and verdicts that they lead to, which follow them. */
class Program {
  readonly #lines: Line[] = [];
  readonly #rules = new Map<ArgRule, string>();
  readonly #verdicts = new Set<Verdict>();

  add(line: Line): void {
    this.#lines.push(line);
  }

  /** Gives the label of the instruction that ends with this verdict. */
  verdict(verdict: Verdict): Target {
    this.#verdicts.add(verdict);
    return verdict;
  }

  /** Gives the label of the instructions that decide by this rule. */
  rule(rule: ArgRule): Target {
    const label = this.#rules.get(rule) ?? `rule ${this.#rules.size}`;
    this.#rules.set(rule, label);
    return label;
  }

  assemble(): Buffer {
    for (const [rule, label] of this.#rules) addRule(this, rule, label);
    for (const verdict of this.#verdicts) {
      this.add({ label: verdict });
      this.add({ op: OP.return, k: toReturnValue(verdict) });
    }
    return assemble(this.#lines);
  }
}

/** x32 calls come under the arch of x86-64, with bit 30 set. -1 has it set too, and is no x32 call. */
function addX32Check(program: Program): void {
  program.add({ op: OP.ifAtLeast, k: X32_BIT, yes: 'next', no: 'native' });
  program.add({ op: OP.ifEqual, k: SKIPPED_CALL, yes: program.verdict('ENOSYS'), no: program.verdict('kill-process') });
  program.add({ label: 'native' });
}

/** Numbers from `start` up to the start of the next range, all with the same outcome. */
type Range = { readonly start: number; readonly target: Target };

function toRanges(program: Program, profile: Profile, arch: SeccompArch): Range[] {
  const targets = toTargets(program, profile, arch);
  const unknown = program.verdict('ENOSYS');
  const end = Math.max(...targets.keys()) + 1;
  const ranges: Range[] = [];
  for (let nr = 0; nr <= end; nr++) {
    const target = targets.get(nr) ?? unknown;
    if (ranges.at(-1)?.target !== target) ranges.push({ start: nr, target });
  }
  return ranges;
}

/** Gives where each number that the architecture knows leads. */
function toTargets(program: Program, profile: Profile, arch: SeccompArch): Map<number, Target> {
  const allowed = new Set(profile.allowed.flatMap((group) => group.calls));
  const absent = new Set(profile.absent.flatMap((group) => group.calls));
  const targetOf = (name: SyscallName): Target => {
    const rule = profile.rules.get(name);
    if (rule !== undefined) return program.rule(rule);
    if (allowed.has(name)) return program.verdict('allow');
    return program.verdict(absent.has(name) ? 'ENOSYS' : 'EPERM');
  };
  const byNumber = [...arch.syscalls].sort(([, a], [, b]) => a - b);
  return new Map(byNumber.map(([name, nr]) => [nr, targetOf(name)]));
}

/** Adds a binary search for the range of the number in A. */
function addSearch(program: Program, ranges: readonly Range[]): void {
  const half = ranges.length >> 1;
  const middle = ranges[half];
  if (middle === undefined || half === 0) return;
  const below = ranges.slice(0, half);
  const above = ranges.slice(half);
  const label = `from ${middle.start}`;
  program.add({ op: OP.ifAtLeast, k: middle.start, yes: leafTarget(above) ?? label, no: leafTarget(below) ?? 'next' });
  addSearch(program, below);
  program.add({ label });
  addSearch(program, above);
}

/** Gives where a single range leads; undefined for several, which need a further step of the search. */
function leafTarget(ranges: readonly Range[]): Target | undefined {
  return ranges.length === 1 ? ranges[0]?.target : undefined;
}

function addRule(program: Program, rule: ArgRule, label: string): void {
  program.add({ label });
  for (const [index, { when, verdict }] of rule.cases.entries()) {
    const isLast = index === rule.cases.length - 1;
    const miss = isLast ? program.verdict(rule.otherwise) : `${label} case ${index + 1}`;
    for (const [place, test] of when.entries()) {
      const passed = `${label} case ${index} test ${place} passed`;
      const isLastTest = place === when.length - 1;
      addTest(program, test, isLastTest ? program.verdict(verdict) : passed, miss);
      if (!isLastTest) program.add({ label: passed });
    }
    if (!isLast) program.add({ label: miss });
  }
}

function addTest(program: Program, test: ArgTest, pass: Target, fail: Target): void {
  program.add({ op: OP.load, k: SECCOMP_DATA.args + 8 * test.arg + (test.half === 'low' ? 0 : 4) });
  switch (test.is) {
    case 'one-of':
      for (const [index, value] of test.values.entries()) {
        program.add({ op: OP.ifEqual, k: value, yes: pass, no: index === test.values.length - 1 ? fail : 'next' });
      }
      return;
    case 'with-bits':
      program.add({ op: OP.and, k: test.mask });
      program.add({ op: OP.ifEqual, k: test.mask, yes: pass, no: fail });
      return;
    case 'without-bits':
      program.add({ op: OP.ifAnyBit, k: test.mask, yes: fail, no: pass });
      return;
    default:
      assertNever(test);
  }
}

function toReturnValue(verdict: Verdict): number {
  if (verdict === 'allow') return SECCOMP_RETURN.allow;
  if (verdict === 'kill-process') return SECCOMP_RETURN.killProcess;
  return SECCOMP_RETURN.errno + FILTER_ERRNO[verdict];
}
