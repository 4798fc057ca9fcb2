import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { RootlayerError } from '../../../../src/core/errors.ts';
import { findAcceleration, hostKey, PROBE_MS, recallAcceleration } from '../../../../src/isolation/vm/acceleration.ts';
import { requires } from '../../../helpers/requires.ts';

const signal = new AbortController().signal;
const dir = mkdtempSync(join(tmpdir(), 'vm-acceleration-'));
t.teardown(() => rmSync(dir, { recursive: true }));

/** A boot that ends as told, and counts. */
function boots(outcome: Error | null): { boot: (kind: string, limitMs: number) => Promise<void>; tries: string[] } {
  const tries: string[] = [];
  return {
    tries,
    boot: async (kind, limitMs) => {
      tries.push(`${kind} ${limitMs}`);
      if (outcome !== null) throw outcome;
    },
  };
}

const CRASH = new RootlayerError('E_VM_CRASH', 'Cannot go on with the virtual machine: QEMU was ended by signal 6 (long: words)');

t.test('findAcceleration() tries KVM once, and remembers what came of it', async (t) => {
  if (!requires(t, 'root', 'kvm')) return;
  for (const [outcome, acceleration, why] of [
    [null, 'kvm', 'a guest has booted with it'],
    [CRASH, 'tcg', '/dev/kvm opens, but no guest boots with it: QEMU was ended by signal 6'],
  ] as const) {
    const file = join(dir, `${acceleration}.json`);
    const { boot, tries } = boots(outcome);
    t.equal(recallAcceleration(file), null, 'nothing is known yet');
    t.same(await findAcceleration(file, 'qemu', boot, signal), { acceleration, why });
    t.same(await findAcceleration(file, 'qemu', boot, signal), { acceleration, why });
    t.same(tries, [`kvm ${PROBE_MS}`]);
    t.same(recallAcceleration(file), { acceleration, why });
  }
});

t.test('findAcceleration() tries again for another QEMU, after another boot, and where nothing readable is remembered', async (t) => {
  if (!requires(t, 'root', 'kvm')) return;
  const file = join(dir, 'again.json');
  const { boot, tries } = boots(CRASH);
  await findAcceleration(file, 'qemu 1', boot, signal);
  await findAcceleration(file, 'qemu 2', boot, signal);
  t.equal(tries.length, 2);
  const remembered = readFileSync(file, 'utf8');
  writeFileSync(file, remembered.replace(/"key":"[0-9a-f]{8}/, '"key":"00000000'));
  t.equal(recallAcceleration(file), null);
  await findAcceleration(file, 'qemu 2', boot, signal);
  writeFileSync(file, '{"key":1}');
  t.equal(recallAcceleration(file), null);
  await findAcceleration(file, 'qemu 2', boot, signal);
  t.equal(tries.length, 4);
});

t.test('findAcceleration() remembers nothing of a failure that says nothing about KVM', async (t) => {
  if (!requires(t, 'root', 'kvm')) return;
  const file = join(dir, 'busy.json');
  const { boot } = boots(new RootlayerError('E_BUSY', 'Cannot take an id range: all are in use'));
  t.match(await findAcceleration(file, 'qemu', boot, signal), { acceleration: 'tcg' });
  t.notOk(existsSync(file));
  await t.rejects(findAcceleration(file, 'qemu', boot, AbortSignal.abort(new Error('ending'))), /ending/);
});

t.test('hostKey() is the same each time, and tells the kernel', (t) => {
  t.equal(hostKey(), hostKey());
  t.ok(hostKey().length > 50);
  t.end();
});
