import { createWriteStream } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { Command } from 'commander';
import { RootlayerError } from '../../core/errors.ts';
import { Scope } from '../../core/scope.ts';
import type { BuildContainerArgs } from '../../recipe/oci-runtime/args.ts';
import { parseBaseSource } from '../base-source.ts';
import { type BundleOptions, containerArgs } from '../bundle-options.ts';
import { listenForInterrupts } from '../interrupts.ts';
import { Output, printJson } from '../output.ts';
import { directoryTarget } from '../output-plan.ts';
import { saveDirectory } from '../save.ts';
import { addSessionOptions, type SessionOptions, withSession } from '../session.ts';

type Options = SessionOptions & BundleOptions & { output: string; from?: string; json?: boolean };

const collect = (value: string, previous: string[]): string[] => [...previous, value];

export function bundleCommand(): Command {
  const command = new Command('bundle')
    .argument('[args...]', 'program and arguments of the container, behind "--" (default: those of the image)')
    .requiredOption('-o, --output <dir>', 'where the bundle goes: a directory that is not there yet, or empty')
    .option('--from <image>', 'root file system: the path of an archive or OCI layout, or an image of the store')
    .option('--select <name:tag>', 'which image of an archive that holds several')
    .option('--closure <path>', 'put this path of the store in, with all it refers to; repeatable', collect, [])
    .option('--references <file>', 'what refers to what: JSON as "nix path-info --json --recursive" prints it')
    .option('--store-dir <dir>', 'where the store is in the container (default: /nix/store)')
    .option('--store-root <dir>', 'directory below which the store lies on this machine')
    .option('--mount <mount>', 'type=bind,source=PATH,destination=PATH,options=ro:nosuid; repeatable', collect, [])
    .option('--unmount <path>', 'leave out what is mounted there by default; repeatable', collect, [])
    .option('--readonly', 'the root file system cannot be written to')
    .option('--env <name=value>', 'set a variable; repeatable', collect, [])
    .option('--cwd <dir>', 'working directory')
    .option('--user <user>', 'user, user:group, or numbers')
    .option('--hostname <name>', 'host name')
    .option('--terminal', 'the program gets a terminal')
    .option('--cap <name>', 'leave the program this capability, such as CAP_CHOWN; repeatable', collect, [])
    .option('--userns', 'with a user namespace; as root, name ids by the next two')
    .option('--uid-map <container:host:size>', 'user ids of the user namespace; repeatable', collect, [])
    .option('--gid-map <container:host:size>', 'group ids, likewise', collect, [])
    .option('--os <os>', 'for the annotations (default: linux)')
    .option('--arch <arch>', "likewise (default: the image's, else this machine's)")
    .option('--compat <seed>', 'config.json with the bytes that ociTools would give')
    .option('--json', 'print the result as JSON');
  return addSessionOptions(command)
    .addHelpText(
      'after',
      '\nExample:\n  rootlayer bundle --from debian.tar -o bundle/ -- /bin/bash -c "echo hello"\n  runc run --bundle bundle/ hello',
    )
    .action(bundle);
}

async function bundle(words: string[], options: Options): Promise<void> {
  const target = directoryTarget(options.output);
  if (target.kind !== 'directory') throw new RootlayerError('E_INTERNAL', 'Cannot write a bundle there');
  const interrupts = listenForInterrupts();
  const output = new Output({ keepsStdout: true, raw: false });
  try {
    await using scope = new Scope();
    const fromImage = options.from === undefined ? null : await imageFile(options.from, options, scope, interrupts.signal);
    await write({ ...containerArgs(words, options), fromImage }, target.path, {
      signal: interrupts.signal,
      note: (line) => output.note(line),
    });
    if (options.json) printJson({ bundle: target.path });
    else output.note(`written  ${options.output} (an OCI runtime bundle)`);
  } finally {
    output.end();
    interrupts.stop();
  }
}

type Work = { readonly signal: AbortSignal; readonly note: (line: string) => void };

async function write(args: BuildContainerArgs, dir: string, work: Work): Promise<void> {
  const [{ buildContainer }, { writeBundle }] = await loadBundle();
  await using made = await buildContainer(args, work);
  await saveDirectory(dir, async (draft) => await writeBundle(made, draft, work));
}

/** NOTE: tsc 6.0 leaves the ending of a dynamic import as it is in a function with `await using`. */
function loadBundle(): Promise<[typeof import('../../recipe/oci-runtime/bundle.ts'), typeof import('../../recipe/oci-runtime/write.ts')]> {
  return Promise.all([import('../../recipe/oci-runtime/bundle.ts'), import('../../recipe/oci-runtime/write.ts')]);
}

/** Gives an image as a file: one of the store is fetched into a directory that goes with the scope. */
async function imageFile(from: string, options: SessionOptions, scope: Scope, signal: AbortSignal): Promise<string> {
  const source = parseBaseSource(from);
  if (source.kind !== 'stored') return source.path;
  if (source.ref === 'scratch')
    throw new RootlayerError('E_USAGE', 'Cannot use --from "scratch": leave it out for an empty root file system');
  const dir = await mkdtemp(path.join(tmpdir(), 'rootlayer-bundle-'));
  scope.defer(() => rm(dir, { recursive: true, force: true }));
  const file = path.join(dir, 'image.tar');
  await withSession(options, async (session) => {
    const fetched = await session.exportImage(source.ref, 'docker-archive', signal);
    await pipeline(fetched.stream, createWriteStream(file, { flags: 'wx', mode: 0o600 }), { signal });
    await fetched.digest;
  });
  return file;
}
