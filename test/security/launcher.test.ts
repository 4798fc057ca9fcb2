import { spawn } from 'node:child_process';
import type { Duplex } from 'node:stream';
import { text } from 'node:stream/consumers';
import t from 'tap';
import { LAUNCHER, launch } from '../../src/host/launcher.ts';
import { requires } from '../helpers/requires.ts';

requires(t, 'root', 'userns', 'launcher');

/** Gives the launcher a request as raw records, past everything that checks one, and tells what it reports. */
async function report(mode: string, records: string[]): Promise<string> {
  const child = spawn(LAUNCHER, [mode], { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'ignore', 'pipe'], env: {} });
  const [, , , request, , status] = child.stdio as unknown as Duplex[];
  request?.on('error', () => {});
  request?.end(Buffer.from(records.map((record) => `${record}\0`).join('')));
  return status === undefined ? '' : await text(status);
}

const SPEC_ERROR = 'error spec 22\n';
const GOOD = ['status=5', 'caps=0', 'end=', 'env=A=1', 'exec=/bin/true'];

t.test('the launcher takes a sealed request', async (t) => {
  t.match(await report('worker', GOOD), /^(exit 0|error worker-socket \d+)\n/, 'control: the records themselves are good');
});

for (const record of [
  'userns=0',
  'caps=1ffffffffff',
  'nnp=0',
  'seccomp=6',
  'network=host',
  'root=6',
  'cgroup=6',
  'status=5',
  'end=',
  'code=6',
  'terminal=24 80',
  'unknown=1',
  '',
]) {
  t.test(`S42 behind the end mark the launcher refuses ${JSON.stringify(record)}`, async (t) => {
    t.equal(await report('worker', [...GOOD, record]), SPEC_ERROR);
  });
}

const MALFORMED: Record<string, string[]> = {
  'a request without an end mark': ['status=5', 'caps=0'],
  'a program before the end mark': ['status=5', 'exec=/bin/true', 'end='],
  'an environment before the end mark': ['status=5', 'env=A=1', 'end=', 'exec=/bin/true'],
  'nothing to do': ['status=5', 'end='],
  'a number with more behind it': ['status=5', 'userns=0x', 'end=', 'exec=/bin/true'],
  'a negative number': ['status=5', 'userns=-1', 'end=', 'exec=/bin/true'],
  'no number': ['status=5', 'userns=', 'end=', 'exec=/bin/true'],
  'one of the standard descriptors': ['status=5', 'root=2', 'end=', 'exec=/bin/true'],
  'a terminal with half a size': ['status=5', 'terminal=24', 'end=', 'exec=/bin/true'],
  'a terminal without rows': ['status=5', 'terminal=0 80', 'end=', 'exec=/bin/true'],
  'a terminal with more behind its size': ['status=5', 'terminal=24 80 1', 'end=', 'exec=/bin/true'],
  'a descriptor that is none': ['status=5', 'root=99999999', 'end=', 'exec=/bin/true'],
};

for (const [what, records] of Object.entries(MALFORMED)) {
  t.test(`the launcher refuses ${what}`, async (t) => {
    t.equal(await report('job', records), SPEC_ERROR);
  });
}

const VM = ['status=5', 'user=1000', 'root=6', 'seccomp=6', 'caps=0', 'nnp=1', 'fsize=0', 'processes=10'];
const PROGRAM = ['end=', 'exec=/bin/true'];

t.test('the launcher takes a sealed request for a virtual machine', async (t) => {
  t.equal(
    await report('vm', [...VM, ...PROGRAM]),
    'error root 9\nexit 125\n',
    'control: the records are good, the descriptors are not there',
  );
});

for (const [what, records] of Object.entries({
  'without a user of its own': VM.filter((record) => !record.startsWith('user=')),
  'as root': [...VM, 'user=0'],
  'as the user that means none': [...VM, 'user=4294967295'],
  'without a root of its own': VM.filter((record) => !record.startsWith('root=')),
  'without a filter': VM.filter((record) => !record.startsWith('seccomp=')),
  'with a capability': [...VM, 'caps=1'],
  'that may gain privileges': [...VM, 'nnp=0'],
  "in the host's network": [...VM, 'network=host'],
})) {
  t.test(`V05 the launcher refuses a virtual machine ${what}`, async (t) => {
    t.equal(await report('vm', [...records, ...PROGRAM]), SPEC_ERROR);
  });
}

t.test('V05 behind the end mark the launcher passes no descriptor and changes no user', async (t) => {
  for (const record of ['pass=6', 'user=0', 'processes=4096']) t.equal(await report('vm', [...VM, ...PROGRAM, record]), SPEC_ERROR, record);
});

t.test('S42 launch() refuses a value with a NUL byte, in whatever record', (t) => {
  for (const record of [
    ['env', 'A=1\0userns=0'],
    ['arg', 'x\0caps=1ffffffffff'],
    ['exec', Buffer.from('/bin/sh\0end=')],
    ['hostname', 'x\0'],
  ] as const) {
    t.throws(() => launch('worker', [[record[0], record[1]]], ['ignore', 'ignore', 'ignore'], []), { code: 'E_INTERNAL', message: /NUL/ });
  }
  t.end();
});
