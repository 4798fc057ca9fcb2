import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { findKernel } from '../../src/guest/kernel.ts';
import { listModules, resolveModule } from '../../src/guest/kernel-modules.ts';
import { type NewcEntry, writeNewc } from '../../src/guest/newc.ts';
import { run } from './command.ts';
import { makeDirectory, remove, type Workspace } from './workspace.ts';

/** A machine that does what the seed's runWithOverlay does in its guest, up to the first byte of the script. */
export type SeedVm = { run(): Promise<void> } & AsyncDisposable;

const DISK_MIB = 1024;
const FIRST_BYTE = 'first byte of the script';
const LIMIT_MS = 120_000;

/**
 * The steps of the seed: an empty disk gets a filesystem, the base's layer is unpacked on it, an overlay is mounted, and a chroot runs the
 * script. The kernel is that of rootlayer, as its distribution ships it, on an ordinary machine with ordinary parameters, as vmTools boots one; the layer
 * comes as a disk, which is faster than the directory that the seed shares.
 */
const INIT = `#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc; $bb mount -t sysfs sys /sys; $bb mount -t devtmpfs dev /dev
while read -r module; do $bb insmod /modules/$module.ko; done < /modules/order
while [ ! -b /dev/vda ] || [ ! -b /dev/vdb ]; do :; done
case $($bb cat /sys/block/vda/serial) in scratch) scratch=/dev/vda layer=/dev/vdb ;; *) scratch=/dev/vdb layer=/dev/vda ;; esac
$bb mke2fs $scratch > /dev/null 2>&1
$bb mount -t ext4 $scratch /disk
$bb mkdir -p /disk/1/layer /disk/work /disk/layer /disk/mnt
$bb tar -xpf $layer -C /disk/1/layer
$bb mount -t overlay overlay -o lowerdir=/disk/1/layer,workdir=/disk/work,upperdir=/disk/layer /disk/mnt
$bb unshare -imnpuf $bb chroot /disk/mnt /bin/sh -c 'echo "${FIRST_BYTE}"'
$bb poweroff -f
`;

/** `layer` is the base's only layer, a plain tar. */
export async function openSeedVm(workspace: Workspace, layer: string): Promise<SeedVm> {
  const dir = makeDirectory(workspace, 'seed-vm');
  const kernel = findKernel();
  await run(['cp', kernel.vmlinuzPath, path.join(dir, 'kernel')]);
  writeFileSync(path.join(dir, 'initramfs'), await makeInitramfs(kernel.modulesPath));
  await run(['cp', layer, path.join(dir, 'layer')]);
  truncateSync(path.join(dir, 'layer'), Math.ceil(statSync(layer).size / 512) * 512);
  return { run: async () => await bootOnce(dir), [Symbol.asyncDispose]: async () => await remove(dir) };
}

async function makeInitramfs(modulesPath: string): Promise<Buffer> {
  const all = listModules(modulesPath);
  const chain: { name: string; file: string }[] = [];
  for (const name of ['virtio_pci', 'virtio_blk', 'overlay', 'ext4']) {
    chain.push(...(await resolveModule(all, name, async (file) => readFileSync(file))));
  }
  const files = new Map(chain.map(({ name, file }) => [name, file]));
  const directories: NewcEntry[] = ['bin', 'dev', 'proc', 'sys', 'modules', 'disk'].map((name) => ({ name, mode: 0o040755 }));
  return writeNewc([
    ...directories,
    { name: 'dev/console', mode: 0o020600, device: [5, 1] },
    { name: 'bin/busybox', mode: 0o100755, data: readFileSync('/bin/busybox') },
    { name: 'init', mode: 0o100755, data: Buffer.from(INIT) },
    { name: 'modules/order', mode: 0o100644, data: Buffer.from([...files.keys(), ''].join('\n')) },
    ...[...files].map(([name, file]) => ({ name: `modules/${name}.ko`, mode: 0o100644, data: readFileSync(file) })),
  ]);
}

async function bootOnce(dir: string): Promise<void> {
  const disk = path.join(dir, 'disk');
  writeFileSync(disk, '');
  truncateSync(disk, DISK_MIB * 1024 * 1024);
  const args = [
    ...['-M', 'q35', '-accel', 'tcg', '-cpu', 'max', '-m', '512', '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-serial', 'stdio', '-kernel', path.join(dir, 'kernel'), '-initrd', path.join(dir, 'initramfs')],
    ...['-append', 'console=ttyS0 panic=1 loglevel=4', '-drive', `if=none,id=scratch,format=raw,file=${disk},cache=unsafe`],
    ...['-device', 'virtio-blk-pci,drive=scratch,serial=scratch'],
    ...['-drive', `if=none,id=layer,format=raw,readonly=on,file=${path.join(dir, 'layer')}`],
    ...['-device', 'virtio-blk-pci,drive=layer,serial=layer'],
  ];
  const child = spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'pipe', 'inherit'], timeout: LIMIT_MS });
  const ended = once(child, 'exit');
  try {
    await untilPrinted(child.stdout, FIRST_BYTE);
  } finally {
    child.kill('SIGKILL');
    await ended;
  }
}

async function untilPrinted(stream: NodeJS.ReadableStream, wanted: string): Promise<void> {
  let text = '';
  for await (const chunk of stream) {
    text += String(chunk);
    if (text.includes(wanted)) return;
  }
  throw new Error(`Cannot measure the seed's way: its guest ended with ${JSON.stringify(text.slice(-500))}`);
}
