import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import type { Session } from '../../api/session.ts';
import { type JobId, parseJobId } from '../../core/ids.ts';
import type { JobRecord } from '../../core/job.ts';
import { EXIT_CANCELLED, exitStatusOf } from '../exit-status.ts';
import { followJob, followLinked, show } from '../follow.ts';
import { listenForInterrupts } from '../interrupts.ts';
import { formatBytes, formatTable, Output, print, printJson, whenDrained } from '../output.ts';
import { planResult } from '../output-plan.ts';
import type { Outcome } from '../program.ts';
import { saveResult } from '../save-result.ts';
import { addSessionOptions, type SessionOptions, withSession } from '../session.ts';
import { requireTerminal, TerminalLink } from '../terminal.ts';

type JsonOption = SessionOptions & { json?: boolean };
type LogsOptions = SessionOptions & { follow?: boolean; raw?: boolean };
type AttachOptions = SessionOptions & { replay: boolean };
type GetOptions = SessionOptions & { output: string; format?: string; json?: boolean };

export function jobCommand(outcome: Outcome): Command {
  return new Command('job')
    .addCommand(lsCommand())
    .addCommand(showCommand())
    .addCommand(logsCommand(outcome))
    .addCommand(attachCommand(outcome))
    .addCommand(getCommand())
    .addCommand(cancelCommand())
    .addCommand(rmCommand())
    .addHelpText('after', '\nExample:\n  rootlayer job logs -f $(rootlayer run --detach --from debian:bookworm --script build.sh)');
}

function lsCommand(): Command {
  const command = new Command('ls').description('list your jobs').option('--json', 'print the jobs as JSON');
  return addSessionOptions(command)
    .addHelpText('after', '\nExample:\n  rootlayer job ls')
    .action(async (options: JsonOption) => {
      const jobs = await withSession(options, (session) => session.listJobs());
      if (options.json) printJson({ jobs });
      else print(formatTable([['ID', 'STATE', 'FROM', 'CREATED', 'RESULT'], ...jobs.map(jobRow)]));
    });
}

function jobRow(job: JobRecord): string[] {
  const result = job.layer === null ? (job.error?.code ?? '-') : `${formatBytes(job.layer.sizeBytes)}, ${job.layer.entries} entries`;
  return [job.id, job.state, job.from, job.createdAt, result];
}

function showCommand(): Command {
  const command = new Command('show').description('show a job as JSON').argument('<id>', 'id of the job').option('--json');
  return addSessionOptions(command)
    .addHelpText('after', '\nExample:\n  rootlayer job show 0123456789abcdef0123456789abcdef')
    .action(async (id: string, options: SessionOptions) =>
      printJson(await withSession(options, (session) => session.getJob(parseJobId(id)))),
    );
}

function logsCommand(outcome: Outcome): Command {
  const command = new Command('logs')
    .description('print what the script printed, to standard output and standard error as it did')
    .argument('<id>', 'id of the job')
    .option('-f, --follow', 'go on until the job ends, and end with its exit status')
    .option('--raw', 'leave the output as it is, on a terminal too');
  return addSessionOptions(command)
    .addHelpText('after', '\nExample:\n  rootlayer job logs -f 0123456789abcdef0123456789abcdef')
    .action(async (id: string, options: LogsOptions) => {
      outcome.exitStatus = await printLog(id, options);
    });
}

/** An interrupt ends the command, not the job. */
async function printLog(id: string, options: LogsOptions): Promise<number> {
  const output = new Output({ keepsStdout: false, raw: options.raw === true });
  const { signal } = new AbortController();
  return withSession(options, async (session) => {
    if (options.follow) {
      const job = await followJob(session, parseJobId(id), output, signal);
      output.end();
      if (job.error !== null) output.note(`rootlayer: ${job.error.message}`);
      return exitStatusOf(job);
    }
    for await (const event of session.events(parseJobId(id), 1, false, signal)) {
      if (event.type === 'log') show(event, output);
      await whenDrained();
    }
    return 0;
  });
}

function attachCommand(outcome: Outcome): Command {
  const command = new Command('attach')
    .description("join this terminal with a job's: show what it printed so far, then type at it; ctrl-p ctrl-q leaves")
    .argument('<id>', 'id of the job')
    .option('--no-replay', 'leave out what it printed so far');
  return addSessionOptions(command)
    .addHelpText('after', '\nExample:\n  rootlayer job attach 0123456789abcdef0123456789abcdef')
    .action(async (id: string, options: AttachOptions) => {
      outcome.exitStatus = await attach(parseJobId(id), options);
    });
}

/** A terminal answers questions that a log asks (which kind it is, where its cursor is) within this time. */
const ANSWER_MS = 100;

/** An interrupt ends the command, not the job. */
async function attach(id: JobId, options: AttachOptions): Promise<number> {
  requireTerminal('job attach');
  const output = new Output({ keepsStdout: false, raw: true });
  const interrupts = listenForInterrupts();
  try {
    return await withSession(options, async (session) => {
      const link = new TerminalLink(session, id, { output, canDetach: true, hasTerminal: false });
      const signal = AbortSignal.any([interrupts.signal, link.left]);
      const job = await followAttached(session, id, options, { output, link, signal });
      output.end();
      if (job === null) output.note(`rootlayer: left the job to the daemon; come back with "rootlayer job attach ${id}"`);
      else if (job.error !== null) output.note(`rootlayer: ${job.error.message}`);
      if (job !== null) return exitStatusOf(job);
      return interrupts.signal.aborted ? EXIT_CANCELLED : 0;
    });
  } finally {
    interrupts.stop();
  }
}

type Attached = { output: Output; link: TerminalLink; signal: AbortSignal };

/** What was printed before is shown with the terminal muted, so that its answers do not reach the script. */
async function followAttached(
  session: Session,
  id: JobId,
  { replay }: AttachOptions,
  { output, link, signal }: Attached,
): Promise<JobRecord | null> {
  try {
    const isRunning = (await session.getJob(id)).state === 'running';
    if (isRunning) {
      link.mute();
      await link.open();
    }
    let from = 1;
    for await (const event of session.events(id, 1, false, signal)) {
      from = event.n + 1;
      if (!isRunning) await link.watch(event);
      if (replay) show(event, output);
      await whenDrained();
    }
    if (isRunning) {
      if (replay) await sleep(ANSWER_MS, undefined, { signal });
      else await link.redraw();
      link.unmute();
    }
    return await followLinked(session, id, output, link, signal, from);
  } catch (error) {
    if (signal.aborted) return null;
    throw error;
  } finally {
    link.close();
  }
}

function getCommand(): Command {
  const command = new Command('get')
    .description('fetch the layer or image that a job made')
    .argument('<id>', 'id of the job')
    .requiredOption('-o, --output <out>', 'where the result goes; "-" is standard output')
    .option('--format <format>', 'tar, tar.gz, tar.zst, dir, docker-archive, oci-archive or oci-dir (default: by the ending of OUT)')
    .option('--json', 'print digest and size as JSON');
  return addSessionOptions(command)
    .addHelpText('after', '\nExample:\n  rootlayer job get 0123456789abcdef0123456789abcdef --format oci-dir -o image/')
    .action(getResult);
}

async function getResult(id: string, options: GetOptions): Promise<void> {
  const plan = planResult(options.output, options.format);
  const interrupts = listenForInterrupts();
  const output = new Output({ keepsStdout: true, raw: false });
  try {
    const onBytes = (done: number, total: number | null): void => output.progress('fetching', done, total, 'bytes');
    const saved = await withSession(options, (session) => saveResult(session, parseJobId(id), plan, onBytes, interrupts.signal));
    if (options.json && plan.target.kind !== 'stdout') printJson({ format: plan.format, ...saved });
    else output.note(`written  ${options.output} (${plan.format}, ${formatBytes(saved.sizeBytes)}, ${saved.digest})`);
  } finally {
    output.end();
    interrupts.stop();
  }
}

function cancelCommand(): Command {
  const command = new Command('cancel')
    .description('end a job')
    .argument('<id>', 'id of the job')
    .option('--json', 'print the job as JSON');
  return addSessionOptions(command)
    .addHelpText('after', '\nExample:\n  rootlayer job cancel 0123456789abcdef0123456789abcdef')
    .action(async (id: string, options: JsonOption) => {
      const job = await withSession(options, (session) => session.cancelJob(parseJobId(id)));
      if (options.json) printJson(job);
      else print(job.state);
    });
}

function rmCommand(): Command {
  const command = new Command('rm')
    .description('remove jobs that have ended, with their logs and layers')
    .argument('<id...>', 'ids of jobs')
    .option('--json');
  return addSessionOptions(command)
    .addHelpText('after', '\nExample:\n  rootlayer job rm 0123456789abcdef0123456789abcdef')
    .action(async (ids: string[], options: JsonOption) => {
      await withSession(options, async (session) => {
        for (const id of ids) await session.removeJob(parseJobId(id));
      });
      if (options.json) printJson({ removed: ids });
    });
}
