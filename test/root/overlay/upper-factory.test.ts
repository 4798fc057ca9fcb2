import { execFileSync } from 'node:child_process';
import { closeSync, copyFileSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { UpperFactory } from '../../../src/overlay/upper.ts';
import { requires } from '../../helpers/requires.ts';

const LIMITS = { diskBytes: 64 * 1024 * 1024, inodes: 1024 };

t.test('create() makes uppers for several jobs of one size that start together', async (t) => {
  if (!requires(t, 'root', 'loop')) return;
  const directory = mkdtempSync(join(tmpdir(), 'upper-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const factory = new UpperFactory(directory);
  const uppers = await Promise.all(['a', 'b', 'c'].map((label) => factory.create(LIMITS, null, label)));
  t.same(
    uppers.map((upper) => upper.usage().inodes > 0),
    [true, true, true],
  );
  for (const upper of uppers) await upper.close();
  t.same(readdirSync(directory), [], 'neither an image nor a template is left');
});

t.test('create() tries again after a size that mkfs refused', async (t) => {
  if (!requires(t, 'root', 'loop')) return;
  const directory = mkdtempSync(join(tmpdir(), 'upper-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const factory = new UpperFactory(directory);
  const impossible = { diskBytes: 16 * 1024 * 1024, inodes: 1_000_000 };
  for (const label of ['a', 'b']) await t.rejects(factory.create(impossible, null, label), { code: 'E_USAGE' });
  t.same(readdirSync(directory), []);
});

t.test('createDisk() gives a whole filesystem that is no longer mounted, with what was put into it', async (t) => {
  if (!requires(t, 'root', 'loop', 'e2fsck', 'debugfs')) return;
  const directory = mkdtempSync(join(tmpdir(), 'upper-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const disk = await new UpperFactory(join(directory)).createDisk(LIMITS, null, 'd', async (upper) => {
    writeFileSync(`/proc/self/fd/${upper.plainDirFd}/greeting`, 'hello\n');
  });
  t.same(readdirSync(directory), [], 'it has no name');
  const image = join(directory, 'copy.img');
  copyFileSync(`/proc/self/fd/${disk}`, image);
  closeSync(disk);
  execFileSync('e2fsck', ['-fn', image], { stdio: 'ignore' });
  t.equal(execFileSync('debugfs', ['-R', 'cat /up/greeting', image], { stdio: ['ignore', 'pipe', 'ignore'] }).toString(), 'hello\n');
});
