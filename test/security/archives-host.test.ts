/** What a layer on disk means to the host's users, and a race against the extractor. The ids are those of spec/threats.md, A. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, lstatSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import { Worker as Thread } from 'node:worker_threads';
import t from 'tap';
import { AT_FDCWD, close, getXattrFd, O_RDONLY, openAt } from '../../src/host/libc.ts';
import { storeUidBase } from '../helpers/base-range.ts';
import { requires } from '../helpers/requires.ts';
import { archive, member, pax } from '../helpers/tar-builder.ts';
import { makeCanary, snapshot } from '../root/unpack/canary.ts';
import { census, codeOf, extractBare, makeScratch, removeScratch, unpackTo, WorkerShare } from '../root/unpack/staging.ts';

requires(t, 'root', 'userns', 'launcher', 'find', 'getcap');
t.setTimeout(300_000);

const scratch = makeScratch('host');
chmodSync(scratch, 0o755);
const stage = path.join(scratch, 'stage');
t.teardown(() => removeScratch(scratch));

/** cap_net_raw+ep, version 2. Source: Linux include/uapi/linux/capability.h. */
const netRaw = Buffer.from('0100000200200000000000000000000000000000', 'hex');

t.test('A42: no setuid-root file of a layer exists for a user of the host', async (t) => {
  const suid = archive(member({ name: 'suid', mode: 0o4755 }, '#!/bin/sh\n'), member({ name: 'sgid', mode: 0o2755 }, '#!/bin/sh\n'));
  await unpackTo(stage, suid);
  t.same(
    [lstatSync(path.join(stage, 'suid')), lstatSync(path.join(stage, 'sgid'))].map(({ uid, gid, mode }) => [uid, gid, mode & 0o7777]),
    [
      [storeUidBase, storeUidBase, 0o4755],
      [storeUidBase, storeUidBase, 0o2755],
    ],
  );
  const asUser = { uid: 65_534, gid: 65_534 };
  const find = (...owner: string[]): string =>
    execFileSync('find', [scratch, '-perm', '/6000', ...owner], { ...asUser, cwd: '/', encoding: 'latin1' });
  t.equal(find('(', '-uid', '0', '-o', '-gid', '0', ')'), '');
  t.match(find(), 'suid', 'control: the user sees the files, only not as root’s');
  removeScratch(stage);
});

t.test('A43: a capability of a layer is one of the store’s user namespace alone', async (t) => {
  await unpackTo(stage, archive(pax([['SCHILY.xattr.security.capability', netRaw]]), member({ name: 'ping', mode: 0o755 }, 'x')));
  const fd = openAt(AT_FDCWD, path.join(stage, 'ping'), O_RDONLY);
  const value = getXattrFd(fd, 'security.capability');
  close(fd);
  t.equal(value?.readUInt32LE(0), 0x03000001, 'version 3, effective');
  t.equal(value?.readUInt32LE(20), storeUidBase, 'for the root of the store’s range');
  t.match(execFileSync('getcap', ['-n', path.join(stage, 'ping')], { encoding: 'latin1' }), `cap_net_raw=ep [rootid=${storeUidBase}]`);
  removeScratch(stage);
});

t.test('A17: a directory that is swapped with a link all the while leads nowhere', { timeout: 120_000 }, async (t) => {
  const canary = path.join(scratch, 'canary');
  makeCanary(canary);
  const before = snapshot(canary);
  const members = Array.from({ length: 1000 }, (_unused, at) => member({ name: `swapped/etc/f${at}` }, 'evil'));
  const layer = archive(member({ name: 'swapped/etc', type: '5', mode: 0o777 }), ...members);
  const bait = path.join(scratch, 'bait');
  const seen = new Set<string>();
  {
    await using workers = new WorkerShare(1000);
    await using swapper = await startSwapper(path.join(stage, 'swapped'), bait);
    for (let round = 0; (round < 40 || swapper.swaps() < 10_000) && round < 2000; round += 1) {
      symlinkSync(canary, bait);
      swapper.resume();
      const isBare = round % 2 === 0;
      seen.add(await codeOf(() => (isBare ? extractBare(stage, layer) : unpackTo(stage, layer, { takeWorker: workers.take }))));
      swapper.pause();
      for (const tree of [stage, bait]) removeScratch(tree);
    }
    t.ok(swapper.swaps() >= 10_000, `${swapper.swaps()} swaps; outcomes: ${[...seen].join(', ')}`);
  }
  t.same(snapshot(canary), before);
});

t.test('no process and no descriptor is left', async (t) => {
  t.same((await census()).children, []);
});

type Swapper = AsyncDisposable & { swaps(): number; pause(): void; resume(): void };

/** A thread that exchanges two names as fast as it can, as a process that could reach the staging directory would. It starts paused. */
async function startSwapper(first: string, second: string): Promise<Swapper> {
  // 0: swaps so far, 1: whether to swap, 2: whether it does.
  const control = new Int32Array(new SharedArrayBuffer(12));
  const libc = new URL('../../src/host/libc.js', import.meta.url).href;
  const code = `
    import { parentPort, workerData } from 'node:worker_threads';
    const { AT_FDCWD, renameAt } = await import(workerData.libc);
    const { control } = workerData;
    const [first, second] = [Buffer.from(workerData.first), Buffer.from(workerData.second)];
    parentPort.postMessage('ready');
    for (;;) {
      Atomics.store(control, 2, 0);
      Atomics.notify(control, 2);
      Atomics.wait(control, 1, 0);
      Atomics.store(control, 2, 1);
      while (Atomics.load(control, 1) === 1) {
        try {
          renameAt(AT_FDCWD, first, AT_FDCWD, second, 2);
          Atomics.add(control, 0, 1);
        } catch {}
      }
    }`;
  const thread = new Thread(new URL(`data:text/javascript,${encodeURIComponent(code)}`), { workerData: { libc, first, second, control } });
  await once(thread, 'message');
  return {
    swaps: () => Atomics.load(control, 0),
    resume: () => {
      Atomics.store(control, 1, 1);
      Atomics.notify(control, 1);
    },
    pause: () => {
      Atomics.store(control, 1, 0);
      Atomics.wait(control, 2, 1);
    },
    async [Symbol.asyncDispose](): Promise<void> {
      await thread.terminate();
    },
  };
}
