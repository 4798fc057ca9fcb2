import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { removeLeftovers } from '../../../../src/isolation/vm/leftovers.ts';

const dir = mkdtempSync(join(tmpdir(), 'vm-leftovers-'));
t.teardown(() => rmSync(dir, { recursive: true }));

t.test('removeLeftovers() removes what is unfinished, and nothing that is whole', async (t) => {
  const whole = ['acceleration.json', 'guest-a/kernel', 'guest/image.json', 'qemu-root-b/usr', 'templates/c'];
  const unfinished = [
    'new-12.ab',
    'new-qemu-root-Xy12/usr',
    'new-guest-Xy12/kernel',
    'guest.Xy12/new',
    'files-job.img',
    'acceleration.json.12.new',
    'templates/c.12.new',
    'templates/scratch.12.ab.new',
  ];
  for (const name of [...whole, ...unfinished]) {
    mkdirSync(join(dir, name, '..'), { recursive: true });
    writeFileSync(join(dir, name), '');
  }
  removeLeftovers(dir);
  const left = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  t.same(left.map((entry) => join(entry.parentPath, entry.name).slice(dir.length + 1)).sort(), whole);
  t.equal(readdirSync(dir).length, 5, 'no directory of theirs either');
});

t.test('removeLeftovers() does nothing where nothing was made yet', async (t) => {
  removeLeftovers(join(dir, 'none'));
  t.notOk(readdirSync(dir).includes('none'));
});
