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
  'a descriptor that is none': ['status=5', 'root=99999999', 'end=', 'exec=/bin/true'],
};

for (const [what, records] of Object.entries(MALFORMED)) {
  t.test(`the launcher refuses ${what}`, async (t) => {
    t.equal(await report('job', records), SPEC_ERROR);
  });
}

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
