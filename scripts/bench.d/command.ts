import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import process from 'node:process';

/** What a command may be given besides its arguments. */
export type CommandOptions = { env?: Record<string, string>; cwd?: string; stdin?: string };

const KEPT = 4000;

/** Runs a program to its end and gives its standard output, without white space at its end. Throws an Error with what it said when it fails. */
export async function run(argv: readonly string[], options: CommandOptions = {}): Promise<string> {
  const [program = '', ...args] = argv;
  const stdin = options.stdin === undefined ? null : openSync(options.stdin, 'r');
  try {
    const child = spawn(program, args, {
      stdio: [stdin ?? 'ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...options.env },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    let stdout = '';
    let stderr = '';
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-KEPT);
    });
    const status = await new Promise<number | string>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, signal) => resolve(code ?? signal ?? 'no status'));
    });
    if (status !== 0) throw new Error(`Cannot run "${argv.join(' ').slice(0, 200)}": it ended with ${status}: ${stderr.trim()}`);
    return stdout.trimEnd();
  } finally {
    if (stdin !== null) closeSync(stdin);
  }
}

/** Runs a script of bash that stops at the first failure, with `$1`, `$2`, … as given. */
export async function runScript(script: string, args: readonly string[], options: CommandOptions = {}): Promise<string> {
  return await run(['bash', '-e', '-o', 'pipefail', '-c', script, 'bench', ...args], options);
}
