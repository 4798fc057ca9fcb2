import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import t from 'tap';
import { closeTestEngine, openTestEngine, type Ran } from '../../helpers/engine.ts';
import { requires } from '../../helpers/requires.ts';
import { until } from '../../helpers/until.ts';

const IN_A_ROW = 50;
const AT_ONCE = 8;
const MIB = 1024 * 1024;
/** What fifty jobs may leave in this process's memory: far less than one of fifty machines' buffers would. */
const GROWTH_BYTES = 64 * MIB;

requires(t, 'qemu-system-x86_64', 'vm-kernel');
const env = await openTestEngine(t, { queue: { running: AT_ONCE, runningPerUid: AT_ONCE } });
if (env !== null) {
  const small = { isolation: 'vm', limits: { memoryBytes: 256 * MIB } };
  const job = async (text: string): Promise<Ran> => await env.run({ ...small, script: `echo ${text}; echo ${text} > /srv/${text}` });

  t.test(
    '50 restored jobs in a row, beside a process that wants every processor, lose and leave nothing',
    { timeout: 600_000 },
    async (t) => {
      t.equal((await job('first')).job.state, 'done', 'the state is saved');
      t.teardown(startHogs());
      const fds = countFds();
      const before = process.memoryUsage().rss;
      for (let n = 0; n < IN_A_ROW; n++) {
        const { job: record, stdout } = await job(`n${n}`);
        t.same({ state: record.state, stdout, error: record.error }, { state: 'done', stdout: `n${n}\n`, error: null });
        // Only a guest that boots says that it is ready.
        t.notOk('vm-answer' in record.timingsMs, 'it was restored');
      }
      await until('the descriptors of the last job to be closed', () => countFds() <= fds);
      t.ok(process.memoryUsage().rss < before + GROWTH_BYTES);
    },
  );

  t.test('8 restored jobs at once, beside a process that wants every processor, all end well', { timeout: 300_000 }, async (t) => {
    t.teardown(startHogs());
    const ran = await Promise.all(Array.from({ length: AT_ONCE }, (_job, n) => job(`at${n}`)));
    for (const [n, { job: record, stdout }] of ran.entries()) {
      t.same({ state: record.state, stdout, error: record.error }, { state: 'done', stdout: `at${n}\n`, error: null });
    }
  });

  closeTestEngine(t, env);
}

function countFds(): number {
  return readdirSync('/proc/self/fd').length;
}

/** One busy loop for each processor; gives what ends them. */
function startHogs(): () => Promise<void> {
  const hogs = Array.from({ length: availableParallelism() }, () => spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' }));
  return async () => {
    const ended = hogs.map((hog) => new Promise((resolve) => hog.once('exit', resolve)));
    for (const hog of hogs) hog.kill('SIGKILL');
    await Promise.all(ended);
  };
}
