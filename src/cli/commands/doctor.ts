import { existsSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { Command } from 'commander';
import { connect } from '../../api/client.ts';
import type { Feature } from '../../core/engine.ts';
import { print, printJson } from '../output.ts';
import type { Outcome } from '../program.ts';
import { addSessionOptions, DEFAULT_SOCKET, DEFAULT_STATE_DIR, type SessionOptions } from '../session.ts';

/** Something that jobs cannot do without is missing. */
const EXIT_LACKING = 1;

type DoctorOptions = SessionOptions & { json?: boolean; vm?: boolean };

export function doctorCommand(outcome: Outcome): Command {
  const command = new Command('doctor')
    .option('--json', 'print the features as JSON')
    .option('--vm', 'boot a virtual machine to find out whether KVM works, and remember it for the daemon; needs root');
  return addSessionOptions(command)
    .addHelpText(
      'after',
      `
With a daemon it shows what the daemon has, else what this process could have. Exit status: 0, or 1 when something is missing that jobs need.

Example:
  sudo rootlayer doctor`,
    )
    .action(async (options: DoctorOptions) => {
      const features = await readFeatures(options);
      if (options.json) printJson({ features });
      else for (const feature of features) print(featureLines(feature));
      outcome.exitStatus = features.some(({ ok, required }) => required && !ok) ? EXIT_LACKING : 0;
    });
}

async function readFeatures(options: DoctorOptions): Promise<Feature[]> {
  if (options.vm) return tryVm(options.stateDir ?? DEFAULT_STATE_DIR);
  const socket =
    options.socket ?? (process.env['ROOTLAYER_SOCKET'] || undefined) ?? (existsSync(DEFAULT_SOCKET) ? DEFAULT_SOCKET : undefined);
  if (socket !== undefined && options.stateDir === undefined) return connect(socket).features();
  // No engine is started: it would fail on just what the user wants to know.
  const { findFeatures } = await import('../../features.ts');
  return findFeatures(nearestExisting(options.stateDir ?? DEFAULT_STATE_DIR));
}

/** Where there is no state directory, there is nowhere to remember it. */
async function tryVm(stateDir: string): Promise<Feature[]> {
  const { tryVmFeatures } = await import('../../vm-features.ts');
  return tryVmFeatures(existsSync(stateDir) ? path.join(stateDir, 'vm') : null, new AbortController().signal);
}

function nearestExisting(dir: string): string {
  let found = path.resolve(dir);
  while (!existsSync(found)) found = path.dirname(found);
  return found;
}

function featureLines({ name, ok, required, detail, remedy }: Feature): string {
  const mark = ok ? 'ok     ' : required ? 'MISSING' : 'absent ';
  return `${mark}  ${name}: ${detail}${remedy === null ? '' : `\n         ${remedy}`}`;
}
