import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import t from 'tap';
import { requires } from '../helpers/requires.ts';
import { start } from './cli-process.ts';

const dir = mkdtempSync(path.join(tmpdir(), 'cli-vm-'));
t.teardown(() => rmSync(dir, { recursive: true }));

t.test('vm build makes a guest image and tells what it is', async (t) => {
  if (!requires(t, 'vm-kernel')) return;
  const output = path.join(dir, 'image');
  const kernel = process.env['ROOTLAYER_VM_KERNEL'] ?? '';
  const made = await start(['vm', 'build', '--kernel', kernel, '--output', output, '--json']).ended;
  t.equal(made.status, 0);
  const image = JSON.parse(made.stdout);
  t.match(image, { directory: output, digest: /^[0-9a-f]{64}$/, agent: 'c', kernelRelease: /^\d+\./ });
  t.ok(statSync(image.kernelPath).size > 1_000_000 && statSync(image.initramfsPath).size > 1_000_000);
  const again = await start(['vm', 'build', '--output', output], { ROOTLAYER_VM_KERNEL: kernel }).ended;
  t.match(again.stdout, new RegExp(`^${output}: sha256:${image.digest}\n +kernel +Linux ${image.kernelRelease}, `));
});

t.test('vm build says what it lacks', async (t) => {
  const ran = await start(['vm', 'build', '--kernel', dir, '--output', path.join(dir, 'none')]).ended;
  t.equal(ran.status, 125);
  t.match(
    ran.stderr,
    /^rootlayer: Cannot use kernel ".*vmlinuz" .*: there is no such file\nrootlayer: hint: Fetch one with scripts\/setup --vm/,
  );
});
