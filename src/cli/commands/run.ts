import { Command } from 'commander';
import type { Session } from '../../api/session.ts';
import { RootlayerError } from '../../core/errors.ts';
import type { JobId } from '../../core/ids.ts';
import type { JobRecord } from '../../core/job.ts';
import { escapeName } from '../../core/names.ts';
import { resolveBase, withProgress } from '../base-source.ts';
import { exitStatusOf } from '../exit-status.ts';
import { followJob, followLinked } from '../follow.ts';
import { listenForInterrupts } from '../interrupts.ts';
import { formatBytes, Output, print, printJson } from '../output.ts';
import type { Outcome } from '../program.ts';
import { planRun, type RunOptions, type RunPlan } from '../run-options.ts';
import type { Saved } from '../save.ts';
import { saveResult } from '../save-result.ts';
import { addSessionOptions, withSession } from '../session.ts';
import { TerminalLink } from '../terminal.ts';

const collect = (value: string, previous: string[]): string[] => [...previous, value];

export function runCommand(outcome: Outcome): Command {
  const command = new Command('run')
    .requiredOption('--from <image>', 'archive, OCI layout, name:tag or digest in the store, or "scratch"')
    .requiredOption('--script <file>', 'the script, run as root; "-" is standard input')
    .option('-o, --output <out>', 'where the result goes; "-" is standard output')
    .option('--format <format>', 'tar, tar.gz, tar.zst, dir, docker-archive, oci-archive or oci-dir (default: by the ending of OUT)')
    .option('--isolation <kind>', 'auto, userns, chroot or vm', 'auto')
    .option('--network <kind>', 'none or host', 'none')
    .option('--copy <path[:dest]>', 'put a file, or the contents of a directory, into the image first; repeatable', collect, [])
    .option('--file <path[:name]>', 'show a file to the script only; repeatable', collect, [])
    .option('--env <name=value>', 'set a variable for the script; repeatable', collect, [])
    .option('--memory <size>', 'memory limit (default: 2g)')
    .option('--cpus <number>', 'cores (default: 1)')
    .option('--pids <number>', 'process limit (default: 1024)')
    .option('--disk <size>', 'limit of what the script may write (default: 8g)')
    .option('--inodes <number>', 'limit of files it may make (default: 500000)')
    .option('--timeout <time>', 'time limit (default: 15m)')
    .option('--silence <time>', 'longest time without output (default: none)')
    .option('--output-limit <size>', 'limit of what it may print (default: 256m)')
    .option('--source-date-epoch <seconds>', 'clamp times in the layer (default: $SOURCE_DATE_EPOCH)')
    .option('--name <name:tag>', 'name of the resulting image; it is kept in the store under it')
    .option('--config <json|@file>', "merge this over the base image's config")
    .option('--select <name:tag>', 'which image of an archive that holds several')
    .option('--no-keep-image', 'remove the base image again that --from FILE brought into the store')
    .option('--detach', 'print the id of the job and leave it to the daemon')
    .option('--compat <kind>', 'none, or seed for a layer as nixpkgs dockerTools makes it', 'none')
    .option('-t, --tty', 'give the script a terminal, joined with this one; ctrl-p ctrl-q leaves it to the daemon')
    .option('--raw', "leave the script's output as it is, on a terminal too")
    .option('--json', 'print one JSON document on standard output, and the log on standard error');
  return addSessionOptions(command)
    .addHelpText(
      'after',
      `
A text that begins with "/", "./" or "../", or names a file that is there, is a path. The format follows the ending of OUT: .tar, .tar.gz or .tgz,
.tar.zst or .tzst, and a final slash for "dir"; images need --format.
Exit status: the script's own; 125 when rootlayer failed, 124 for a time limit, 137 for the memory limit, 130 when cancelled.

Example:
  rootlayer run --from debian.tar --script install.sh --copy debs/:/tmp/debs --memory 4g -o layer.tar.zst`,
    )
    .action(async (options: RunOptions) => {
      outcome.exitStatus = await run(options);
    });
}

async function run(options: RunOptions): Promise<number> {
  const plan = await planRun(options);
  return withSession(options, async (session) => {
    if (options.detach && session.kind === 'embedded') {
      throw new RootlayerError('E_USAGE', 'Cannot use --detach without a daemon: the job ends with this command', {
        hint: 'start one with "systemctl start rootlayer.socket" or "rootlayer daemon"',
      });
    }
    const keepsStdout = options.json === true || plan.output?.target.kind === 'stdout';
    const output = new Output({ keepsStdout, raw: options.raw === true || options.tty === true });
    try {
      return await runWith(session, plan, options, output);
    } finally {
      output.end();
    }
  });
}

async function runWith(session: Session, plan: RunPlan, options: RunOptions, output: Output): Promise<number> {
  const interrupts = listenForInterrupts();
  try {
    const base = await resolveBase(session, plan.source, plan.select, showProgress(output), interrupts.signal);
    const job = await session.submit({
      ...plan.request,
      from: base.ref,
      contextId: await uploadContext(session, plan, output, interrupts.signal),
    });
    if (options.detach) {
      if (options.json) printJson({ job });
      else print(job.id);
      return 0;
    }
    const link = options.tty
      ? new TerminalLink(session, job.id, { output, canDetach: session.kind === 'daemon', hasTerminal: true })
      : null;
    const ended = await waitFor(session, job, output, link, interrupts.signal);
    if (ended === null) return tellDetached(job.id, options, output);
    if (base.wasUploaded && !options.keepImage) await session.removeImage(base.ref);
    return await conclude(session, plan, options, ended, output, interrupts.signal);
  } finally {
    interrupts.stop();
  }
}

function tellDetached(id: JobId, options: RunOptions, output: Output): number {
  output.note(`rootlayer: left the job to the daemon; come back with "rootlayer job attach ${id}"`);
  if (options.output !== undefined) output.note(`rootlayer: "rootlayer job get ${id} -o ${options.output}" fetches its result`);
  if (options.json) printJson({ job: { id } });
  return 0;
}

async function uploadContext(session: Session, plan: RunPlan, output: Output, signal: AbortSignal): Promise<string | null> {
  if (plan.items.length === 0) return null;
  const { contextTar } = await import('../context-tar.ts');
  const tar = contextTar(plan.items, (name) => output.note(`rootlayer: warning: "${escapeName(name)}" is a socket and was left out`));
  return session.addContext(withProgress(tar, 'uploading files', null, showProgress(output)), signal);
}

/** The first interrupt cancels the job, and its end is still shown. Gives null when the user leaves the job's terminal. */
async function waitFor(
  session: Session,
  job: JobRecord,
  output: Output,
  link: TerminalLink | null,
  signal: AbortSignal,
): Promise<JobRecord | null> {
  const cancel = (): void => {
    output.note('rootlayer: cancelling the job; interrupt again to leave at once');
    session
      .cancelJob(job.id)
      .catch((error: unknown) => output.note(`rootlayer: ${error instanceof Error ? error.message : String(error)}`));
  };
  if (signal.aborted) cancel();
  else signal.addEventListener('abort', cancel, { once: true });
  try {
    if (link === null) return await followJob(session, job.id, output, new AbortController().signal);
    return await followLinked(session, job.id, output, link, link.left);
  } finally {
    link?.close();
    signal.removeEventListener('abort', cancel);
  }
}

async function conclude(
  session: Session,
  plan: RunPlan,
  options: RunOptions,
  job: JobRecord,
  output: Output,
  signal: AbortSignal,
): Promise<number> {
  if (job.state !== 'done') {
    reportFailure(job, options.json === true, output);
    return exitStatusOf(job);
  }
  const progress = showProgress(output);
  const saved =
    plan.output === null
      ? null
      : await saveResult(
          session,
          job.id,
          plan.output,
          (done, total) => progress({ stage: 'fetching', done, total, unit: 'bytes' }),
          signal,
        );
  if (options.json) printJson(summaryOf(job, plan, saved));
  else printSummary(job, plan, saved, output);
  return 0;
}

function reportFailure(job: JobRecord, isJson: boolean, output: Output): void {
  const { error } = job;
  if (isJson) {
    printJson({ error, job, exitStatus: exitStatusOf(job) });
    return;
  }
  output.note(`rootlayer: ${error?.message ?? `Cannot finish job ${job.id}: its state is ${job.state}`}`);
  if (error?.hint !== undefined) output.note(`rootlayer: hint: ${error.hint}`);
}

/** The one document of `--json`. */
function summaryOf(job: JobRecord, plan: RunPlan, saved: Saved | null): unknown {
  const target = plan.output?.target;
  return {
    job,
    layer: job.layer === null ? null : { ...job.layer, digest: saved?.digest ?? job.layer.diffId },
    output:
      saved === null || plan.output === null
        ? null
        : { path: target === undefined || target.kind === 'stdout' ? '-' : target.path, format: plan.output.format, ...saved },
    exitStatus: exitStatusOf(job),
  };
}

function printSummary(job: JobRecord, plan: RunPlan, saved: Saved | null, output: Output): void {
  const { layer } = job;
  if (layer !== null) {
    for (const warning of layer.warnings) output.note(`rootlayer: warning: ${warning}`);
    output.note(`digest   ${saved?.digest ?? layer.diffId}`);
    output.note(`diffID   ${layer.diffId}`);
    output.note(`tarsum   ${layer.tarsum}`);
    output.note(`size     ${formatBytes(layer.sizeBytes)} (${layer.sizeBytes} bytes)`);
    output.note(`entries  ${layer.entries}`);
  }
  if (job.imageName !== null) output.note(`image    ${job.imageName}`);
  const { output: written } = plan;
  if (written === null || saved === null || written.target.kind === 'stdout') return;
  output.note(
    `written  ${written.target.path} (${written.format}${written.wasGuessed ? ', by its ending' : ''}, ${formatBytes(saved.sizeBytes)})`,
  );
}

function showProgress(output: Output): Parameters<Session['importImage']>[2] {
  return ({ stage, done, total, unit }) => output.progress(stage, done, total, unit);
}
