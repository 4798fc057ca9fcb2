import t from 'tap';
import { frames, jobRecords, planDisks, seedFrame, windowFrame } from '../../../../src/isolation/vm/frames.ts';
import { mergeOutput } from '../../../../src/isolation/vm/merge-output.ts';
import type { GuestEvent } from '../../../../src/isolation/vm/stream-reader.ts';

const JOB = {
  limits: { memoryBytes: 1, cpus: 1, pids: 2, diskBytes: 3 },
  hostname: 'rootlayer',
  terminal: null,
  program: { candidates: [['/bin/bash', '-e'], ['/bin/sh']], env: { A: '1', B: 'end=' } },
};

t.test('jobRecords() puts what a stranger may have chosen behind the end mark', async (t) => {
  t.same(jobRecords(JOB, planDisks(2, true)).toString('latin1').split('\0'), [
    ...['lower=1', 'lower=2', 'files=3', 'scratch=0', 'memory=1', 'pids=2', 'fsize=3', 'hostname=rootlayer', 'end='],
    ...['env=A=1', 'env=B=end=', 'exec=/bin/bash', 'arg=-e', 'exec=/bin/sh', ''],
  ]);
});

t.test('jobRecords() tells the size of a terminal', async (t) => {
  const records = jobRecords({ ...JOB, terminal: { rows: 24, columns: 80 } }, planDisks(0, false));
  t.match(records.toString('latin1'), /\0terminal=24 80\0end=\0/);
});

t.test('jobRecords() refuses a value with a NUL byte', async (t) => {
  const program = { candidates: [['/bin/sh']], env: { A: '1\0scratch=1' } };
  t.throws(() => jobRecords({ ...JOB, program }, planDisks(1, false)), { code: 'E_INTERNAL', message: /NUL/ });
});

t.test('planDisks() numbers the scratch disk, the layers and the files', async (t) => {
  t.same(planDisks(0, false), { scratch: 0, lowers: [], files: null, count: 1 });
  t.same(planDisks(2, true), { scratch: 0, lowers: [1, 2], files: 3, count: 4 });
});

t.test('frames() cuts what is longer than a frame', async (t) => {
  const lengths = (size: number): number[] => frames('P', Buffer.alloc(size)).map((each) => each.length);
  t.same(lengths(0), []);
  t.same(lengths(65_536), [65_541]);
  t.same(lengths(65_537), [65_541, 6]);
});

t.test('seedFrame() has the time of now and entropy of its own', async (t) => {
  const [first, second] = [seedFrame(), seedFrame()];
  t.equal(first.length, 5 + 12 + 64);
  t.equal(first.toString('latin1', 0, 1), 'S');
  t.ok(Math.abs(Number(first.readBigInt64LE(5)) - Date.now() / 1000) < 5, 'seconds');
  t.ok(first.readUInt32LE(13) < 1e9, 'nanoseconds');
  t.notSame(first.subarray(17), second.subarray(17));
});

t.test('windowFrame() has rows and columns', async (t) => {
  t.same([...windowFrame(24, 300)], [0x57, 4, 0, 0, 0, 24, 0, 44, 1]);
});

t.test('mergeOutput() joins what came together of each stream and of the result, and keeps the order of the rest', async (t) => {
  const output = (stream: 'stdout' | 'stderr', text: string): GuestEvent => ({ kind: 'output', stream, bytes: Buffer.from(text) });
  const result = (text: string): GuestEvent => ({ kind: 'result', bytes: Buffer.from(text) });
  const events: GuestEvent[] = [
    ...[output('stdout', 'a'), output('stderr', 'c'), output('stdout', 'b'), output('stderr', 'd')],
    ...[{ kind: 'error', step: 'x', errno: 'EIO' } as const, result('1'), result('2'), { kind: 'whole' } as const],
  ];
  const told = (event: GuestEvent): string =>
    event.kind === 'output' ? `${event.stream} ${event.bytes}` : event.kind === 'result' ? `result ${event.bytes}` : event.kind;
  t.same([...mergeOutput(events)].map(told), ['stdout ab', 'stderr cd', 'error', 'result 12', 'whole']);
});
