import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { openJail, QEMU_PROGRAM, readQemuVersion } from '../../../src/isolation/vm/jail.ts';
import { requires } from '../../helpers/requires.ts';

requires(t, 'root', 'qemu-system-x86_64');

const signal = new AbortController().signal;
const dir = mkdtempSync(join(tmpdir(), 'vm-jail-'));
t.teardown(() => rmSync(dir, { recursive: true }));

function filesBelow(path: string): string[] {
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(path.length))
    .sort();
}

t.test('openJail() makes a root with QEMU, what it loads, and nothing else', async (t) => {
  const jail = await openJail(dir, true, signal);
  const files = filesBelow(jail.path);
  const others = files.filter((file) => !/\.so(\.|$)/.test(file));
  t.same(
    others.filter((file) => !file.startsWith('/usr/share/qemu/')),
    [QEMU_PROGRAM],
  );
  t.ok(others.includes('/usr/share/qemu/bios-microvm.bin'));
  t.same(readdirSync(join(jail.path, 'dev')), []);
  t.same(readdirSync(join(jail.path, 'boot')), []);
  for (const file of files) {
    const { mode, uid } = statSync(join(jail.path, file));
    t.equal(mode & 0o7222, 0, `${file} has no set-user-ID bit and can be written by nobody`);
    t.equal(uid, 0);
  }
  t.match(jail.qemuVersion, /^\d+\.\d+\.\d+/);
  t.equal(jail.qemuVersion, readQemuVersion());
});

t.test('openJail() makes one in which QEMU runs, without /proc', async (t) => {
  const { path } = await openJail(dir, true, signal);
  const ran = spawnSync('/usr/sbin/chroot', [path, QEMU_PROGRAM, '-accel', 'help'], { encoding: 'utf8' });
  t.equal(ran.status, 0, ran.stderr);
  t.match(ran.stdout, /tcg/, 'emulation is there');
});

t.test('openJail() takes the one that is there, and makes another when it is gone; others go', async (t) => {
  const first = await openJail(dir, true, signal);
  const { ino } = statSync(first.path);
  t.same(await openJail(dir, true, signal), first);
  t.equal(statSync(first.path).ino, ino);
  rmSync(first.path, { recursive: true });
  mkdirSync(join(dir, 'qemu-root-old'));
  utimesSync(dir, 0, 0);
  t.same(await openJail(dir, true, signal), first);
  t.same(readdirSync(dir), [`qemu-root-${first.key}`]);
});

t.test('readQemuVersion() asks a program once, and again when it has changed', async (t) => {
  const other = mkdtempSync(join(tmpdir(), 'vm-version-'));
  t.teardown(() => rmSync(other, { recursive: true }));
  const program = join(other, 'qemu');
  const asked = join(other, 'asked');
  const install = (version: string): void => {
    writeFileSync(program, `#!/bin/sh\necho x >>${asked}\necho 'QEMU emulator version ${version}'\n`);
    chmodSync(program, 0o755);
  };
  install('1.2.3');
  t.same([readQemuVersion(program), readQemuVersion(program)], ['1.2.3', '1.2.3']);
  t.equal(readFileSync(asked, 'utf8'), 'x\n');
  install('1.2.30');
  t.equal(readQemuVersion(program), '1.2.30');
  t.equal(readQemuVersion(), readQemuVersion());
  rmSync(program);
  t.throws(() => readQemuVersion(program), { code: 'E_TOOL' });
});
