import { writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { jobRequestSchema } from '../../../src/core/job.ts';
import { chooseIsolation, isolationWarning, settleIsolation } from '../../../src/isolation/choose.ts';
import { scriptCandidates } from '../../../src/isolation/job-files.ts';
import { JobOutput } from '../../../src/job/output.ts';

const shells = [
  ['/bin/bash', '-e', '/dev/rootlayer/script'],
  ['/usr/bin/bash', '-e', '/dev/rootlayer/script'],
  ['/bin/sh', '-e', '/dev/rootlayer/script'],
];

t.test('scriptCandidates() takes a shell that stops at errors, whichever shell the first line names', (t) => {
  for (const text of ['echo', '', '#!/bin/sh\n', '#!/bin/bash -x\n', '#! /usr/bin/env bash\n', '# !/usr/bin/perl', '#!']) {
    t.same(scriptCandidates(Buffer.from(text)), shells, JSON.stringify(text));
  }
  t.end();
});

t.test('scriptCandidates() takes another interpreter with its one argument, as the kernel does', (t) => {
  const texts = (script: string) => scriptCandidates(Buffer.from(script)).map((words) => words.map(String));
  t.same(texts('#!/usr/bin/perl -w -T\nx'), [['/usr/bin/perl', '-w -T', '/dev/rootlayer/script']]);
  t.same(texts('#!/usr/bin/env python3\nx'), [['/usr/bin/env', 'python3', '/dev/rootlayer/script']]);
  t.end();
});

const POLICY = { chrootUids: [7], networkUids: [8], emulation: 'allow' as const };
const NO_VM = { ok: false as const, lacked: 'no QEMU' };
const EMULATED = { ok: true as const, acceleration: 'tcg' as const, why: 'there is no /dev/kvm' };
const KVM = { ok: true as const, acceleration: 'kvm' as const, why: 'a guest booted' };
const UNTRIED = { ok: true as const, acceleration: 'untried' as const, why: '' };
const jobOf = (over: object) => jobRequestSchema.parse({ from: 'scratch', script: '', ...over });

t.test('chooseIsolation() says why, and what each refused one lacked', (t) => {
  const choose = (over: object, uid: number) => chooseIsolation(POLICY, NO_VM, { uid }, jobOf(over));
  t.same(choose({}, 5), {
    used: 'userns',
    why: 'the strongest that this machine offers',
    boundary: 'kernel',
    refused: [{ isolation: 'vm', lacked: 'no QEMU' }],
  });
  t.match(choose({ isolation: 'chroot' }, 7), { used: 'chroot', why: 'asked for', boundary: 'none' });
  t.throws(() => choose({ isolation: 'chroot' }, 5), { code: 'E_FORBIDDEN' });
  t.throws(() => choose({ isolation: 'vm' }, 0), { code: 'E_MISSING_FEATURE', message: /no QEMU/ });
  t.throws(() => choose({ network: 'host' }, 5), { code: 'E_FORBIDDEN' });
  t.doesNotThrow(() => choose({ network: 'host' }, 8));
  t.end();
});

t.test('chooseIsolation() takes a virtual machine by itself only where KVM makes it a boundary', (t) => {
  const auto = (vm: Parameters<typeof chooseIsolation>[1], over: object = {}) => chooseIsolation(POLICY, vm, { uid: 0 }, jobOf(over));
  t.match(auto(KVM), { used: 'vm', boundary: 'hardware', refused: [] });
  t.match(auto(EMULATED), { used: 'userns', refused: [{ isolation: 'vm', lacked: /no security boundary: there is no \/dev\/kvm/ }] });
  t.match(auto(UNTRIED), { used: 'userns', refused: [{ isolation: 'vm', lacked: /doctor --vm/ }] });
  t.match(auto(KVM, { network: 'host' }), { used: 'userns', refused: [{ isolation: 'vm', lacked: /no network/ }] });
  t.end();
});

t.test('settleIsolation() tells the truth once the machine runs', (t) => {
  const known = { used: 'vm', why: 'x', boundary: 'hardware', refused: [] } as const;
  t.match(settleIsolation({ ...known, refused: [] }, 'tcg'), { boundary: 'none', why: /no longer/ });
  t.same(settleIsolation({ ...known, refused: [] }, 'kvm'), known);
  t.match(settleIsolation({ ...known, boundary: 'none', refused: [] }, 'kvm'), { boundary: 'hardware', why: 'asked for; KVM' });
  t.match(isolationWarning({ ...known, boundary: 'none', refused: [] }), /no security boundary/);
  t.equal(isolationWarning({ ...known, refused: [] }), null);
  t.end();
});

t.test('chooseIsolation() labels emulation as no boundary, and the policy can refuse it', (t) => {
  const vm = jobOf({ isolation: 'vm' });
  t.match(chooseIsolation(POLICY, EMULATED, { uid: 0 }, vm), { used: 'vm', boundary: 'none', why: /software emulation/ });
  t.match(chooseIsolation(POLICY, KVM, { uid: 0 }, vm), { used: 'vm', boundary: 'hardware', why: 'asked for; KVM' });
  const strict = { ...POLICY, emulation: 'refuse' as const };
  t.throws(() => chooseIsolation(strict, EMULATED, { uid: 0 }, vm), { code: 'E_FORBIDDEN', message: /policy refuses/ });
  t.throws(() => chooseIsolation(POLICY, KVM, { uid: 0 }, jobOf({ isolation: 'vm', network: 'host' })), { code: 'E_MISSING_FEATURE' });
  t.end();
});

t.test('jobRequestSchema refuses unknown members, bad variables and host paths', (t) => {
  const good = { from: 'scratch', script: '' };
  for (const wrong of [
    { from: '' },
    { extra: 1 },
    { env: { 'A=B': 'x' } },
    { env: { A: 'x\0' } },
    { script: '***' },
    { contextId: '/etc/shadow' },
    { uid: 0 },
    { limits: { x: 1 } },
  ]) {
    t.notOk(jobRequestSchema.safeParse({ ...good, ...wrong }).success, JSON.stringify(wrong));
  }
  t.end();
});

t.test('JobOutput keeps split characters whole and passes other bytes as base64', async (t) => {
  const got: [string, string, string | null][] = [];
  const output = new JobOutput(process.getuid?.() ?? 0, (stream, data, encoding) => got.push([stream, data, encoding]));
  const euro = Buffer.from('\u20ac');
  writeSync(output.stdoutFd, euro.subarray(0, 1));
  await sleep(30);
  writeSync(output.stdoutFd, euro.subarray(1));
  await sleep(30);
  writeSync(output.stderrFd, Buffer.from([0xff, 0x41]));
  await sleep(30);
  writeSync(output.stdoutFd, euro.subarray(0, 2));
  output.closeWriters();
  await output.drained(1000);
  t.same(got, [
    ['stdout', '\u20ac', null],
    ['stderr', Buffer.from([0xff, 0x41]).toString('base64'), 'base64'],
    ['stdout', euro.subarray(0, 2).toString('base64'), 'base64'],
  ]);
  t.equal(output.bytes, 7);
  output.destroy();
});
