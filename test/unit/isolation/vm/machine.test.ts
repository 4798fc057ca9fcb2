import { availableParallelism } from 'node:os';
import t from 'tap';
import { qemuCommand, shapeFor, vmCgroupLimits } from '../../../../src/isolation/vm/machine.ts';

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;

t.test('shapeFor() gives the smallest class that holds the job and the guest', async (t) => {
  const ramMib = (memoryBytes: number): number => shapeFor({ memoryBytes, cpus: 1 }, 1).ramMib;
  t.same(
    [16 * MIB, 320 * MIB, 321 * MIB, GIB, 2 * GIB, 4 * GIB, 8 * GIB, 8 * GIB + 64 * MIB + 1, 16 * GIB, 64 * GIB].map(ramMib),
    [512, 512, 1280, 1280, 2304, 4352, 8448, 16_640, 16_640, 65_792],
  );
});

t.test('shapeFor() gives whole processors, as many as the host has at most', async (t) => {
  const cpus = (wanted: number): number => shapeFor({ memoryBytes: GIB, cpus: wanted }, 1).cpus;
  t.same([0.01, 1, 1000].map(cpus), [1, 1, availableParallelism()]);
});

t.test('shapeFor() gives slots for the disks, and refuses more than there are', async (t) => {
  const slots = (disks: number): number => shapeFor({ memoryBytes: GIB, cpus: 1 }, disks).slots;
  t.same([1, 3, 4, 6, 7, 18].map(slots), [3, 3, 6, 6, 18, 18]);
  t.throws(() => slots(19), { code: 'E_USAGE' });
});

t.test('vmCgroupLimits() leaves room for QEMU, and for its threads', async (t) => {
  t.same(vmCgroupLimits({ memoryBytes: 2 * GIB, cpus: 0.5 }), { memoryBytes: (2304 + 512) * MIB, pids: 97, cpus: 0.5 });
});

const SHAPE = { ramMib: 512, cpus: 1, slots: 3 };
const FDS = { control: 3, disks: [4, 5, 6], qmp: null };
const BOOT = { kind: 'boot', tscKhz: 2_596_130 } as const;

/** The words behind each use of an option. */
function values(command: string[], option: string): string[] {
  return command.flatMap((word, index) => (word === option ? [command[index + 1] ?? ''] : []));
}

t.test('qemuCommand() of a restored machine names no file but the firmware, and has no monitor and no network', async (t) => {
  const command = qemuCommand(SHAPE, 'tcg', FDS, { kind: 'restore', stateFd: 7 });
  t.same(values(command, '-incoming'), ['fd:7']);
  t.same(
    command.filter((word) => /^\//.test(word)),
    ['/usr/bin/qemu-system-x86_64', '/usr/share/qemu'],
  );
  for (const option of ['-kernel', '-initrd', '-append', '-mon', '-monitor', '-qmp', '-netdev', '-nic', '-virtfs', '-fsdev']) {
    t.notOk(command.includes(option), option);
  }
  for (const option of ['-nodefaults', '-no-user-config', '-no-reboot']) t.ok(command.includes(option), option);
  t.same(values(command, '-sandbox'), ['on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny']);
});

t.test('qemuCommand() gives the same devices to a machine that boots and to one that is restored', async (t) => {
  const booted = qemuCommand(SHAPE, 'tcg', FDS, BOOT);
  const restored = qemuCommand(SHAPE, 'tcg', FDS, { kind: 'restore', stateFd: 7 });
  t.same(values(booted, '-device'), values(restored, '-device'));
  t.same(values(booted, '-device'), [
    'virtio-blk-device,drive=b0,serial=d0,werror=report,rerror=report',
    'virtio-blk-device,drive=b1,serial=d1,werror=report,rerror=report',
    'virtio-blk-device,drive=b2,serial=d2,werror=report,rerror=report',
    'virtio-serial-device',
    'virtserialport,chardev=control,name=rootlayer',
  ]);
});

t.test('qemuCommand() opens only the first disk for writing', async (t) => {
  const disks = values(qemuCommand(SHAPE, 'tcg', FDS, BOOT), '-blockdev');
  t.same(
    disks.map((disk) => disk.includes('read-only=on')),
    [false, true, true],
  );
  t.ok(
    disks.every((disk) => disk.startsWith('driver=raw,')),
    'what a guest wrote is never looked at to guess its format',
  );
});

t.test('qemuCommand() weakens and speeds up only an emulated guest', async (t) => {
  const [emulated = ''] = values(qemuCommand(SHAPE, 'tcg', FDS, BOOT), '-append');
  const [real = ''] = values(qemuCommand(SHAPE, 'kvm', FDS, BOOT), '-append');
  t.match(emulated, /tsc_early_khz=2596130/);
  t.match(emulated, /mitigations=off/);
  t.notMatch(real, /tsc_early_khz|mitigations/);
  t.same(values(qemuCommand(SHAPE, 'kvm', FDS, BOOT), '-cpu'), ['host']);
  t.same(values(qemuCommand(SHAPE, 'tcg', FDS, BOOT), '-cpu'), ['max,-erms']);
});
