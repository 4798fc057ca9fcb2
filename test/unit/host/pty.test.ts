import { closeSync, constants, openSync, readdirSync, readSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { ioctlBuffer, ioctlNumber } from '../../../src/host/libc.ts';
import { Pty, stopOutputProcessing } from '../../../src/host/pty.ts';

/** Requests of ioctl_tty(2). */
const [TIOCSPTLCK, TIOCGPTPEER, TIOCGWINSZ] = [0x40045431, 0x5441, 0x5413];

/** A pty with a far end of our own besides the one that it holds. */
function openPty(t: Test): { pty: Pty; far: number; text(): string } {
  const nearFd = openSync('/dev/ptmx', constants.O_RDWR | constants.O_NOCTTY);
  ioctlBuffer(nearFd, TIOCSPTLCK, Buffer.alloc(4));
  const openFar = (): number => ioctlNumber(nearFd, TIOCGPTPEER, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
  const far = openFar();
  let text = '';
  const pty = new Pty({ nearFd, farFd: openFar() }, (bytes) => {
    text += bytes.toString('latin1');
  });
  t.teardown(() => {
    pty.destroy();
    closeSync(far);
  });
  return { pty, far, text: () => text };
}

const countFds = (): number => readdirSync('/proc/self/fd').length;

t.test('Pty passes on what the far end writes, the rest of it with finish()', async (t) => {
  const { pty, far, text } = openPty(t);
  stopOutputProcessing(far);
  writeSync(far, 'one\n');
  while (text() === '') await sleep(5);
  writeSync(far, 'two\n');
  pty.finish();
  t.equal(text(), 'one\ntwo\n');
  pty.finish();
});

t.test('Pty.write() types, no bytes are the end of input, and resize() sets the size', async (t) => {
  const { pty, far } = openPty(t);
  const read = (): string => {
    const bytes = Buffer.alloc(100);
    return bytes.toString('latin1', 0, readSync(far, bytes));
  };
  await pty.write(Buffer.from('typed\n'));
  t.equal(read(), 'typed\n');
  await pty.write(Buffer.alloc(0));
  t.equal(read(), '');
  pty.resize({ rows: 51, columns: 213 });
  const size = Buffer.alloc(8);
  ioctlBuffer(far, TIOCGWINSZ, size);
  t.same([size.readUInt16LE(0), size.readUInt16LE(2)], [51, 213]);
});

t.test('Pty.write() waits for a reader without holding anything up, and ends with the terminal', async (t) => {
  const before = countFds();
  const { pty, far } = openPty(t);
  let isDone = false;
  const written = pty.write(Buffer.from(`${'x'.repeat(100)}\n`.repeat(2000))).then(() => {
    isDone = true;
  });
  await sleep(60);
  t.notOk(isDone, 'nobody reads');
  pty.destroy();
  await written;
  await pty.write(Buffer.from('late'));
  pty.resize({ rows: 1, columns: 1 });
  t.equal(countFds(), before + 1, 'all but the far end of the test is closed');
  t.ok(far > 2);
});
