import { type ChildProcess, spawn } from 'node:child_process';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import type { FakeDaemon } from '../helpers/fake-daemon.ts';

/** The built command. */
export const MAIN: string = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

/** What a command printed, and how it ended; bytes as latin1. */
export type Ran = { status: number | null; stdout: string; stderr: string };

export type RunningCommand = { child: ChildProcess; ended: Promise<Ran>; soFar: { stdout: string; stderr: string } };

/** Starts the command with nothing in its environment but what is given. */
export function start(args: readonly string[], env: Record<string, string> = {}, input: string | Buffer = ''): RunningCommand {
  const child = spawn(process.execPath, [MAIN, ...args], { env: { PATH: '/usr/bin:/bin', ...env }, stdio: ['pipe', 'pipe', 'pipe'] });
  const soFar = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name]?.on('data', (chunk: Buffer) => {
      soFar[name] += chunk.toString('latin1');
    });
  }
  child.stdin?.on('error', () => {});
  child.stdin?.end(input);
  const ended = new Promise<Ran>((resolve) => child.once('close', (status) => resolve({ status, ...soFar })));
  return { child, ended, soFar };
}

/** Runs the command against a daemon, with the input on its standard input. */
export async function run(daemon: FakeDaemon, args: readonly string[], input = ''): Promise<Ran> {
  return start(args, { ROOTLAYER_SOCKET: daemon.socketPath }, input).ended;
}

/** Runs a script on scratch. */
export function runScript(daemon: FakeDaemon, script: string, ...args: string[]): Promise<Ran> {
  return run(daemon, ['run', '--from', 'scratch', '--script', '-', ...args], script);
}

/** Waits until a command has printed the text. */
export async function untilText(command: RunningCommand, text: string): Promise<void> {
  const deadline = performance.now() + 15_000;
  while (!(command.soFar.stdout + command.soFar.stderr).includes(text)) {
    if (performance.now() > deadline) throw new Error(`waited in vain for ${text}: ${JSON.stringify(command.soFar)}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
