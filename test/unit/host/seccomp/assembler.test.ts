import t from 'tap';
import { assemble, INSTRUCTION_BYTES, type Line, MAX_INSTRUCTIONS, OP } from '../../../../src/host/seccomp/assembler.ts';
import { runFilter } from '../../../../src/host/seccomp/interpreter.ts';

/** Loads the number, branches on it being 7, and puts `distance` instructions before each of two ways. */
function branchOver(distance: number): Line[] {
  const filler: Line[] = Array.from({ length: distance }, () => ({ op: OP.and, k: 0xffffffff }));
  return [
    { op: OP.load, k: 0 },
    { op: OP.ifEqual, k: 7, yes: 'yes', no: 'no' },
    ...filler,
    { label: 'no' },
    { op: OP.return, k: 2 },
    { label: 'yes' },
    { op: OP.return, k: 1 },
  ];
}

t.test('assemble() writes struct sock_filter, little endian', async (t) => {
  const program = assemble([
    { op: OP.load, k: 4 },
    { op: OP.ifAtLeast, k: 0xc000003e, yes: 'next', no: 'end' },
    { op: OP.and, k: 0x01020304 },
    { label: 'end' },
    { op: OP.return, k: 0x7fff0000 },
  ]);
  t.equal(program.toString('hex'), '2000000004000000' + '350000013e0000c0' + '5400000004030201' + '060000000000ff7f');
});

t.test('assemble() branches directly where an 8-bit offset reaches, and over a jump where it does not', async (t) => {
  for (const distance of [0, 1, 253, 254, 255, 256, 257, 600]) {
    const program = assemble(branchOver(distance));
    t.equal(runFilter(program, { auditArch: 0, nr: 7 }), 1, `yes over ${distance}`);
    t.equal(runFilter(program, { auditArch: 0, nr: 8 }), 2, `no over ${distance}`);
    const hops = program.length / INSTRUCTION_BYTES - (distance + 4);
    t.equal(hops, distance <= 253 ? 0 : 2, `jumps over ${distance}`);
  }
});

t.test('assemble() keeps `next` at the next written line when a jump comes between', async (t) => {
  const lines = branchOver(300).map((line) => ('no' in line ? { ...line, no: 'next' } : line));
  const program = assemble(lines);
  t.equal(runFilter(program, { auditArch: 0, nr: 7 }), 1);
  t.equal(runFilter(program, { auditArch: 0, nr: 8 }), 2);
});

t.test('assemble() refuses labels that are missing, above their use, or defined twice', async (t) => {
  const branch: Line = { op: OP.ifEqual, k: 0, yes: 'there', no: 'next' };
  const end: Line = { op: OP.return, k: 0 };
  t.throws(() => assemble([branch, end]), /no label "there" below/);
  t.throws(() => assemble([{ label: 'there' }, branch, end]), /no label "there" below/);
  t.throws(() => assemble([branch, { label: 'there' }, end, { label: 'there' }, end]), /label "there" twice/);
  t.throws(() => assemble([{ label: 'next' }, end]), /label "next"/);
});

t.test('assemble() refuses a program that the kernel would refuse for its length', async (t) => {
  const line: Line = { op: OP.return, k: 0 };
  t.equal(assemble(Array.from({ length: MAX_INSTRUCTIONS }, () => line)).length, MAX_INSTRUCTIONS * INSTRUCTION_BYTES);
  t.throws(() => assemble(Array.from({ length: MAX_INSTRUCTIONS + 1 }, () => line)), /longer than 4096/);
});
