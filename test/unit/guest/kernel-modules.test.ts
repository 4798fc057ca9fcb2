import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import t, { type Test } from 'tap';
import { listModules, readModinfo, resolveModule } from '../../../src/guest/kernel-modules.ts';
import { requires } from '../../helpers/requires.ts';

t.test('readModinfo() reads what the section ".modinfo" of real modules says', (t) => {
  if (!requires(t, 'vm-kernel', 'objcopy')) return;
  const modules = listModules(path.join(process.env['ROOTLAYER_VM_KERNEL'] ?? '', 'modules'));
  const dir = mkdtempSync(path.join(tmpdir(), 'modinfo-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  t.ok(modules.files.size > 500 && modules.builtIn.has('ext4'));
  for (const name of ['virtio_blk', 'erofs', 'loop', 'isofs', 'btrfs', 'nf_conntrack', 'crc32c_intel']) {
    const file = modules.files.get(name) ?? '';
    const raw = path.join(dir, 'modinfo');
    execFileSync('objcopy', ['-O', 'binary', '--only-section=.modinfo', file, raw]);
    const section = readFileSync(raw, 'latin1').split('\0');
    const field = (key: string): string[] => section.flatMap((text) => (text.startsWith(`${key}=`) ? text.slice(key.length + 1) : []));
    const depends = field('depends')
      .join()
      .split(',')
      .filter(Boolean)
      .map((word) => word.replaceAll('-', '_'));
    t.strictSame(readModinfo(readFileSync(file)), { depends, aliases: field('alias') }, name);
  }
  t.end();
});

/** A directory with modules that say what they need; `b-two` is written with a hyphen. */
function makeModules(t: Test): string {
  const dir = mkdtempSync(path.join(tmpdir(), 'modules-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  mkdirSync(path.join(dir, 'kernel/fs'), { recursive: true });
  const write = (name: string, depends: string): void =>
    writeFileSync(path.join(dir, `kernel/fs/${name}.ko`), `\x7fELF license=GPL\0alias=for-${name}\0depends=${depends}\0name=${name}\0`);
  write('a', 'b-two,c,inside');
  write('b-two', 'c');
  write('c', '');
  write('loner', 'missing');
  writeFileSync(path.join(dir, 'modules.builtin'), 'kernel/lib/inside.ko\n');
  return dir;
}

t.test('resolveModule() puts each module behind what it needs, and leaves out what is built in', async (t) => {
  const modules = listModules(makeModules(t));
  const found = await resolveModule(modules, 'a', readFile);
  t.strictSame(
    found.map(({ name }) => name),
    ['c', 'b_two', 'a'],
  );
  t.strictSame(found.at(-1)?.aliases, ['for-a']);
  t.strictSame(await resolveModule(modules, 'inside', readFile), []);
});

t.test('resolveModule() names what is missing', async (t) => {
  const modules = listModules(makeModules(t));
  await t.rejects(resolveModule(modules, 'loner', readFile), { code: 'E_MISSING_FEATURE', message: /has no module "missing"/ });
});
