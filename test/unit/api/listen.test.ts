import { spawn } from 'node:child_process';
import { chmodSync, existsSync, lstatSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import t, { type Test } from 'tap';
import { listenOnInherited, listenOnPath, takeActivation } from '../../../src/api/listen.ts';
import { requires } from '../../helpers/requires.ts';

async function makeDir(t: Test): Promise<string> {
  const dir = await mkdtemp('/dev/shm/rootlayer-listen-');
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

function makeServer(t: Test): http.Server {
  const server = http.createServer((_request, response) => response.end('ours'));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return server;
}

t.test('listenOnPath() makes a socket that only its owner may use', async (t) => {
  const file = path.join(await makeDir(t), 'a.sock');
  const listening = await listenOnPath(makeServer(t), file, null);
  t.equal((lstatSync(file).mode & 0o7777).toString(8), '600');
  t.same(readdirSync(path.dirname(file)), ['a.sock']);
  listening.stop();
  t.notOk(existsSync(file));
});

t.test('listenOnPath() lets a group in, and makes a missing directory', async (t) => {
  if (!requires(t, 'root')) return;
  const file = path.join(await makeDir(t), 'run', 'a.sock');
  const listening = await listenOnPath(makeServer(t), file, 1234);
  const { mode, gid, uid } = lstatSync(file);
  t.same({ mode: (mode & 0o7777).toString(8), gid, uid }, { mode: '660', gid: 1234, uid: 0 });
  t.equal((lstatSync(path.dirname(file)).mode & 0o7777).toString(8), '755');
  listening.stop();
});

t.test('listenOnPath() leaves the umask as it was', async (t) => {
  const before = process.umask();
  const listening = await listenOnPath(makeServer(t), path.join(await makeDir(t), 'a.sock'), null);
  t.equal(process.umask(), before);
  listening.stop();
});

t.test('O07 a socket that a dead daemon left is replaced', async (t) => {
  const file = path.join(await makeDir(t), 'a.sock');
  const child = spawn(process.execPath, [
    '-e',
    `require('net').createServer().listen(${JSON.stringify(file)}, () => process.kill(process.pid, 'SIGKILL'))`,
  ]);
  await new Promise((resolve) => child.once('close', resolve));
  t.ok(lstatSync(file).isSocket(), 'the stale socket is there');
  const listening = await listenOnPath(makeServer(t), file, null);
  const text = await new Promise<string>((resolve, reject) => {
    http.get({ socketPath: file, path: '/' }, (response) => response.on('data', (chunk) => resolve(String(chunk)))).once('error', reject);
  });
  t.equal(text, 'ours');
  listening.stop();
});

t.test('O07 what is no stale socket stays', async (t) => {
  const dir = await makeDir(t);
  writeFileSync(path.join(dir, 'file'), 'precious');
  mkdirSync(path.join(dir, 'dir'));
  symlinkSync('file', path.join(dir, 'link'));
  for (const name of ['file', 'dir', 'link']) {
    await t.rejects(listenOnPath(makeServer(t), path.join(dir, name), null), { code: 'E_CONFLICT' }, name);
  }
  t.same(readdirSync(dir).sort(), ['dir', 'file', 'link']);
});

t.test('O08 a socket on which another daemon listens stays', async (t) => {
  const file = path.join(await makeDir(t), 'a.sock');
  const first = await listenOnPath(makeServer(t), file, null);
  const { ino } = lstatSync(file);
  await t.rejects(listenOnPath(makeServer(t), file, null), { code: 'E_CONFLICT', message: /another daemon listens/ });
  t.equal(lstatSync(file).ino, ino);
  first.stop();
});

t.test('C19 stop() leaves a socket that has replaced ours', async (t) => {
  const file = path.join(await makeDir(t), 'a.sock');
  const listening = await listenOnPath(makeServer(t), file, null);
  await rm(file);
  const successor = net.createServer();
  await new Promise<void>((resolve) => successor.listen(file, resolve));
  listening.stop();
  t.ok(lstatSync(file).isSocket());
  await new Promise((resolve) => successor.close(resolve));
});

t.test('C19 a directory that others can change is refused, unless it is sticky', async (t) => {
  const dir = await makeDir(t);
  chmodSync(dir, 0o777);
  await t.rejects(listenOnPath(makeServer(t), path.join(dir, 'a.sock'), null), { code: 'E_CONFLICT', message: /other users can change/ });
  chmodSync(dir, 0o1777);
  (await listenOnPath(makeServer(t), path.join(dir, 'a.sock'), null)).stop();
});

t.test('listenOnPath() refuses a path that is too long for a socket', async (t) => {
  const dir = path.join(await makeDir(t), 'x'.repeat(120));
  await t.rejects(listenOnPath(makeServer(t), path.join(dir, 'a.sock'), null), { code: 'E_CONFLICT', message: /too long, want at most/ });
});

t.test('takeActivation() believes only variables that are for this process', async (t) => {
  t.equal(takeActivation({}, 7), false);
  t.equal(takeActivation({ LISTEN_PID: '8', LISTEN_FDS: '1' }, 7), false);
  t.equal(takeActivation({ LISTEN_FDS: '1' }, 7), false);
  const env = { LISTEN_PID: '7', LISTEN_FDS: '1', LISTEN_FDNAMES: 'x', PATH: '/bin' };
  t.equal(takeActivation(env, 7), true);
  t.same(env, { PATH: '/bin' }, 'and takes them away');
  t.throws(() => takeActivation({ LISTEN_PID: '7', LISTEN_FDS: '2' }, 7), { code: 'E_USAGE' });
});

t.test('listenOnInherited() refuses what is no Unix socket', async (t) => {
  const { openSync, closeSync } = await import('node:fs');
  const fd = openSync('/dev/null', 'r');
  await t.rejects(listenOnInherited(makeServer(t), fd), { code: 'E_USAGE', message: /it is no socket/ });
  closeSync(fd);
});

/** What a process says that got the socket of a server as descriptor 3; it listens no longer when this is known. */
async function listenInChild(holder: net.Server): Promise<string> {
  const listener = import.meta.resolve('../../../src/api/listen.ts').replace(/\.ts$/, '.js');
  const code = `
    const { listenOnInherited, takeActivation } = await import(${JSON.stringify(listener)});
    const http = await import('node:http');
    process.env.LISTEN_PID = String(process.pid);
    process.env.LISTEN_FDS = '1';
    const server = http.createServer((request, response) => response.end('child'));
    if (takeActivation()) process.stdout.write(await listenOnInherited(server).then(({ where }) => where, ({ message }) => message));`;
  const fd = Number(Reflect.get(Object(Reflect.get(holder, '_handle')), 'fd'));
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'inherit', fd] });
  const ended = new Promise((resolve) => child.once('close', resolve));
  const said = await new Promise<string>((resolve) => child.stdout?.once('data', (chunk) => resolve(String(chunk))));
  child.kill('SIGKILL');
  await ended;
  await new Promise<void>((resolve) => holder.close(() => resolve()));
  return said;
}

t.test('listenOnInherited() refuses a socket of the internet', async (t) => {
  const holder = net.createServer();
  await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve));
  t.match(await listenInChild(holder), /it is no Unix socket/);
});

t.test('listenOnInherited() listens on a socket that another process has bound', async (t) => {
  const holder = net.createServer();
  const file = path.join(await makeDir(t), 'a.sock');
  await new Promise<void>((resolve) => holder.listen(file, resolve));
  t.equal(await listenInChild(holder), 'descriptor 3 from systemd');
});
