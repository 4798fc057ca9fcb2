import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { buildGuestImage, openGuestImage } from '../../../src/guest/guest-image.ts';
import { findKernel, openKernel } from '../../../src/guest/kernel.ts';
import { requires } from '../../helpers/requires.ts';

const signal = new AbortController().signal;
const dir = mkdtempSync(path.join(tmpdir(), 'guest-image-'));
t.teardown(() => rmSync(dir, { recursive: true }));

/** A bzImage as far as anybody looks here. */
function makeBzImage(file: string, release: string): void {
  const image = Buffer.alloc(8192);
  image.write('HdrS', 0x202);
  image.writeUInt16LE(0x100, 0x20e);
  image.write(`${release} (somebody) #1 SMP\0`, 0x300);
  writeFileSync(file, image);
}

t.test('buildGuestImage() makes an image once, and again when the agent changes', async (t) => {
  if (!requires(t, 'vm-kernel', 'cpio')) return;
  const outputDir = path.join(dir, 'deep/image');
  const agentPath = path.join(dir, 'agent');
  writeFileSync(agentPath, 'an agent');
  const parts = { kernel: findKernel(), agentPath, outputDir };
  const image = await buildGuestImage(parts, signal);
  const made = statSync(image.initramfsPath).ino;
  t.strictSame(await openGuestImage(outputDir), image);
  t.strictSame(await buildGuestImage(parts, signal), image);
  t.equal(statSync(image.initramfsPath).ino, made, 'taken as it is');
  t.strictSame(readdirSync(path.join(dir, 'deep')), ['image'], 'nothing is left beside it');
  const names = execFileSync('cpio', ['-it', '--quiet'], { input: readFileSync(image.initramfsPath) })
    .toString()
    .split('\n');
  for (const name of ['init', 'dev/console', 'sbin/modprobe', 'modules/index', 'modules/erofs.ko', 'modules/loop.ko'])
    t.ok(names.includes(name), name);
  const index = execFileSync('cpio', ['-i', '--quiet', '--to-stdout', 'modules/index'], {
    input: readFileSync(image.initramfsPath),
  }).toString();
  t.match(index, /^boot virtio_ring\nboot virtio\n(?:boot \w+\n)*boot virtio_blk\ndemand /, 'disks come last');
  t.match(index, /^demand fs-vfat fat vfat$/m);
  writeFileSync(agentPath, 'another agent');
  const changed = await buildGuestImage(parts, signal);
  t.not(changed.digest, image.digest);
  rmSync(changed.kernelPath);
  await t.rejects(openGuestImage(outputDir), { code: 'E_MISSING_FEATURE' }, 'an image with a part missing is none');
  await buildGuestImage(parts, signal);
  t.ok(existsSync(changed.kernelPath));
  await t.rejects(openGuestImage(dir), { code: 'E_MISSING_FEATURE' });
});

t.test('buildGuestImage() refuses a kernel that lacks a module', async (t) => {
  const kernel = path.join(dir, 'bare');
  mkdirSync(path.join(kernel, 'modules/kernel'), { recursive: true });
  makeBzImage(path.join(kernel, 'vmlinuz'), '6.1.0-1-cloud-amd64');
  writeFileSync(path.join(kernel, 'modules/modules.builtin'), '');
  const agentPath = path.join(dir, 'agent');
  writeFileSync(agentPath, 'an agent');
  const parts = { kernel: openKernel(kernel), agentPath, outputDir: path.join(dir, 'none') };
  await t.rejects(buildGuestImage(parts, signal), { code: 'E_MISSING_FEATURE', message: /has no module "virtio_mmio"/ });
  t.notOk(existsSync(parts.outputDir));
});

t.test('findKernel() takes the directory it is told, and says why it cannot', (t) => {
  const kernel = path.join(dir, 'kernel');
  const find = (): unknown => findKernel({ ROOTLAYER_VM_KERNEL: kernel });
  t.throws(find, { code: 'E_MISSING_FEATURE', message: /there is no such file/ });
  mkdirSync(path.join(kernel, 'modules'), { recursive: true });
  writeFileSync(path.join(kernel, 'vmlinuz'), 'text');
  t.throws(find, { message: /its modules are not in/ });
  writeFileSync(path.join(kernel, 'modules/modules.builtin'), '');
  t.throws(find, { message: /it is no bzImage/ });
  makeBzImage(path.join(kernel, 'vmlinuz'), '5.10.0-9-cloud-amd64');
  t.throws(find, { message: /it is Linux 5.10.0-9-cloud-amd64, want 6.1 or later/ });
  makeBzImage(path.join(kernel, 'vmlinuz'), '6.12.3');
  t.match(find(), { release: '6.12.3', vmlinuzPath: path.join(kernel, 'vmlinuz') });
  t.end();
});
