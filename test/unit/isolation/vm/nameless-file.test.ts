import { closeSync, fstatSync, mkdtempSync, readdirSync, readFileSync, readSync, rmSync, statSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { openAgain, openNameless } from '../../../../src/isolation/vm/nameless-file.ts';

const dir = mkdtempSync(join(tmpdir(), 'vm-nameless-'));
t.teardown(() => rmSync(dir, { recursive: true }));
const place = join(dir, 'vm');

t.test('openNameless() has no name even while it is filled, and is for reading only', async (t) => {
  const fd = await openNameless(place, async (output) => {
    t.same(readdirSync(place), [], 'a process that is killed now leaves nothing');
    writeSync(output, 'whole');
  });
  t.teardown(() => closeSync(fd));
  t.equal(statSync(place).mode & 0o777, 0o700);
  t.equal(readFileSync(fd, 'utf8'), 'whole');
  t.equal(fstatSync(fd).nlink, 0);
  t.throws(() => writeSync(fd, 'more'), { code: 'EBADF' });
});

t.test('openNameless() keeps no descriptor of what could not be filled', async (t) => {
  let output = -1;
  const failing = openNameless(place, async (fd) => {
    output = fd;
    throw new Error('no room');
  });
  await t.rejects(failing, /no room/);
  t.throws(() => fstatSync(output), { code: 'EBADF' });
  t.same(readdirSync(place), []);
});

t.test('openAgain() shares no position', async (t) => {
  const first = await openNameless(place, async (output) => void writeSync(output, 'whole'));
  const second = openAgain(first);
  for (const fd of [first, second]) t.teardown(() => closeSync(fd));
  readSync(first, Buffer.alloc(3));
  t.equal(readFileSync(second, 'utf8'), 'whole');
});
