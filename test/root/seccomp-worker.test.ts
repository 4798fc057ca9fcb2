import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, createReadStream, mkdirSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Worker } from 'node:worker_threads';
import { createGunzip, gzipSync } from 'node:zlib';
import t, { type Test } from 'tap';
import { errnoName } from '../../src/host/errno.ts';
import * as libc from '../../src/host/libc.ts';
import { seccompArch } from '../../src/host/seccomp/arch.ts';
import { compileFilter } from '../../src/host/seccomp/bpf.ts';
import type { Profile } from '../../src/host/seccomp/rules.ts';
import { captureWorkerProfile, unpackWorkerProfile } from '../../src/host/seccomp/worker-profiles.ts';
import { requires } from '../helpers/requires.ts';

/** What a confined process found, step by step: `ok`, a value, or the errno. */
type Findings = Record<string, string>;

const PROFILES: ReadonlyMap<string, Profile> = new Map(
  [unpackWorkerProfile, captureWorkerProfile].map((profile) => [profile.name, profile]),
);
const BODY = Buffer.alloc(4 << 20, 'rootlayer');
const BODY_DIGEST = createHash('sha256').update(BODY).digest('hex');

// The file is its own child: the test starts it again with the name of a profile, or `none`, and a directory.
const [, , profileName, workDir = ''] = process.argv;
if (profileName === undefined) runTests();
else process.stdout.write(JSON.stringify(await work(PROFILES.get(profileName), workDir)));

function runTests(): void {
  requires(t, 'root');
  const base = mkdtempSync(path.join(tmpdir(), 'rootlayer-worker-'));
  t.teardown(() => rmSync(base, { recursive: true }));

  const runtime = { gunzip: BODY_DIGEST, collect: 'ok', thread: '42', pool: BODY_DIGEST, list: 'body.gz,old', stat: '3', beneath: 'ok' };
  const read = { readFd: 'ok', write: 'ok', xattr: 'value' };
  const changes = ['create', 'mkdir', 'mknod', 'symlink', 'link', 'chmod', 'chown', 'utimes', 'setXattr', 'rename', 'unlink', 'sync'];
  const denied = ['spawn', 'socket', 'chroot', 'mount', 'setNoDump'];
  const all = (names: readonly string[], outcome: string): Findings => Object.fromEntries(names.map((name) => [name, outcome]));

  const start = (t: Test, profile: string): Findings => {
    const dir = path.join(base, profile);
    mkdirSync(dir);
    writeFileSync(path.join(dir, 'body.gz'), gzipSync(BODY));
    writeFileSync(path.join(dir, 'old'), 'old');
    const { status, signal, stdout, stderr } = spawnSync(process.execPath, [import.meta.filename, profile, dir], {
      encoding: 'utf8',
      timeout: 60_000,
    });
    t.same({ status, signal, stderr }, { status: 0, signal: null, stderr: '' }, `${profile} ends by itself`);
    return JSON.parse(stdout) as Findings;
  };

  t.test('unpackWorkerProfile lets Node work, and files be made and changed', async (t) => {
    t.same(start(t, unpackWorkerProfile.name), { ...runtime, ...read, ...all(changes, 'ok'), ...all(denied, 'EPERM') });
  });

  t.test('captureWorkerProfile lets Node work, and no file be made or changed', async (t) => {
    t.same(start(t, captureWorkerProfile.name), { ...runtime, ...read, ...all(changes, 'EPERM'), ...all(denied, 'EPERM') });
  });

  t.test('without a filter the same process may do all of it (positive control)', async (t) => {
    t.same(start(t, 'none'), { ...runtime, ...read, ...all(changes, 'ok'), ...all(denied, 'ok') });
  });
}

/** Installs the profile's filter, then does what workers do and what they must not be able to do. */
async function work(profile: Profile | undefined, dir: string): Promise<Findings> {
  const findings: Findings = {};
  const step = async (name: string, action: () => unknown): Promise<void> => {
    findings[name] = await Promise.resolve()
      .then(action)
      .then((value) => (typeof value === 'string' ? value : 'ok'), describeFailure);
  };
  const dirFd = libc.openAt(libc.AT_FDCWD, dir, libc.O_RDONLY | libc.O_DIRECTORY);
  const bodyFd = openSync(path.join(dir, 'body.gz'), 'r');
  const oldFd = openSync(path.join(dir, 'old'), 'r+');
  libc.setXattrFd(oldFd, 'user.test', Buffer.from('value'));
  if (profile !== undefined) {
    libc.setNoNewPrivileges();
    libc.installSeccompFilter(compileFilter(profile, seccompArch()));
  }

  await step('gunzip', async () => {
    const hash = createHash('sha256');
    await pipeline(createReadStream('', { fd: bodyFd, autoClose: false, start: 0 }), createGunzip(), hash);
    return hash.digest('hex');
  });
  await step('collect', makeGarbage);
  await step('thread', async () => {
    const worker = new Worker('require("node:worker_threads").parentPort.postMessage(42)', { eval: true });
    const [message] = await once(worker, 'message');
    return `${message}`;
  });
  await step('pool', async () => {
    const file = await open(path.join(dir, 'body.gz'));
    const packed = await file.readFile();
    await file.close();
    const hash = createHash('sha256');
    await pipeline(Readable.from([packed]), createGunzip(), hash);
    return hash.digest('hex');
  });
  await step('list', () => {
    const names = libc.readDirectory(dirFd).map(({ name }) => name.toString());
    return names.sort().join();
  });
  await step('stat', () => `${libc.statAt(dirFd, 'old').size}`);
  await step('beneath', () => libc.close(libc.openAt2(dirFd, 'old', libc.O_RDONLY, libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS)));
  await step('readFd', () => readSync(oldFd, Buffer.alloc(3), 0, 3, 0));
  await step('write', () => writeFileSync(oldFd, 'new'));
  await step('xattr', () => libc.getXattrFd(oldFd, 'user.test')?.toString());

  await step('create', () => libc.close(libc.openAt(dirFd, 'made', libc.O_WRONLY | libc.O_CREAT | libc.O_EXCL, 0o600)));
  await step('mkdir', () => libc.mkdirAt(dirFd, 'sub', 0o700));
  await step('mknod', () => libc.mknodAt(dirFd, 'fifo', libc.S_IFIFO | 0o600));
  await step('symlink', () => libc.symlinkAt('old', dirFd, 'symlink'));
  await step('link', () => libc.linkAt(dirFd, 'old', dirFd, 'link'));
  await step('chmod', () => libc.chmodFd(oldFd, 0o640));
  await step('chown', () => libc.chownAt(dirFd, 'old', 4242, 4242));
  await step('utimes', () => libc.utimesAt(dirFd, 'old', 1, 0));
  await step('setXattr', () => libc.setXattrFd(oldFd, 'user.test', Buffer.from('changed')));
  await step('rename', () => libc.renameAt(dirFd, 'old', dirFd, 'renamed'));
  await step('unlink', () => libc.unlinkAt(dirFd, 'renamed'));
  await step('sync', () => libc.syncFilesystem(dirFd));

  await step('spawn', () => {
    const { error } = spawnSync('true');
    if (error !== undefined) throw error;
  });
  await step('socket', async () => {
    const server = net.createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    server.close();
  });
  await step('mount', () => {
    libc.mount('none', dir, 'tmpfs', 0, null);
    libc.umount(dir);
  });
  await step('setNoDump', () => libc.setNotDumpable());
  await step('chroot', () => libc.chrootHere());
  closeSync(bodyFd);
  closeSync(oldFd);
  libc.close(dirFd);
  return findings;
}

/** Makes V8 grow its heap and collect it, its helper threads included. */
function makeGarbage(): void {
  let kept: object[] = [];
  for (let round = 0; round < 20; round++) kept = Array.from({ length: 100_000 }, (_, index) => ({ index, kept: kept.length }));
  if (JSON.stringify(kept[7]) !== '{"index":7,"kept":100000}') throw new Error('garbage is wrong');
}

function describeFailure(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if ('errno' in error && typeof error.errno === 'number') return errnoName(-error.errno);
  return 'errno' in error ? String(error.errno) : error.message;
}
