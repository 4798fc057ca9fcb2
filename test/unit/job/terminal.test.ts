import t from 'tap';
import { JobTerminal, type TerminalDevice } from '../../../src/job/terminal.ts';

/** A device that takes a piece when it is told to. */
function slowDevice(): TerminalDevice & { taken: Buffer[]; take(): Promise<void>; fail: boolean } {
  const taken: Buffer[] = [];
  let proceed: () => void = () => {};
  const device = {
    taken,
    fail: false,
    write: async (bytes: Buffer): Promise<void> => {
      await new Promise<void>((resolve) => {
        proceed = resolve;
      });
      if (device.fail) throw new Error('gone');
      taken.push(Buffer.from(bytes));
    },
    resize: () => {},
    take: async (): Promise<void> => {
      proceed();
      await new Promise((resolve) => setImmediate(resolve));
    },
  };
  return device;
}

t.test('JobTerminal types in order, in pieces, and the end of input last', async (t) => {
  const device = slowDevice();
  const terminal = new JobTerminal(device);
  terminal.send(Buffer.alloc(5000, 'a'));
  terminal.send(Buffer.from('b'));
  terminal.send(Buffer.alloc(0));
  for (let step = 0; step < 3; step++) await device.take();
  t.same(
    device.taken.map((bytes) => bytes.length),
    [4096, 905, 0],
  );
  t.equal(Buffer.concat(device.taken).toString(), `${'a'.repeat(5000)}b`);
  t.throws(() => terminal.send(Buffer.from('late')), { code: 'E_CONFLICT' });
});

t.test('JobTerminal refuses what a script does not read, and takes it again when it has read', async (t) => {
  const device = slowDevice();
  const terminal = new JobTerminal(device);
  const piece = Buffer.alloc(65_536);
  for (let at = 0; at < 16; at++) terminal.send(piece);
  t.throws(() => terminal.send(Buffer.from('x')), { code: 'E_BUSY' });
  await device.take();
  terminal.send(Buffer.from('x'));
});

t.test('JobTerminal forgets what waits for a device that fails', async (t) => {
  const device = slowDevice();
  const terminal = new JobTerminal(device);
  for (let at = 0; at < 16; at++) terminal.send(Buffer.alloc(65_536));
  device.fail = true;
  await device.take();
  terminal.send(Buffer.alloc(65_536));
  t.same(device.taken, []);
});

t.test('JobTerminal takes single bytes as fast when much waits as when little does', (t) => {
  const terminal = new JobTerminal(slowDevice());
  terminal.send(Buffer.alloc(1_000_000));
  const before = process.cpuUsage();
  for (let at = 0; at < 20_000; at++) terminal.send(Buffer.from('x'));
  const { user, system } = process.cpuUsage(before);
  t.ok(user + system < 500_000, `it took ${user + system} microseconds`);
  t.end();
});

t.test('JobTerminal keeps the order of bytes that come while others are typed', async (t) => {
  const device = slowDevice();
  const terminal = new JobTerminal(device);
  const sent: Buffer[] = [];
  for (let step = 0; step < 40; step++) {
    const bytes = Buffer.alloc(1 + ((step * 997) % 6000), step);
    sent.push(bytes);
    terminal.send(bytes);
    if (step % 3 === 0) await device.take();
  }
  terminal.send(Buffer.alloc(0));
  while (device.taken.at(-1)?.length !== 0) await device.take();
  t.ok(Buffer.concat(device.taken).equals(Buffer.concat(sent)));
});
