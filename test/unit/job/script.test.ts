import { writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { jobRequestSchema } from '../../../src/core/job.ts';
import { chooseIsolation } from '../../../src/isolation/choose.ts';
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

t.test('chooseIsolation() says why, and what each refused one lacked', (t) => {
  const policy = { chrootUids: [7], networkUids: [8] };
  const request = (over: object) => jobRequestSchema.parse({ from: 'scratch', script: '', ...over });
  t.match(chooseIsolation(policy, { uid: 5 }, request({})), { used: 'userns', refused: [{ isolation: 'vm', lacked: /virtual machines/ }] });
  t.match(chooseIsolation(policy, { uid: 7 }, request({ isolation: 'chroot' })), { used: 'chroot', why: 'asked for' });
  t.throws(() => chooseIsolation(policy, { uid: 5 }, request({ isolation: 'chroot' })), { code: 'E_FORBIDDEN' });
  t.throws(() => chooseIsolation(policy, { uid: 0 }, request({ isolation: 'vm' })), { code: 'E_MISSING_FEATURE' });
  t.throws(() => chooseIsolation(policy, { uid: 5 }, request({ network: 'host' })), { code: 'E_FORBIDDEN' });
  t.doesNotThrow(() => chooseIsolation(policy, { uid: 8 }, request({ network: 'host' })));
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
