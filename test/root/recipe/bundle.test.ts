import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmodSync, chownSync, copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import type { BuildContainerArgs } from '../../../src/recipe/oci-runtime/args.ts';
import { buildContainer } from '../../../src/recipe/oci-runtime/bundle.ts';
import { writeBundle } from '../../../src/recipe/oci-runtime/write.ts';
import { rootlayerOk } from '../../helpers/command.ts';
import { repoRoot } from '../../helpers/repo.ts';
import { baseImagePath, requires } from '../../helpers/requires.ts';
import { copyForUsers } from '../../helpers/user-copy.ts';

requires(t, 'root', 'userns', 'runc');

const BUSYBOX = ['/bin/busybox', '/usr/bin/busybox'].find((file) => existsSync(file)) ?? '';
const signal = new AbortController().signal;
const nullBefore = statSync('/dev/null');

/** Below a directory that others can pass: root of a user namespace must come to its files. */
function scratch(t: Test): string {
  const directory = mkdtempSync(path.join(tmpdir(), 'bundle-'));
  chmodSync(directory, 0o711);
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** A store with busybox, a static program, in it. */
function makeStore(directory: string): Pick<BuildContainerArgs, 'storeDir' | 'storeRoot'> {
  const bin = path.join(directory, 'root/store/busybox/bin');
  mkdirSync(bin, { recursive: true });
  copyFileSync(BUSYBOX, path.join(bin, 'busybox'));
  chmodSync(path.join(bin, 'busybox'), 0o555);
  for (let at = bin; at !== directory; at = path.dirname(at)) chmodSync(at, 0o755);
  return { storeDir: '/store', storeRoot: path.join(directory, 'root') };
}

const SHELL = ['/store/busybox/bin/busybox', 'sh', '-c'];

/** Runs a bundle to its end, with pipes for its standard streams; the state of runc lies in the directory. */
async function runc(
  directory: string,
  bundle: string,
  user: string[] = [],
): Promise<{ status: number | null; stdout: string; stderr: string }> {
  const state = path.join(directory, 'state');
  mkdirSync(state, { recursive: true });
  if (user.length > 0) chownSync(state, 4321, 4321);
  const name = `rootlayer-test-${randomBytes(6).toString('hex')}`;
  const args = [...user, 'runc', '--root', state, 'run', '--bundle', bundle, name];
  const child = spawn(args[0] ?? '', args.slice(1), {
    stdio: 'pipe',
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', XDG_RUNTIME_DIR: state },
  });
  child.stdin.end();
  const [stdout, stderr, status] = await Promise.all([
    buffer(child.stdout),
    buffer(child.stderr),
    new Promise<number | null>((done) => child.once('close', done)),
  ]);
  return { status, stdout: stdout.toString(), stderr: stderr.toString() };
}

async function write(t: Test, args: BuildContainerArgs): Promise<{ directory: string; bundle: string; notes: string[] }> {
  const directory = scratch(t);
  const bundle = path.join(directory, 'bundle');
  const notes: string[] = [];
  const context = { signal, note: (line: string) => notes.push(line) };
  await using made = await buildContainer({ ...makeStore(directory), ...args }, context);
  mkdirSync(bundle);
  await writeBundle(made, bundle, context);
  return { directory, bundle, notes };
}

t.test('a bundle of a static program runs under runc', async (t) => {
  const script = 'b=/store/busybox/bin/busybox; $b id -u; $b touch /new && echo written; $b ls /; exit 7';
  const { directory, bundle } = await write(t, { args: [...SHELL, script] });
  t.equal(statSync(bundle).mode & 0o777, 0o700, 'nobody else comes near its set-id files');
  const ended = await runc(directory, bundle);
  t.same(ended, { status: 7, stdout: '0\nwritten\ndev\nnew\nproc\nstore\nsys\n', stderr: '' });
});

t.test('a bundle that is readonly cannot be written to, and has no capabilities', async (t) => {
  const script = 'b=/store/busybox/bin/busybox; $b touch /new; $b grep CapEff /proc/self/status; echo x > /proc/sys/kernel/core_pattern';
  const { directory, bundle } = await write(t, { args: [...SHELL, script], readonly: true });
  const ended = await runc(directory, bundle);
  t.equal(ended.stdout, 'CapEff:\t0000000000000000\n');
  t.match(ended.stderr, /\/new: Read-only file system\n.*core_pattern: Read-only file system/s);
});

t.test('mounts of a bundle are made', async (t) => {
  const data = scratch(t);
  const script = 'echo x > /data/file; /store/busybox/bin/busybox grep -c cgroup /proc/mounts';
  const mounts = { '/data': { type: 'none', source: data, options: ['bind'] }, '/sys/fs/cgroup': null };
  const { directory, bundle } = await write(t, { args: [...SHELL, script], mounts });
  t.match(await runc(directory, bundle), { stdout: '0\n', stderr: '' });
  t.equal(readFileSync(path.join(data, 'file'), 'utf8'), 'x\n');
});

t.test('a bundle with a user namespace runs as another user of the host', async (t) => {
  const mappings = [{ containerID: 0, hostID: 1_234_560_000, size: 65_536 }];
  const script = 'b=/store/busybox/bin/busybox; $b id -u; $b cat /proc/self/uid_map; $b touch /new; $b stat -c %u /new';
  const { directory, bundle } = await write(t, { args: [...SHELL, script], uidMappings: mappings, gidMappings: mappings });
  t.equal(statSync(path.join(bundle, 'rootfs/store/busybox')).uid, 1_234_560_000);
  const ended = await runc(directory, bundle);
  t.match(ended, { status: 0, stdout: /^0\n +0 1234560000 +65536\n0\n$/, stderr: '' });
  t.equal(statSync(path.join(bundle, 'rootfs/new')).uid, 1_234_560_000);
});

t.test('a bundle of the Debian base has its owners and links', async (t) => {
  if (!requires(t, 'base-image')) return;
  const { directory, bundle } = await write(t, {
    fromImage: baseImagePath(),
    args: ['/bin/sh', '-c', 'stat -c "%U:%G %a" /etc/shadow /usr/bin/passwd /var/mail; apt-get --version | head -1'],
  });
  t.equal(statSync(path.join(bundle, 'rootfs/etc/shadow')).gid, 42);
  const ended = await runc(directory, bundle);
  t.match(ended, { status: 0, stdout: /^root:shadow 640\nroot:root 4755\nroot:mail 2775\napt / });
});

t.test('a file whose owner has no place in the mappings is named', async (t) => {
  if (!requires(t, 'base-image')) return;
  const mappings = [{ containerID: 0, hostID: 1_234_560_000, size: 1 }];
  const args = { fromImage: baseImagePath(), args: ['/bin/sh'], uidMappings: mappings, gidMappings: mappings };
  await t.rejects(write(t, args), { code: 'E_RECIPE', message: /\/gidMappings: "rootfs\/.*" has the id \d+, which has no place in it/ });
});

t.test('rootlayer bundle makes a bundle without root, which runc runs without root', async (t) => {
  const directory = scratch(t);
  const { storeRoot = '' } = makeStore(directory);
  const home = path.join(directory, 'home');
  mkdirSync(home);
  chownSync(home, 4321, 4321);
  const { main } = copyForUsers(directory);
  cpSync(path.join(repoRoot, 'node_modules/zod'), path.join(directory, 'app/node_modules/zod'), { recursive: true });
  const script = 'b=/store/busybox/bin/busybox; $b id -u; $b cat /proc/self/uid_map; echo $WORD';
  const options = ['--userns', '--env', 'WORD=given', '--store-dir', '/store', '--store-root', storeRoot, '--json'];
  const ended = await rootlayerOk(['bundle', ...options, '-o', path.join(home, 'b'), '--', ...SHELL, script], {
    user: { uid: 4321, group: null },
    main,
  });
  t.same(JSON.parse(ended.stdout), { bundle: path.join(home, 'b') });
  const ran = await runc(directory, path.join(home, 'b'), ['setpriv', '--reuid', '4321', '--regid', '4321', '--clear-groups']);
  t.match(ran, { status: 0, stdout: /^0\n +0 +4321 +1\ngiven\n$/ });
});

t.test('/dev/null is what it was', async (t) => {
  const { mode, uid, gid, rdev } = statSync('/dev/null');
  t.same({ mode, uid, gid, rdev }, { mode: nullBefore.mode, uid: nullBefore.uid, gid: nullBefore.gid, rdev: nullBefore.rdev });
});
