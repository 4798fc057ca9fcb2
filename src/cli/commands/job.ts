import { Command } from 'commander';
import { parseJobId } from '../../core/ids.ts';
import type { JobRecord } from '../../core/job.ts';
import { exitStatusOf } from '../exit-status.ts';
import { followJob, show } from '../follow.ts';
import { listenForInterrupts } from '../interrupts.ts';
import { formatBytes, formatTable, Output, print, printJson, whenDrained } from '../output.ts';
import { planResult } from '../output-plan.ts';
import type { Outcome } from '../program.ts';
import { saveResult } from '../save-result.ts';
import { addSessionOptions, type SessionOptions, withSession } from '../session.ts';

type JsonOption = SessionOptions & { json?: boolean };
type LogsOptions = SessionOptions & { follow?: boolean; raw?: boolean };
type GetOptions = SessionOptions & { output: string; format?: string; json?: boolean };

export function jobCommand(outcome: Outcome): Command {
  return new Command('job')
    .addCommand(lsCommand())
    .addCommand(showCommand())
    .addCommand(logsCommand(outcome))
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
