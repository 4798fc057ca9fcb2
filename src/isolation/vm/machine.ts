import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { RootlayerError } from '../../core/errors.ts';
import type { CgroupLimits } from '../../host/cgroup.ts';
import { FIRMWARE_DIRECTORY, QEMU_PROGRAM } from './jail.ts';
import type { VmLimits } from './types.ts';

/** How the guest's processor is run. */
export type Acceleration = 'kvm' | 'tcg';

/** What of a machine cannot change between the saving of its state and a restore. */
export type VmShape = {
  ramMib: number;
  cpus: number;
  /** Disks: slot 0 can be written and is the scratch disk, the others cannot. */
  slots: number;
};

const MIB = 1024 * 1024;
/** What the guest's kernel and agent take beside the job. */
const GUEST_OVERHEAD_MIB = 192;
const RAM_CLASSES_MIB = [512, 1280, 2304, 4352, 8448];
const RAM_STEP_MIB = 8192;
const SLOT_CLASSES = [3, 6, 18];
/** Memory for translated code. */
const TRANSLATION_MIB = 256;
/** QEMU's own memory beside the guest's RAM and the translated code: 60 MiB seen, the rest for bursts of disk requests. */
const QEMU_MIB = 256;
/** Threads of QEMU: 64 for disk requests, and the few that are always there. */
const QEMU_THREADS = 64 + 32;

/** Gives the shape of the machine for a job with so many disks: few classes, so that one saved state serves many jobs. Throws `E_USAGE` beyond 18 disks. */
export function shapeFor(limits: Pick<VmLimits, 'memoryBytes' | 'cpus'>, disks: number): VmShape {
  const slots = SLOT_CLASSES.find((count) => count >= disks);
  if (slots === undefined) {
    throw new RootlayerError('E_USAGE', `Cannot give a virtual machine ${disks} disks: want at most ${SLOT_CLASSES.at(-1)}`);
  }
  return { ramMib: ramMibFor(limits.memoryBytes), cpus: Math.min(Math.max(1, Math.ceil(limits.cpus)), availableParallelism()), slots };
}

function ramMibFor(memoryBytes: number): number {
  const wanted = Math.ceil(memoryBytes / MIB) + GUEST_OVERHEAD_MIB;
  const largest = RAM_CLASSES_MIB.at(-1) ?? 0;
  const steps = Math.ceil((wanted - (largest % RAM_STEP_MIB)) / RAM_STEP_MIB);
  return RAM_CLASSES_MIB.find((size) => size >= wanted) ?? steps * RAM_STEP_MIB + (largest % RAM_STEP_MIB);
}

/** The limits of the control group around QEMU for a job with these: the guest's RAM and what QEMU itself takes, the job's cpus. */
export function vmCgroupLimits(limits: Pick<VmLimits, 'memoryBytes' | 'cpus'>): CgroupLimits {
  return { ...vmSeatLimits(shapeFor(limits, 1)), cpus: limits.cpus };
}

/** The same for a machine without a job. */
export function vmSeatLimits(shape: VmShape): CgroupLimits {
  return { memoryBytes: (shape.ramMib + TRANSLATION_MIB + QEMU_MIB) * MIB, pids: threadLimit(shape), cpus: shape.cpus };
}

/** Most threads of a QEMU of this shape. */
export function threadLimit(shape: VmShape): number {
  return QEMU_THREADS + shape.cpus;
}

/** The host's user that QEMU runs as, of an id range that is a job's own: not the first one, which is the root of the job's unpack workers. */
export function vmUid(rangeBase: number): number {
  return rangeBase + 1;
}

/** Where a machine begins: by booting the guest's files, or with a saved state. */
export type Beginning = { kind: 'boot'; tscKhz: number } | { kind: 'restore'; stateFd: number };

/** Numbers under which QEMU sees its descriptors. */
export type MachineFds = { control: number; disks: number[]; qmp: number | null };

/** Where a booting machine finds its files: the launcher attaches the guest's directory there. */
export const BOOT_DIRECTORY = '/boot';

/**
 * Gives the whole command line. The devices are those of the shape whatever the beginning, since a saved state fits only the same machine.
 * Nothing is named by path but what lies in QEMU's own root. Source: qemu-system-x86_64(1), spec/vm.md 6.
 */
export function qemuCommand(shape: VmShape, acceleration: Acceleration, fds: MachineFds, beginning: Beginning): string[] {
  return [
    QEMU_PROGRAM,
    ...['-M', 'microvm', '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-L', FIRMWARE_DIRECTORY],
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ...accelerationArguments(acceleration),
    ...['-m', String(shape.ramMib), '-smp', String(shape.cpus)],
    ...['-chardev', 'ringbuf,id=console,size=65536', '-serial', 'chardev:console'],
    ...fds.disks.flatMap(diskArguments),
    ...['-device', 'virtio-serial-device', '-chardev', `socket,id=control,fd=${fds.control}`],
    ...['-device', 'virtserialport,chardev=control,name=rootlayer'],
    ...(fds.qmp === null ? [] : ['-chardev', `socket,id=qmp,fd=${fds.qmp}`, '-mon', 'chardev=qmp,mode=control']),
    ...(beginning.kind === 'restore' ? ['-incoming', `fd:${beginning.stateFd}`] : bootArguments(acceleration, beginning.tscKhz)),
  ];
}

function accelerationArguments(acceleration: Acceleration): string[] {
  // "rep movsb" is slow under emulation: a guest that does not see ERMS copies in other ways.
  return acceleration === 'kvm'
    ? ['-accel', 'kvm', '-cpu', 'host']
    : ['-accel', `tcg,thread=multi,tb-size=${TRANSLATION_MIB}`, '-cpu', 'max,-erms'];
}

function diskArguments(fd: number, slot: number): string[] {
  // A full disk of the host is the guest's to know: by default QEMU would stop it, and nobody could make it go on.
  // No lock: nobody else has the scratch disk, and the others are only read. Flushing it would make nothing safer: it is gone with the job.
  const access = slot === 0 ? 'cache.no-flush=on' : 'read-only=on';
  return [
    ...['-add-fd', `fd=${fd},set=${slot + 1}`],
    ...['-blockdev', `driver=raw,node-name=b${slot},file.driver=file,file.filename=/dev/fdset/${slot + 1},file.locking=off,${access}`],
    ...['-device', `virtio-blk-device,drive=b${slot},serial=d${slot},werror=report,rerror=report`],
  ];
}

function bootArguments(acceleration: Acceleration, tscKhz: number): string[] {
  // A guest that panics ends QEMU by a triple fault: other ways of restarting may lead into the firmware, which would wait for ever.
  const parameters = ['console=ttyS0', 'quiet', 'panic=-1', 'reboot=t', 'cryptomgr.notests', 'init_on_alloc=0'];
  // An emulated guest has nothing to calibrate its clock by, and hangs at it on a busy host, or takes that clock for broken and goes by ticks, of
  // which it then misses some. It is no boundary that mitigations would strengthen.
  if (acceleration === 'tcg') parameters.push(`tsc_early_khz=${tscKhz}`, 'tsc=reliable', 'mitigations=off', 'noreplace-smp');
  return ['-kernel', `${BOOT_DIRECTORY}/kernel`, '-initrd', `${BOOT_DIRECTORY}/initramfs`, '-append', parameters.join(' ')];
}

/** Rate of the host's time stamp counter, which an emulated guest sees too: half of its bogomips. */
export function readTscKhz(): number {
  const bogomips = /^bogomips\s*:\s*([\d.]+)/m.exec(readFileSync('/proc/cpuinfo', 'latin1'))?.[1];
  return Math.round(Number(bogomips ?? 4000) * 500);
}
