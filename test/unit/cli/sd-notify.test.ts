import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { takeNotifier } from '../../../src/host/sd-notify.ts';
import { requires } from '../../helpers/requires.ts';

/** Binds a datagram socket, says so, and prints what comes first. */
const RECEIVER = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1].replace('@', chr(0), 1))
print('bound', flush=True)
print(s.recv(4096).decode(), end='', flush=True)`;

t.test('takeNotifier() sends states to the socket of systemd, by path and by abstract name', async (t) => {
  if (!requires(t, 'python3')) return;
  const dir = await mkdtemp('/dev/shm/rootlayer-notify-');
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  for (const address of [path.join(dir, 'notify'), `@rootlayer-test-${process.pid}`]) {
    const receiver = spawn('python3', ['-c', RECEIVER, address], { stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    receiver.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    await new Promise((resolve) => receiver.stdout.once('data', resolve));
    const env = { NOTIFY_SOCKET: address, PATH: '/bin' };
    takeNotifier(env).notify('READY=1', 'STATUS=here');
    t.same(env, { PATH: '/bin' }, 'the address is not for children');
    await new Promise((resolve) => receiver.once('close', resolve));
    t.equal(text, 'bound\nREADY=1\nSTATUS=here');
  }
});

t.test('takeNotifier() sends nothing without a socket', async (t) => {
  for (const env of [{}, { NOTIFY_SOCKET: '' }, { NOTIFY_SOCKET: 'vsock:2:1234' }]) {
    const { notify, watchdogMs } = takeNotifier(env);
    t.doesNotThrow(() => notify('READY=1'));
    t.equal(watchdogMs, null);
  }
});

t.test('takeNotifier() wants a sign of life at half the patience, if it is for this process', async (t) => {
  const base = { NOTIFY_SOCKET: '/nonexistent', WATCHDOG_USEC: '30000000' };
  t.equal(takeNotifier({ ...base }, 7).watchdogMs, 15_000);
  t.equal(takeNotifier({ ...base, WATCHDOG_PID: '7' }, 7).watchdogMs, 15_000);
  t.equal(takeNotifier({ ...base, WATCHDOG_PID: '8' }, 7).watchdogMs, null);
  t.equal(takeNotifier({ ...base, WATCHDOG_USEC: '0' }, 7).watchdogMs, null);
});

t.test('takeNotifier() tells of a socket that is gone', async (t) => {
  t.throws(() => takeNotifier({ NOTIFY_SOCKET: '/nonexistent/notify' }).notify('READY=1'), { code: 'E_SYSCALL', errno: 'ENOENT' });
});
