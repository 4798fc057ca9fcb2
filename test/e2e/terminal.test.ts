import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { rootlayer } from '../helpers/command.ts';
import { type Console, openConsole } from '../helpers/console.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { baseImagePath, requires } from '../helpers/requires.ts';

t.setTimeout(180_000);
requires(t, 'root', 'overlay', 'loop', 'userns', 'launcher', 'base-image', 'script', 'stty');

const dir = mkdtempSync(path.join(tmpdir(), 'terminal-'));
t.teardown(() => rmSync(dir, { recursive: true, force: true }));
const daemon = await startDaemon(t, { directory: dir });
await daemon.clientOk(['image', 'import', baseImagePath()]);

type Listed = { id: string; state: string };
const runningJobs = async (): Promise<Listed[]> => {
  const { jobs }: { jobs: Listed[] } = JSON.parse((await daemon.clientOk(['job', 'ls', '--json'])).stdout);
  return jobs.filter(({ state }) => state === 'running');
};
// A test that fails must not make the next one wait for its job.
t.afterEach(async () => {
  for (const { id } of await runningJobs()) await daemon.clientOk(['job', 'cancel', id]);
});

const run = (t: Test, script: string, ...more: string[]): Console =>
  openConsole(t, ['run', '-t', '--from', 'debian:bookworm', '--script', scriptFile(script), '--socket', daemon.socket, ...more]);
const attach = (t: Test, id: string, ...more: string[]): Console =>
  openConsole(t, ['job', 'attach', id, '--socket', daemon.socket, ...more]);
const RESTORED = { isRestored: true };

/** What is typed while a log is replayed is dropped: an empty line that is echoed tells that this is over. */
async function untilHeard(console: Console): Promise<void> {
  for (const { length } = console.text(); console.text().length === length; await sleep(50)) console.type('\r');
}

let scripts = 0;
function scriptFile(text: string): string {
  scripts += 1;
  const file = path.join(dir, `script-${scripts}`);
  writeFileSync(file, text);
  chmodSync(file, 0o644);
  return file;
}

/** The id in what the command says about coming back. */
async function detach(console: Console): Promise<string> {
  console.type('\x10\x11');
  await console.until('come back with "rootlayer job attach ');
  await console.until('"');
  return /job attach ([0-9a-f]{32})"/.exec(console.text())?.[1] ?? '';
}

t.test('run -t joins the terminals: kind, size, keys, new sizes, ^C and the exit status', async (t) => {
  const console = run(
    t,
    `echo "$TERM"; stty size; read -r line; echo "<$line>"
     trap "got=winch" WINCH; echo waiting; until [ "$(stty size)" = "44 132" ]; do sleep 0.1; done; echo "$got $(stty size)"
     trap - WINCH; sh -c 'echo ready; exec sleep 1000'`,
  );
  await console.until('xterm-test\r\n30 100\r\n');
  console.type('typed here\r');
  await console.until('typed here\r\n<typed here>\r\n');
  await console.until('waiting');
  console.resize(44, 132);
  await console.until('winch 44 132');
  await console.until('ready');
  console.type('\x03');
  t.match(await console.ended, { status: 130, ...RESTORED });
  t.match(console.text(), /\^C.*\r\nrootlayer: The script ended with status 130/s);
});

t.test('run -t shows bytes as they are, and then the result as ever', async (t) => {
  const out = path.join(dir, 'layer.tar');
  const console = run(t, `printf '\\033[1mbold\\033[0m\\n'; stty -opost; printf 'a\\nb'; echo x >/made`, '-o', out);
  t.match(await console.ended, { status: 0, ...RESTORED });
  t.match(console.text(), '\x1b[1mbold\x1b[0m\r\na\nb');
  t.match(console.text(), /entries {2}2\r\nwritten {2}/);
});

t.test('ctrl-p ctrl-q leaves the job, job attach comes back, and two may type at it', async (t) => {
  const first = run(
    t,
    'echo started; while read -r line; do echo "<$line>"; [ "$line" != end ] || exit 5; done',
    '-o',
    path.join(dir, 'x.tar'),
  );
  await first.until('started');
  first.type('one\r');
  await first.until('<one>');
  const id = await detach(first);
  t.match(await first.ended, { status: 0, ...RESTORED });
  t.match(first.text(), `rootlayer: "rootlayer job get ${id} -o `);

  const [second, third] = [attach(t, id), attach(t, id, '--no-replay')];
  await second.until('started\r\none\r\n<one>\r\n');
  await untilHeard(second);
  second.type('two\r');
  await third.until('<two>');
  t.notMatch(third.text(), 'started');
  third.type('three\x10x\r');
  await second.until('<three\x10x>');
  t.equal(await detach(third), id);
  second.type('end\r');
  t.match(await second.ended, { status: 5, ...RESTORED });
  t.match(await third.ended, { status: 0, ...RESTORED });

  const after = attach(t, id);
  t.match(await after.ended, { status: 5, ...RESTORED }, 'a job that has ended shows its log');
  t.match(after.text(), /started\r+\none\r+\n<one>/);
});

t.test('a signal cancels the job of run -t and leaves that of job attach alone; both give the terminal back', async (t) => {
  const console = run(t, 'echo ready; sleep 1000');
  await console.until('ready');
  const id = (await runningJobs())[0]?.id ?? '';
  const other = attach(t, id);
  await other.until('ready');
  other.signal('SIGTERM');
  t.match(await other.ended, { status: 130, ...RESTORED });
  console.signal('SIGTERM');
  t.match(await console.ended, { status: 130, ...RESTORED });
  t.match(console.text(), 'cancelling the job');
});

t.test('run --detach -t needs no terminal: job attach brings one', async (t) => {
  const script = scriptFile('echo started; until [ -n "$line" ]; do read -r line; done; stty size; echo "<$line>"');
  const { stdout } = await daemon.clientOk(['run', '-t', '--detach', '--from', 'debian:bookworm', '--script', script]);
  const console = attach(t, stdout.trim());
  await console.until('started');
  await untilHeard(console);
  console.type('late\r');
  t.match(await console.ended, { status: 0, ...RESTORED });
  t.match(console.text(), '30 100\r\n<late>\r\n');
});

t.test('without a terminal on either side it is refused', async (t) => {
  const script = scriptFile('sleep 1000');
  const args = ['--from', 'debian:bookworm', '--script', script];
  t.match(await daemon.client(['run', '-t', ...args]), { status: 125, stderr: /Cannot use --tty: standard input is no terminal/ });
  t.match(await daemon.client(['run', '-t', '--from', 'scratch', '--script', '-']), {
    status: 125,
    stderr: /Cannot use --tty with --script/,
  });
  const id = (await daemon.clientOk(['run', '--detach', ...args])).stdout.trim();
  t.match(await daemon.client(['job', 'attach', id]), { status: 125, stderr: /Cannot use job attach: standard input is no terminal/ });
  const console = attach(t, id);
  t.match(await console.ended, { status: 125, ...RESTORED });
  t.match(console.text(), /the job has none/);
  await daemon.clientOk(['job', 'cancel', id]);
});

t.test('run -t works without a daemon too, and the command ends with its job', async (t) => {
  const args = [
    'run',
    '-t',
    '--from',
    baseImagePath(),
    '--script',
    scriptFile('echo started; cat; echo over'),
    '--state-dir',
    path.join(dir, 'embedded'),
  ];
  const console = openConsole(t, args);
  await console.until('started');
  console.type('\x10\x11line\r');
  await console.until('^Pline\r\n');
  console.type('\x04');
  t.match(await console.ended, { status: 0, ...RESTORED });
  t.match(console.text(), 'over\r\n');
  t.equal((await rootlayer(['job', 'ls', '--state-dir', path.join(dir, 'embedded')])).status, 0);
});
