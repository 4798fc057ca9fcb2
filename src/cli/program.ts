import process from 'node:process';
import { inspect } from 'node:util';
import { Command, CommanderError } from 'commander';
import { readVersion } from '../api/version.ts';
import { RootlayerError, toRootlayerError } from '../core/errors.ts';
import { EXIT_CANCELLED, EXIT_FAILURE } from './exit-status.ts';
import { ignoreBrokenPipes, whenFlushed } from './output.ts';
import { printable } from './printable.ts';

/** What a command gets besides its options: where to leave its exit status, and which one its errors have. */
export type Outcome = { exitStatus: number; statusOf: (error: RootlayerError) => number };

type Entry = { says: string; load: (outcome: Outcome) => Promise<Command> };

/** Only the command that is asked for is loaded: a client must start fast. */
const COMMANDS: Record<string, Entry> = {
  run: {
    says: 'run a script on a base image and get the layer',
    load: async (outcome) => (await import('./commands/run.ts')).runCommand(outcome),
  },
  build: {
    says: 'make an image by a recipe',
    load: async (outcome) => (await import('./commands/build.ts')).buildCommand(outcome),
  },
  image: {
    says: 'import, pull, merge, list, inspect, export and remove images',
    load: async () => (await import('./commands/image.ts')).imageCommand(),
  },
  job: {
    says: 'list, show, follow, fetch, cancel and remove jobs',
    load: async (outcome) => (await import('./commands/job.ts')).jobCommand(outcome),
  },
  layer: { says: 'look into a layer file', load: async () => (await import('./commands/layer.ts')).layerCommand() },
  bundle: {
    says: 'make an OCI runtime bundle, which runc and others run',
    load: async () => (await import('./commands/bundle.ts')).bundleCommand(),
  },
  vm: { says: 'make what virtual machines boot from', load: async () => (await import('./commands/vm.ts')).vmCommand() },
  doctor: {
    says: 'check what this machine offers',
    load: async (outcome) => (await import('./commands/doctor.ts')).doctorCommand(outcome),
  },
  daemon: {
    says: 'serve the API on a Unix socket',
    load: async (outcome) => (await import('./commands/daemon.ts')).daemonCommand(outcome),
  },
};

/** Runs the command line and gives its exit status. Whatever goes wrong is said in one or two lines, or as JSON with `--json`. */
export async function main(args: string[]): Promise<number> {
  ignoreBrokenPipes();
  const status = await runProgram(args);
  await whenFlushed();
  return status;
}

async function runProgram(args: string[]): Promise<number> {
  const outcome: Outcome = { exitStatus: 0, statusOf: ({ code }) => (code === 'E_CANCELLED' ? EXIT_CANCELLED : EXIT_FAILURE) };
  try {
    const program = await buildProgram(args, outcome);
    await program.parseAsync(args, { from: 'user' });
    return outcome.exitStatus;
  } catch (error) {
    if (!(error instanceof CommanderError)) return report(toRootlayerError(error), args, outcome);
    // Help and version are printed already.
    if (error.exitCode === 0) return 0;
    if (error.code === 'commander.help') return EXIT_FAILURE;
    return report(new RootlayerError('E_USAGE', sentence(error.message), { hint: helpHint(args) }), args, outcome);
  }
}

async function buildProgram(args: string[], outcome: Outcome): Promise<Command> {
  const program = new Command('rootlayer')
    .description('Run a script as root on top of a container image, without giving anyone root, and get back what changed, as one layer.')
    .version(`rootlayer ${readVersion()}`, '-V, --version', 'print the version')
    .addHelpText('after', '\nExample:\n  rootlayer run --from debian.tar --script install.sh -o layer.tar');
  const wanted = args.find((arg) => !arg.startsWith('-'));
  for (const [name, { says, load }] of Object.entries(COMMANDS)) {
    program.addCommand((name === wanted ? await load(outcome) : new Command(name)).description(says));
  }
  if (wanted === 'help') for (const command of program.commands) command.helpInformation();
  overrideExit(program);
  return program;
}

/** A command throws where commander would end the process, and its errors are printed here. */
function overrideExit(command: Command): void {
  command.exitOverride().configureOutput({ outputError: () => {} });
  for (const child of command.commands) overrideExit(child);
}

function report(error: RootlayerError, args: string[], outcome: Outcome): number {
  if (wantsJson(args)) process.stdout.write(`${JSON.stringify({ error: error.toBody() })}\n`);
  else {
    process.stderr.write(`rootlayer: ${printable(error.message)}\n`);
    if (error.hint !== undefined) process.stderr.write(`rootlayer: hint: ${printable(error.hint)}\n`);
  }
  if (process.env['ROOTLAYER_DEBUG'] === '1') process.stderr.write(`${inspect(error)}\n`);
  return outcome.statusOf(error);
}

function wantsJson(args: string[]): boolean {
  const end = args.indexOf('--');
  return (end < 0 ? args : args.slice(0, end)).includes('--json');
}

/** commander says `error: unknown option '--x'`. */
function sentence(message: string): string {
  const text = message.replace(/^error: /, '');
  return `Cannot read command line: ${text.replaceAll("'", '"')}`;
}

function helpHint(args: string[]): string {
  const name = args.find((arg) => Object.hasOwn(COMMANDS, arg));
  return `"rootlayer ${name === undefined ? '' : `${name} `}--help" lists what there is`;
}
