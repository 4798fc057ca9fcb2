import { readdirSync, readFileSync } from 'node:fs';
import process, { memoryUsage } from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { duplicate } from '../../src/host/libc.ts';
import { frame } from '../../src/isolation/vm/frames.ts';
import { readAll } from '../helpers/read-all.ts';
import { requires } from '../helpers/requires.ts';
import { openStubSeat, type Played, play, processesOf, STARTED, says, timeOf } from '../helpers/stub-guest.ts';
import { until } from '../helpers/until.ts';

requires(t, 'root', 'launcher', 'gcc');

const seat = openStubSeat(t);
const MIB = 1024 ** 2;
const DONE = says.end('status=0\0changed=1\0');
const FLOOD = Buffer.concat(Array.from({ length: 64 }, () => says.output('x'.repeat(32_000))));

t.test('control: a good guest gives its output and its result, whole', async (t) => {
  const { session, output } = seat.start([
    ...STARTED,
    play.send(says.output('hello'), DONE, says.result('tar'), says.result('ball'), says.whole),
    play.sleep,
  ]);
  const result = readAll(duplicate(session.resultFd));
  await session.started;
  const end = await session.ended;
  t.match(end, { kind: 'exit', status: 0, claims: { changed: true } });
  t.equal(await session.resultDone, 7);
  t.equal((await result).toString(), 'tarball');
  t.same(output, [{ stream: 'stdout', text: 'hello' }]);
  await session.released;
  t.same(processesOf(seat.uid), [], 'the guest that sleeps is gone');
  t.equal(session.way, 'cold');
});

const FAILURES: Record<string, { plays: Buffer[]; code: string; message?: RegExp }> = {
  'V04 sends no frame but noise': { plays: [play.send(Buffer.from('Hello, world! This is no frame.')), play.sleep], code: 'E_VM_PROTOCOL' },
  'V04 lies about a length': {
    plays: [...STARTED, play.send(frame('1', Buffer.alloc(9)).fill(0xff, 1, 5)), play.sleep],
    code: 'E_VM_PROTOCOL',
  },
  'V04 gives a result before the end': { plays: [...STARTED, play.send(says.result('x')), play.sleep], code: 'E_VM_PROTOCOL' },
  'V03 never answers': { plays: [play.sleep], code: 'E_VM_TIMEOUT', message: /did not answer/ },
  'V03 answers, and never takes the job': { plays: [play.send(says.ready), play.sleep], code: 'E_VM_TIMEOUT' },
  'V03 takes the job, and never starts the script': {
    plays: [play.send(says.ready), play.readTo('S'), play.send(says.seeded), play.sleep],
    code: 'E_VM_TIMEOUT',
    message: /did not start the script/,
  },
  'V14 ends before it answers': { plays: [play.exit(0)], code: 'E_VM_CRASH', message: /QEMU ended with status 0/ },
  'V14 ends while the script runs': { plays: [...STARTED, play.exit(1)], code: 'E_VM_CRASH', message: /status 1/ },
  'V14 aborts': {
    plays: [...STARTED, play.complain('bad \x1b[2Jthing\n'), play.abort],
    code: 'E_VM_CRASH',
    message: /signal \d+ \(bad +\[2Jthing\)/,
  },
  'V14 closes its end and sleeps': { plays: [...STARTED, play.closeAndSleep], code: 'E_VM_CRASH' },
};

for (const [what, { plays, code, message = /./ }] of Object.entries(FAILURES)) {
  t.test(`${what}: ${code}, and nothing is left`, async (t) => {
    const { session } = seat.start(plays, { waitMs: 300 });
    const end = await session.ended;
    t.match(end, { kind: 'failed', error: { code, message } });
    await t.rejects(session.resultDone, { code });
    if (!plays.includes(STARTED[4] ?? play.sleep)) await t.rejects(session.started, { code });
    await session.released;
    t.same(processesOf(seat.uid), []);
  });
}

t.test('V03 a result that stops coming ends the guest in time', async (t) => {
  const { session } = seat.start([...STARTED, play.send(DONE, says.result('half')), play.sleep], { waitMs: 300 });
  t.match(await session.ended, { kind: 'exit', status: 0 });
  await t.rejects(session.resultDone, { code: 'E_VM_TIMEOUT', message: /its result/ });
  await session.released;
  t.same(processesOf(seat.uid), []);
});

t.test('V04 a forged frame within the result spoils all of it', async (t) => {
  for (const forged of [says.output('x'), DONE, says.seeded]) {
    const { session } = seat.start([...STARTED, play.send(DONE, says.result('half'), forged, says.whole)]);
    await t.rejects(session.resultDone, { code: 'E_VM_PROTOCOL' });
  }
});

t.test('a step that the agent could not do is told with its errno', async (t) => {
  const { session } = seat.start([
    play.send(says.ready),
    play.readTo('S'),
    play.send(says.seeded),
    play.readTo('G'),
    play.send(frame('E', Buffer.from('exec\x002'))),
  ]);
  t.same(await session.ended, { kind: 'error', step: 'exec', errno: 'ENOENT' });
  await t.rejects(session.started, { code: 'E_VM_CRASH', message: /step "exec" of its guest failed with ENOENT/ });
});

t.test('a script whose files were lost because the host has no room for them is told so', async (t) => {
  const { session } = seat.start([...STARTED, play.send(DONE, frame('E', Buffer.from('sync\x005'))), play.sleep]);
  await t.rejects(session.resultDone, { code: 'E_STATE', message: /disk of the state directory is full/ });
});

t.test('V03 a result that comes byte by byte, each in time, ends the guest all the same', async (t) => {
  const trickle = Array.from({ length: 60 }, () => [play.send(says.result('x')), play.pause(50)]).flat();
  const { session } = seat.start([...STARTED, play.send(DONE), ...trickle, play.send(says.whole), play.sleep], { waitMs: 300 });
  await t.rejects(session.resultDone, { code: 'E_VM_TIMEOUT', message: /too slowly/ });
  await session.released;
});

t.test('V02 a flood of the smallest frames leaves the daemon its other work', async (t) => {
  const tiny = Buffer.concat(Array.from({ length: 2000 }, () => [says.output('x'), frame('2', Buffer.from('y'))]).flat());
  const { session, outputBytes, output } = seat.start([...STARTED, play.repeat(0, tiny)]);
  await session.started;
  let longestMs = 0;
  for (let turn = 0; turn < 100; turn++) {
    const begin = performance.now();
    await sleep(1);
    longestMs = Math.max(longestMs, performance.now() - begin);
  }
  t.ok(longestMs < 500, `waited ${longestMs} ms`);
  t.ok(outputBytes() > 50 * output.length, 'and small pieces are put together');
  session.kill();
});

t.test('V02 a flood of output goes to the caller, who ends it at once; memory stays', async (t) => {
  const before = memoryUsage().rss;
  const { session, outputBytes } = seat.start([...STARTED, play.repeat(0, FLOOD)]);
  await until('256 MiB of output', () => outputBytes() > 256 * MIB);
  const grownMib = (memoryUsage().rss - before) / MIB;
  t.ok(grownMib < 100, `grew by ${grownMib} MiB`);
  session.kill();
  t.ok((await timeOf(session.released)) < 1000);
  t.same(await session.ended, { kind: 'killed' });
  t.same(processesOf(seat.uid), []);
});

t.test('V02 a log of single bytes is joined', async (t) => {
  const drop = Buffer.concat(Array.from({ length: 2000 }, () => says.output('x')));
  const { session, output, outputBytes } = seat.start([...STARTED, play.repeat(10, drop), play.send(says.end('status=3\0'))]);
  t.match(await session.ended, { kind: 'exit', status: 3 });
  t.equal(outputBytes(), 20_000);
  t.ok(output.length < 50, `${output.length} pieces`);
});

t.test('V01 a result without an end is stopped at its limit', async (t) => {
  const { session } = seat.start([...STARTED, play.send(DONE), play.repeat(0, says.result(Buffer.alloc(60_000)))], {
    maxResultBytes: 8 * MIB,
  });
  const result = readAll(duplicate(session.resultFd));
  await t.rejects(session.resultDone, { code: 'E_LIMIT_RESULT' });
  t.ok((await result).length <= 8 * MIB);
  await session.released;
  t.same(processesOf(seat.uid), []);
});

t.test('V01 a reader that is slow holds the guest back, not the bytes in memory', async (t) => {
  const bytes = 512 * 65_536;
  const plays = [...STARTED, play.send(DONE), play.repeat(512, says.result(Buffer.alloc(65_536))), play.send(says.whole)];
  const { session } = seat.start(plays, { maxResultBytes: 64 * MIB, waitMs: 500 });
  await session.ended;
  const before = memoryUsage();
  await sleep(800);
  const held = memoryUsage();
  const grownMib = (held.external + held.arrayBuffers - before.external - before.arrayBuffers) / MIB;
  t.ok(grownMib < 8, `grew by ${grownMib} MiB`);
  t.equal(processesOf(seat.uid).length, 1, 'the guest waits, beyond its time');
  const result = readAll(duplicate(session.resultFd));
  t.equal(await session.resultDone, bytes);
  t.equal((await result).length, bytes);
});

t.test('V01 a reader that goes away ends the guest', async (t) => {
  const { session } = seat.start([...STARTED, play.send(DONE), play.repeat(0, says.result(Buffer.alloc(60_000)))], {
    maxResultBytes: 1024 * MIB,
  });
  await session.ended;
  session.kill();
  await t.rejects(session.resultDone, { code: 'E_CANCELLED' });
  await session.released;
  t.same(processesOf(seat.uid), []);
});

t.test('a saved state that gives no answer turns into a cold boot of the same job', async (t) => {
  const whole = [...STARTED, play.send(says.end('status=0\0changed=0\0'))];
  for (const [restore, code] of [
    [[play.sleep], 'E_VM_TIMEOUT'],
    [[play.exit(1)], 'E_VM_CRASH'],
    [[play.send(Buffer.from('noise!')), play.sleep], 'E_VM_PROTOCOL'],
  ] as const) {
    seat.stateOutcomes.length = 0;
    const { session } = seat.start(whole, { restore: [...restore], waitMs: 300 });
    const end = await session.ended;
    t.match(end, { kind: 'exit', status: 0 }, `${code} ${JSON.stringify(end)}`);
    t.equal(session.way, 'cold');
    t.same(seat.stateOutcomes, [code]);
    t.equal(await session.resultDone, 0);
    await session.released;
  }
});

t.test('a saved state that answers is used, once', async (t) => {
  seat.stateOutcomes.length = 0;
  const [, , ...seeded] = STARTED;
  const { session } = seat.start([play.exit(9)], { restore: [...seeded, play.exit(2)] });
  await session.started;
  t.match(
    await session.ended,
    { kind: 'failed', error: { code: 'E_VM_CRASH', message: /status 2/ } },
    'what fails after the start is no cold boot',
  );
  t.equal(session.way, 'restored');
  t.same(seat.stateOutcomes, ['worked']);
});

t.test('kill() ends a machine at any time, and again', async (t) => {
  const plays = [...STARTED, play.send(says.output('x'), DONE, says.result('half')), play.sleep];
  for (const afterMs of [0, 1, 5, 10, 20, 50]) {
    const { session } = seat.start(plays);
    if (afterMs > 0) await sleep(afterMs);
    session.kill();
    session.kill();
    t.ok((await timeOf(session.released)) < 1000, `after ${afterMs} ms`);
    t.match((await session.ended).kind, /killed|exit/);
    await t.rejects(session.resultDone, { code: 'E_CANCELLED' });
    t.same(processesOf(seat.uid), []);
  }
});

t.test('O02 the death of QEMU or of its launcher is told, and leaves nothing', async (t) => {
  for (const victim of ['QEMU', 'launcher']) {
    const { session } = seat.start([...STARTED, play.sleep]);
    await session.started;
    const [qemu = ''] = processesOf(seat.uid);
    process.kill(victim === 'QEMU' ? Number(qemu) : parentOf(qemu), 'SIGKILL');
    t.match(await session.ended, { kind: 'failed', error: { code: 'E_VM_CRASH' } }, victim);
    await session.released;
    await until('the end of QEMU', () => processesOf(seat.uid).length === 0);
  }
});

function parentOf(pid: string): number {
  return Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]);
}

t.test('input() and resize() before the start and after the end go nowhere', async (t) => {
  const { session } = seat.start([...STARTED, play.readTo('W'), play.readTo('I'), play.send(says.end('signal=2\0'))]);
  await session.input(Buffer.from('early'));
  session.resize(1, 1);
  await session.started;
  session.resize(24, 80);
  await session.input(Buffer.from('typed'));
  t.match(await session.ended, { kind: 'signal', signal: 2 });
  await session.input(Buffer.from('late'));
  session.resize(1, 1);
});

t.test('no descriptor is left behind', async () => {
  const count = (): number => readdirSync('/proc/self/fd').length;
  const whole = [...STARTED, play.send(says.output('x'), DONE, says.result('tar'), says.whole)];
  const ways: (() => Played)[] = [
    () => seat.start(whole),
    () => seat.start([play.exit(1)], { restore: [play.exit(1)] }),
    () => seat.start([play.sleep]),
  ];
  // Those of the test before are on their way.
  await sleep(200);
  for (const [index, start] of ways.entries()) {
    const before = count();
    const played = start();
    if (index < 2) await played.session.ended;
    played.session.kill();
    await played.session.released;
    await until(`only the control group's descriptors, way ${index}`, () => count() === before + played.groupDescriptors);
  }
});
