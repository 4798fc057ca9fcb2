import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import path from 'node:path';
import process from 'node:process';
import { buffer } from 'node:stream/consumers';

/** The built command: of the same build as the running test. */
export const mainPath: string = path.join(import.meta.dirname, '../../src/cli/main.js');

/** How a command is started; it gets no variable of the test's own environment but `PATH`, `HOME` and `TMPDIR`. */
export type CommandOptions = {
  input?: string;
  env?: Record<string, string>;
  /** Another user, with one supplementary group at most. Needs root and setpriv(1). */
  user?: { uid: number; group: number | null };
  /** Another copy of the command, for a user who cannot read this one. */
  main?: string;
  cwd?: string;
};

/** A process that has ended. */
export type Ended = { status: number | null; stdout: string; stderr: string };

/** Runs `rootlayer ARGS` as its users do, and waits for its end. */
export async function rootlayer(args: readonly string[], options: CommandOptions = {}): Promise<Ended> {
  return await ended(startCommand(args, options), options.input);
}

/** {@link rootlayer}, which throws with the end of its error output when the status is not 0. */
export async function rootlayerOk(args: readonly string[], options: CommandOptions = {}): Promise<Ended> {
  return checked(`rootlayer ${args.join(' ')}`, await rootlayer(args, options));
}

/** Starts `rootlayer ARGS`; the caller waits for its end. */
export function startCommand(args: readonly string[], options: CommandOptions = {}): ChildProcessWithoutNullStreams {
  return startProgram(process.execPath, [options.main ?? mainPath, ...args], options);
}

/** Runs any program, likewise. */
export async function run(program: string, args: readonly string[], options: CommandOptions = {}): Promise<Ended> {
  return await ended(startProgram(program, args, options), options.input);
}

/** {@link run}, which throws with the end of its error output when the status is not 0. */
export async function runOk(program: string, args: readonly string[], options: CommandOptions = {}): Promise<string> {
  return checked(`${program} ${args.join(' ')}`, await run(program, args, options)).stdout;
}

function checked(command: string, result: Ended): Ended {
  if (result.status !== 0) throw new Error(`${command}: status ${result.status}: ${result.stderr.slice(-2000)}`);
  return result;
}

function startProgram(program: string, args: readonly string[], options: CommandOptions): ChildProcessWithoutNullStreams {
  const { PATH = '/usr/bin:/bin', HOME = '/root', TMPDIR = '/tmp' } = process.env;
  const [first = program, ...rest] = [...asUser(options.user), program, ...args];
  return spawn(first, rest, {
    env: { PATH: `${PATH}:/usr/sbin:/sbin`, HOME, TMPDIR, ...options.env },
    stdio: 'pipe',
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
}

function asUser(user: CommandOptions['user']): string[] {
  if (user === undefined) return [];
  const groups = user.group === null ? ['--clear-groups'] : ['--groups', String(user.group)];
  return ['setpriv', '--reuid', String(user.uid), '--regid', String(user.uid), ...groups];
}

async function ended(child: ChildProcessWithoutNullStreams, input = ''): Promise<Ended> {
  // A program that reads no input may be gone before it has been written.
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  const closed = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const [stdout, stderr, status] = await Promise.all([buffer(child.stdout), buffer(child.stderr), closed]);
  return { status, stdout: stdout.toString('utf8'), stderr: stderr.toString('utf8') };
}
