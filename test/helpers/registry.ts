import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import type { Test } from 'tap';
import { runOk } from './command.ts';

/** A registry without TLS on a free port of the loopback, which keeps its data below a directory of the test's and ends with the test. */
export type TestRegistry = {
  /** host:port */
  readonly address: string;
  /** Puts an image there: from a reference as skopeo writes it, to `name:tag`. */
  push(source: string, nameTag: string): Promise<void>;
};

/** Starts docker-registry(1); `requires(t, 'docker-registry', 'skopeo')` comes before. */
export async function startRegistry(t: Test, directory: string): Promise<TestRegistry> {
  mkdirSync(directory, { recursive: true });
  const config = path.join(directory, 'config.yml');
  const storage = { filesystem: { rootdirectory: path.join(directory, 'data') } };
  writeFileSync(config, JSON.stringify({ version: '0.1', log: { level: 'info' }, storage, http: { addr: '127.0.0.1:0' } }));
  const child = spawn('docker-registry', ['serve', config], { stdio: ['ignore', 'ignore', 'pipe'], env: { PATH: process.env['PATH'] } });
  t.teardown(() => stop(child));
  const address = await listening(child);
  return {
    address,
    push: async (source, nameTag) => {
      await runOk('skopeo', ['--insecure-policy', 'copy', '--quiet', '--dest-tls-verify=false', source, `docker://${address}/${nameTag}`]);
    },
  };
}

async function listening(child: ChildProcess): Promise<string> {
  if (child.stderr === null) throw new Error('docker-registry: no standard error');
  let said = '';
  for await (const line of createInterface({ input: child.stderr })) {
    said = `${said}${line}\n`.slice(-2000);
    const address = /listening on (127\.0\.0\.1:\d+)/.exec(line)?.[1];
    if (address === undefined) continue;
    child.stderr.resume();
    return address;
  }
  throw new Error(`docker-registry does not listen: ${said}`);
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, 'close');
  child.kill('SIGTERM');
  await closed;
}
