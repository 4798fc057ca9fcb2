import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import type { Test } from 'tap';
import { mainPath } from './command.ts';

/** A terminal at which `rootlayer ARGS` runs: made by script(1), and looked after by a shell that outlives the command. */
export type Console = {
  type(text: string): void;
  /** All that it has shown so far. */
  text(): string;
  /** Waits until it has shown the text, from where the last wait ended. */
  until(text: string): Promise<void>;
  resize(rows: number, columns: number): void;
  /** Sends a signal to the command. */
  signal(name: NodeJS.Signals): void;
  /** The command's exit status and whether it left the settings of the terminal as they were. */
  ended: Promise<{ status: number; isRestored: boolean }>;
};

const WAIT_MS = 20_000;

/** Runs the command at a terminal of 30 rows and 100 columns. What still runs when the test ends is killed. */
export function openConsole(t: Test, args: readonly string[], env: Record<string, string> = {}): Console {
  const dir = mkdtempSync(path.join(tmpdir(), 'console-'));
  const file = (name: string): string => path.join(dir, name);
  const read = (name: string): string => readFileSync(file(name), 'utf8').trim();
  const command = [process.execPath, mainPath, ...args].map(quote).join(' ');
  const shell = `cd ${quote(dir)}; stty rows 30 cols 100; stty -g >before; tty >tty
    sh -c 'echo $$ >pid; exec "$@"' sh ${command}; echo $? >status; stty -g >after`;
  const child: ChildProcessWithoutNullStreams = spawn('script', ['-qfc', shell, '/dev/null'], {
    env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin', TERM: 'xterm-test', SHELL: '/bin/sh', ...env },
  });
  let text = '';
  let seen = 0;
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  child.stderr.resume();
  child.stdin.on('error', () => {});
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
  t.teardown(async () => {
    child.kill('SIGKILL');
    await closed;
    rmSync(dir, { recursive: true, force: true });
  });
  const ended = (async (): Promise<{ status: number; isRestored: boolean }> => {
    await closed;
    if (!existsSync(file('after'))) throw new Error(`the terminal ended before its command: ${JSON.stringify(text)}`);
    return { status: Number(read('status')), isRestored: read('before') === read('after') };
  })();
  ended.catch(() => {});
  return {
    type: (typed) => void child.stdin.write(typed),
    text: () => text,
    until: async (wanted) => {
      await waitFor(
        () => text.includes(wanted, seen),
        () => `${JSON.stringify(wanted)} in ${JSON.stringify(text.slice(seen))}`,
      );
      seen = text.indexOf(wanted, seen) + wanted.length;
    },
    resize: (rows, columns) => {
      spawnSync('stty', ['-F', read('tty'), 'rows', String(rows), 'cols', String(columns)]);
    },
    signal: (name) => void process.kill(Number(read('pid')), name),
    ended,
  };
}

function quote(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

async function waitFor(isThere: () => boolean, what: () => string): Promise<void> {
  for (const deadline = performance.now() + WAIT_MS; !isThere(); ) {
    if (performance.now() > deadline) throw new Error(`waited in vain for ${what()}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
