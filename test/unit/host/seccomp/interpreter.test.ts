import t from 'tap';
import { assemble, type Line, OP } from '../../../../src/host/seccomp/assembler.ts';
import { actionName, runFilter, type SeccompCall } from '../../../../src/host/seccomp/interpreter.ts';
import { SECCOMP_DATA } from '../../../../src/host/seccomp/seccomp-data.ts';

const CALL: SeccompCall = {
  auditArch: 0xc000003e,
  nr: -1,
  args: [0x1_0000_0002n, 3n, 4n, 5n, 6n, 0xffffffff_fffffff0n],
  instructionPointer: 0x7fff_1234_5678n,
};

/** Gives 1 when the word at the offset equals the value, else 0. */
function isWord(offset: number, value: number): number {
  const lines: Line[] = [
    { op: OP.load, k: offset },
    { op: OP.ifEqual, k: value, yes: 'next', no: 'no' },
    { op: OP.return, k: 1 },
    { label: 'no' },
    { op: OP.return, k: 0 },
  ];
  return runFilter(assemble(lines), CALL);
}

t.test('runFilter() lays a call out as struct seccomp_data', async (t) => {
  t.equal(isWord(SECCOMP_DATA.nr, 0xffffffff), 1);
  t.equal(isWord(SECCOMP_DATA.arch, 0xc000003e), 1);
  t.equal(isWord(SECCOMP_DATA.instructionPointer, 0x12345678), 1);
  t.equal(isWord(SECCOMP_DATA.instructionPointer + 4, 0x7fff), 1);
  t.equal(isWord(SECCOMP_DATA.args, 2), 1);
  t.equal(isWord(SECCOMP_DATA.args + 4, 1), 1);
  t.equal(isWord(SECCOMP_DATA.args + 40, 0xfffffff0), 1);
  t.equal(isWord(SECCOMP_DATA.args + 44, 0xffffffff), 1);
  t.equal(isWord(SECCOMP_DATA.args + 44, 0xfffffffe), 0);
});

t.test('runFilter() compares without a sign', async (t) => {
  const program = assemble([
    { op: OP.load, k: 0 },
    { op: OP.ifAtLeast, k: 0x80000000, yes: 'big', no: 'next' },
    { op: OP.return, k: 0 },
    { label: 'big' },
    { op: OP.and, k: 0x80000000 },
    { op: OP.ifEqual, k: 0x80000000, yes: 'next', no: 'wrong' },
    { op: OP.ifAnyBit, k: 0xc0000000, yes: 'next', no: 'wrong' },
    { op: OP.return, k: 1 },
    { label: 'wrong' },
    { op: OP.return, k: 2 },
  ]);
  t.equal(runFilter(program, { auditArch: 0, nr: 0x7fffffff }), 0);
  t.equal(runFilter(program, { auditArch: 0, nr: 0x80000000 }), 1);
});

t.test('runFilter() refuses what compileFilter() never emits', async (t) => {
  const instruction = (op: number, k: number): Buffer => {
    const bytes = Buffer.alloc(8);
    bytes.writeUInt16LE(op, 0);
    bytes.writeUInt32LE(k, 4);
    return bytes;
  };
  t.throws(() => runFilter(instruction(0x87, 0), CALL), { code: 'E_INTERNAL', message: /opcode 0x87 at 0/ });
  t.throws(() => runFilter(instruction(OP.load, 64), CALL), { code: 'E_INTERNAL', message: /offset 64/ });
  t.throws(() => runFilter(instruction(OP.load, 2), CALL), { code: 'E_INTERNAL', message: /offset 2,/ });
  t.throws(() => runFilter(instruction(OP.load, 0), CALL), { code: 'E_INTERNAL', message: /leaves its 8 bytes/ });
  t.throws(() => runFilter(instruction(OP.jump, 5), CALL), { code: 'E_INTERNAL', message: /leaves its 8 bytes/ });
});

t.test('actionName() names each answer of a filter', async (t) => {
  const names: [number, string][] = [
    [0x7fff0000, 'allow'],
    [0x80000000, 'kill-process'],
    [0x00000000, 'kill-thread'],
    [0x00030001, 'trap'],
    [0x7fc00000, 'user-notification'],
    [0x7ff00007, 'trace'],
    [0x7ffc0000, 'log'],
    [0x00050001, 'EPERM'],
    [0x00050026, 'ENOSYS'],
    [0x00050061, 'EAFNOSUPPORT'],
    [0x12340000, 'kill-process'],
  ];
  for (const [answer, name] of names) t.equal(actionName(answer), name, `0x${answer.toString(16)}`);
});
