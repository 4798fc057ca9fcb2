import type { Test } from 'tap';
import type { Isolation, JobEvent, JobRecord } from '../../src/core/job.ts';
import { type Ran, ROOT, type TestEngine } from '../helpers/engine.ts';

const SIZE = { rows: 30, columns: 100 };
const WAIT_MS = 20_000;
/** Says that it is ready only once signals of the terminal reach it. */
const FOREGROUND = "sh -c 'echo ready; exec sleep 1000'";

/** A job with a terminal, and what came out of it so far. */
type Screen = {
  job: JobRecord;
  text(): string;
  /** Waits until the output has the text, from where the last wait ended. */
  until(text: string): Promise<void>;
  type(text: string | Buffer): Promise<void>;
  ended(): Promise<Ran>;
};

/** What a job's terminal must do in every isolation. */
export function terminalBehaviour(t: Test, env: TestEngine, isolation: Isolation): void {
  const run = (script: string, over: Record<string, unknown> = {}): Promise<Ran> =>
    env.run({ script, isolation, terminal: SIZE, env: { TERM: 'dumb' }, ...over });
  const open = (script: string, over: Record<string, unknown> = {}): Screen =>
    openScreen(env, env.submit({ script, isolation, terminal: SIZE, env: { TERM: 'dumb' }, ...over }));

  t.test('terminal: all three streams are one, of the size that was asked for, and the controlling one', async (t) => {
    const script =
      'tty; stty size; test -t 0 -a -t 1 -a -t 2; echo err >&2; echo named >/dev/stdout; echo own >/dev/tty; stat -c "%u %a" "$(tty)"';
    const { job, stdout, stderr } = await run(script);
    t.equal(job.state, 'done', JSON.stringify(job.error));
    t.same([stdout, stderr], ['/dev/pts/0\r\n30 100\r\nerr\r\nnamed\r\nown\r\n0 620\r\n', '']);
    t.match(job.layer, { entries: 0 });
  });

  t.test('terminal: the script has no end of it but its own, and cannot type at it by itself', async (t) => {
    const type = `perl -e 'my $x = "x"; print ioctl(STDIN, 0x5412, $x) ? "typed" : "refused", "\n"'`;
    const { job, stdout } = await run(
      `ls -l /proc/[0-9]*/fd >/tmp/fds 2>/dev/null; grep -c pts/0 /tmp/fds; grep -c ptmx /tmp/fds || true; ${type}`,
    );
    t.equal(job.state, 'done', JSON.stringify(job.error));
    const [own, near, typed] = stdout.split('\r\n');
    t.ok(Number(own) >= 3, `${own}`);
    t.equal(near, '0');
    if (isolation === 'userns') t.equal(typed, 'refused');
  });

  t.test('terminal: what is typed is echoed and read, byte by byte in its order', async (t) => {
    const screen = open('echo ready; read -r line; echo "got <$line>"; stty raw -echo; echo raw; head -c 300 | cksum');
    await screen.until('ready\r\n');
    for (const char of 'one t\u00f6\x7f\x7fwo\n') await screen.type(char);
    await screen.until('got <one wo>\r\n');
    t.match(screen.text(), 'ready\r\none t\u00f6', 'the echo');
    await screen.until('raw');
    const bytes = Buffer.from(Array.from({ length: 300 }, (_, at) => at % 256));
    for (let at = 0; at < bytes.length; at += 37) await screen.type(bytes.subarray(at, at + 37));
    const { job, stdout } = await screen.ended();
    t.equal(job.state, 'done', JSON.stringify(job.error));
    t.match(stdout, new RegExp(`\\n${cksum(bytes)} 300\\s*$`));
  });

  t.test('terminal: a new size arrives with SIGWINCH', async (t) => {
    const screen = open('trap "stty size; exit 0" WINCH; echo ready; while :; do sleep 0.1; done', { limits: { timeMs: WAIT_MS } });
    await screen.until('ready');
    await env.engine.resizeTerminal(ROOT, screen.job.id, { rows: 51, columns: 213 });
    const { job, stdout } = await screen.ended();
    t.equal(job.state, 'done', JSON.stringify(job.error));
    t.match(stdout, '51 213');
  });

  t.test('terminal: ^C interrupts the program in the foreground', async (t) => {
    const screen = open(`${FOREGROUND}; echo after`);
    await screen.until('ready');
    await screen.type('\x03');
    const { job, stdout } = await screen.ended();
    t.equal(stdout.replace(/\s+$/, ''), 'ready\r\n^C');
    t.match(job, { state: 'failed', exitStatus: 130, error: { code: 'E_SCRIPT' } }, 'and the script with it, which did not expect it');
    const trapped = open(`trap "echo trapped" INT; ${FOREGROUND} || true; echo after`);
    await trapped.until('ready');
    await trapped.type('\x03');
    const expected = await trapped.ended();
    t.equal(expected.job.state, 'done', JSON.stringify(expected.job.error));
    t.match(expected.stdout, /trapped\r\nafter/);
  });

  t.test('terminal: the end of input ends what reads, and there is nothing behind it', async (t) => {
    const screen = open('echo ready; cat; echo over; sleep 1000');
    await screen.until('ready\r\n');
    await screen.type('last\n');
    await screen.type(Buffer.alloc(0));
    await screen.until('over');
    await t.rejects(screen.type('more'), { code: 'E_CONFLICT' });
    await env.engine.cancelJob(ROOT, screen.job.id);
    t.match(screen.text(), 'last\r\nlast\r\n');
  });

  t.test('terminal: job control works in an interactive shell', async (t) => {
    const screen = open('bash --norc -i || echo "left with $?"');
    await screen.until('# ');
    await screen.type(`${FOREGROUND}\n`);
    await screen.until('\nready\r\n');
    await screen.type('\x1a');
    await screen.until('Stopped');
    await screen.type('bg; jobs; kill %1; wait; echo "none is left"; exit 3\n');
    const { job, stdout } = await screen.ended();
    t.match(stdout, /\[1\]\+ .*exec sleep 1000' &/);
    t.match(stdout, /Running +sh -c/);
    t.match(stdout, 'left with 3');
    t.notMatch(stdout, /no job control|cannot set terminal/);
    t.equal(job.state, 'done', JSON.stringify(job.error));
  });

  t.test('terminal: a script may close it and open it again', async (t) => {
    const { job, stdout } = await run('name=$(tty); echo a; exec </dev/null >/dev/null 2>&1; sleep 0.3; exec >$name; echo b');
    t.equal(job.state, 'done', JSON.stringify(job.error));
    t.equal(stdout, 'a\r\nb\r\n');
  });

  t.test('terminal: output of any length arrives whole, and the last of it too', async (t) => {
    const { job, stdout } = await run('stty -opost; seq 200000');
    t.equal(job.state, 'done', JSON.stringify(job.error));
    const lines = stdout.split('\n');
    t.same([lines.length, lines[0], lines.at(-2), lines.at(-1)], [200_001, '1', '200000', '']);
  });

  t.test('terminal: the limits of time, silence and output hold', async (t) => {
    t.match((await run('sleep 1000', { limits: { timeMs: 700 } })).job, { error: { code: 'E_LIMIT_TIME' } });
    t.match((await run('read -r line', { limits: { silenceMs: 400 } })).job, { error: { code: 'E_LIMIT_SILENCE' } });
    const { job, stdout } = await run('yes', { limits: { outputBytes: 200_000 } });
    t.match(job, { error: { code: 'E_LIMIT_OUTPUT' }, endedByLimit: { limit: 'output', value: 200_000 } });
    t.ok(stdout.length < 4 * 1024 * 1024, 'the log stays small');
  });

  t.test('terminal: what a script does not read is refused beyond a bound', async (t) => {
    const screen = open('stty raw -echo; echo ready; sleep 1000');
    await screen.until('ready');
    const piece = Buffer.alloc(64 * 1024, 'x');
    const flood = async (): Promise<void> => {
      for (let at = 0; at < 64; at++) await screen.type(piece);
    };
    await t.rejects(flood(), { code: 'E_BUSY', message: /has not read \d+ bytes/ });
    const cancelled = await env.engine.cancelJob(ROOT, screen.job.id);
    t.match(cancelled, { state: 'cancelled' }, 'and the job can still be cancelled');
  });

  t.test('terminal: what is left at the end gets no say, and the job ends with its script', async (t) => {
    const { job } = await run('(trap "" HUP TERM; sleep 1000) & disown; setsid sleep 1000 & echo out');
    t.equal(job.state, 'done', JSON.stringify(job.error));
  });

  t.test('terminal: it is refused where there is none, before the start, after the end, and to others', async (t) => {
    const plain = env.submit({ script: 'echo up; sleep 1000', isolation });
    for await (const event of follow(env, plain)) if (event.type === 'log') break;
    await t.rejects(env.engine.sendInput(ROOT, plain.id, Buffer.from('x')), { code: 'E_CONFLICT', message: /the job has none/ });
    await t.rejects(env.engine.resizeTerminal(ROOT, plain.id, SIZE), { code: 'E_CONFLICT', message: /the job has none/ });
    await env.engine.cancelJob(ROOT, plain.id);
    const screen = open('echo up; sleep 1000');
    await t.rejects(screen.type('x'), { code: 'E_CONFLICT', message: /the job is (queued|preparing), want running/ });
    await screen.until('up');
    await t.rejects(env.engine.sendInput({ uid: 4242 }, screen.job.id, Buffer.from('x')), { code: 'E_NOT_FOUND' });
    await t.rejects(env.engine.resizeTerminal({ uid: 4242 }, screen.job.id, SIZE), { code: 'E_NOT_FOUND' });
    await env.engine.cancelJob(ROOT, screen.job.id);
    await t.rejects(screen.type('x'), { code: 'E_CONFLICT', message: /the job is cancelled, want running/ });
  });
}

function openScreen(env: TestEngine, job: JobRecord): Screen {
  let text = '';
  let seen = 0;
  const waiting = new Set<() => void>();
  const ended = (async (): Promise<Ran> => {
    const ran: Ran = { job, stdout: '', stderr: '', events: [] };
    for await (const event of follow(env, job)) {
      ran.events.push(event);
      if (event.type === 'log') text += Buffer.from(event.data, event.encoding ?? 'utf8').toString('utf8');
      if (event.type === 'end') ran.job = event.job;
      for (const wake of waiting) wake();
    }
    ran.stdout = text;
    return ran;
  })();
  return {
    job,
    text: () => text,
    until: async (wanted) => {
      const deadline = performance.now() + WAIT_MS;
      while (!text.includes(wanted, seen)) {
        if (performance.now() > deadline)
          throw new Error(`waited in vain for ${JSON.stringify(wanted)} in ${JSON.stringify(text.slice(seen))}`);
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, 100);
          waiting.add(() => {
            clearTimeout(timer);
            resolve();
          });
        });
        waiting.clear();
      }
      seen = text.indexOf(wanted, seen) + wanted.length;
    },
    type: (typed) => env.engine.sendInput(ROOT, job.id, Buffer.from(typed)),
    ended: () => ended,
  };
}

function follow(env: TestEngine, job: JobRecord): AsyncIterable<JobEvent> {
  return env.engine.events(ROOT, job.id, 1, true, AbortSignal.timeout(60_000));
}

/** What cksum(1) prints for bytes. */
function cksum(bytes: Buffer): number {
  let crc = 0;
  const take = (byte: number): void => {
    crc ^= byte << 24;
    for (let bit = 0; bit < 8; bit++) crc = crc < 0 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
  };
  for (const byte of bytes) take(byte);
  for (let length = bytes.length; length > 0; length >>>= 8) take(length & 0xff);
  return ~crc >>> 0;
}
