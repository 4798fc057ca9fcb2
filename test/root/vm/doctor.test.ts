import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { findVmFeatures, tryVmFeatures } from '../../../src/vm-features.ts';
import { requires } from '../../helpers/requires.ts';

requires(t, 'root', 'launcher', 'qemu-system-x86_64', 'vm-kernel');

const signal = new AbortController().signal;
const dir = mkdtempSync(join(tmpdir(), 'vm-doctor-'));
t.teardown(() => rmSync(dir, { recursive: true }));

t.test('findVmFeatures() starts nothing', async (t) => {
  const features = findVmFeatures(join(dir, 'vm'));
  t.same(
    features.map(({ name }) => name),
    ['qemu', 'vm-kernel', 'vm-acceleration'],
  );
  t.match(features, [{ ok: true }, { ok: true }, { ok: false }]);
  t.notOk(existsSync(join(dir, 'vm')));
});

t.test('tryVmFeatures() boots a guest, and what it found is known from then on', async (t) => {
  const directory = join(dir, 'vm');
  // What a running engine of another version uses.
  const others = ['guest-other', 'new-guest-other', 'qemu-root-other'];
  for (const name of others) mkdirSync(join(directory, name), { recursive: true });
  const tried = await tryVmFeatures(directory, signal);
  t.same(
    readdirSync(directory)
      .filter((name) => name.endsWith('-other'))
      .sort(),
    others,
  );
  t.match(tried[2], { name: 'vm-acceleration', detail: /boundary/ });
  t.same(findVmFeatures(directory), tried);
  const { mtimeMs } = statSync(join(directory, 'templates'));
  t.same(await tryVmFeatures(directory, signal), tried);
  t.equal(statSync(join(directory, 'templates')).mtimeMs, mtimeMs, 'no guest was booted again');
});
