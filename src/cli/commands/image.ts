import process from 'node:process';
import { Command } from 'commander';
import { RootlayerError } from '../../core/errors.ts';
import type { ImageRecord } from '../../core/image.ts';
import { openSource, parseBaseSource, sizeOf, withProgress } from '../base-source.ts';
import { listenForInterrupts } from '../interrupts.ts';
import { formatBytes, formatTable, Output, print, printJson } from '../output.ts';
import { planExport } from '../output-plan.ts';
import { saveImage } from '../save-result.ts';
import { addSessionOptions, type SessionOptions, withSession } from '../session.ts';
import { exportRootfs, mergeCommand, pullCommand } from './image-files.ts';

type ImportOptions = SessionOptions & { name?: string; select?: string; shared?: boolean; json?: boolean };
type ExportOptions = SessionOptions & { output: string; format: string; compat?: string; json?: boolean };
type JsonOption = SessionOptions & { json?: boolean };

export function imageCommand(): Command {
  return new Command('image')
    .addCommand(importCommand())
    .addCommand(lsCommand())
    .addCommand(inspectCommand())
    .addCommand(exportCommand())
    .addCommand(mergeCommand())
    .addCommand(pullCommand())
    .addCommand(rmCommand())
    .addHelpText('after', '\nExample:\n  rootlayer image import --name debian:bookworm debian.tar');
}

function importCommand(): Command {
  const command = new Command('import')
    .description('bring a docker-archive or an OCI layout into the store')
    .argument('<archive>', 'file, OCI layout directory, or "-" for standard input')
    .option('--name <name:tag>', 'store it under this name instead of those in the archive')
    .option('--select <name:tag>', 'which image of an archive that holds several')
    .option('--shared', 'let every user of the daemon use it; only root may')
    .option('--json', 'print the image as JSON');
  return addSessionOptions(command)
    .addHelpText('after', '\nExample:\n  rootlayer image import --name debian:bookworm debian.tar')
    .action(importImage);
}

async function importImage(archive: string, options: ImportOptions): Promise<void> {
  const interrupts = listenForInterrupts();
  const output = new Output({ keepsStdout: false, raw: false });
  const onProgress: Parameters<typeof withProgress>[3] = ({ stage, done, total, unit }) => output.progress(stage, done, total, unit);
  try {
    const stream = archive === '-' ? process.stdin : await openArchive(archive, onProgress);
    const choice = { name: options.name ?? null, select: options.select ?? null, shared: options.shared === true };
    const image = await withSession(options, (session) => session.importImage(stream, choice, onProgress, interrupts.signal));
    output.end();
    if (options.json) printJson(image);
    else print(`${image.id}${image.names.length === 0 ? '' : `  ${image.names.join(' ')}`}`);
  } finally {
    output.end();
    interrupts.stop();
  }
}

async function openArchive(archive: string, onProgress: Parameters<typeof withProgress>[3]): ReturnType<typeof openSource> {
  const source = parseBaseSource(archive);
  if (source.kind === 'stored')
    throw new RootlayerError('E_USAGE', `Cannot import ${JSON.stringify(archive)}: there is no such file or OCI layout`);
  return withProgress(await openSource(source), 'uploading', sizeOf(source), onProgress);
}

function lsCommand(): Command {
  const command = new Command('ls').description('list images').option('--json', 'print the images as JSON');
  return addSessionOptions(command)
    .addHelpText('after', '\nExample:\n  rootlayer image ls --json')
    .action(async (options: JsonOption) => {
      const images = await withSession(options, (session) => session.listImages());
      if (options.json) printJson({ images });
      else print(formatTable([['NAME', 'ID', 'SIZE', 'LAYERS', 'CREATED'], ...images.flatMap(imageRows)]));
    });
}

function imageRows(image: ImageRecord): string[][] {
  const names = image.names.length === 0 ? ['-'] : image.names;
  return names.map((name) => [
    name,
    image.id.slice('sha256:'.length, 'sha256:'.length + 12),
    formatBytes(image.sizeBytes),
    String(image.layers.length),
    image.createdAt,
  ]);
}

function inspectCommand(): Command {
  const command = new Command('inspect')
    .description('show an image and its config as JSON')
    .argument('<image>', 'name:tag or digest')
    .option('--json');
  return addSessionOptions(command)
    .addHelpText('after', '\nExample:\n  rootlayer image inspect debian:bookworm')
    .action(async (ref: string, options: SessionOptions) => printJson(await withSession(options, (session) => session.inspectImage(ref))));
}

function exportCommand(): Command {
  const command = new Command('export')
    .description('write an image as an archive or a layout, or its merged root as a tar')
    .argument('<image>', 'name:tag or digest; for a rootfs-tar also the path of an archive or OCI layout')
    .requiredOption('-o, --output <out>', 'where it goes; "-" is standard output')
    .option('--format <format>', 'docker-archive, oci-archive, oci-dir or rootfs-tar', 'docker-archive')
    .option('--compat <seed>', 'of a path: the bytes that dockerTools would give')
    .option('--json', 'print digest and size as JSON');
  return addSessionOptions(command)
    .addHelpText('after', '\nExample:\n  rootlayer image export debian:bookworm --format oci-dir -o debian/')
    .action(exportImage);
}

async function exportImage(ref: string, options: ExportOptions): Promise<void> {
  const plan = planExport(options.output, options.format);
  const source = parseBaseSource(ref);
  if (source.kind !== 'stored') {
    if (plan.format !== 'rootfs-tar') {
      throw new RootlayerError('E_USAGE', `Cannot export the file ${JSON.stringify(ref)} as ${plan.format}: want --format rootfs-tar`, {
        hint: 'import it, and export it by its name',
      });
    }
    await exportRootfs(source.path, plan.target, options);
    return;
  }
  const interrupts = listenForInterrupts();
  const output = new Output({ keepsStdout: true, raw: false });
  try {
    const onBytes = (done: number, total: number | null): void => output.progress('fetching', done, total, 'bytes');
    const saved = await withSession(options, (session) => saveImage(session, ref, plan, onBytes, interrupts.signal));
    if (options.json && plan.target.kind !== 'stdout') printJson({ format: plan.format, ...saved });
    else output.note(`written  ${options.output} (${plan.format}, ${formatBytes(saved.sizeBytes)}, ${saved.digest})`);
  } finally {
    output.end();
    interrupts.stop();
  }
}

function rmCommand(): Command {
  const command = new Command('rm')
    .description('remove names, or images with their last names')
    .argument('<image...>', 'name:tag or digest')
    .option('--json');
  return addSessionOptions(command)
    .addHelpText('after', '\nExample:\n  rootlayer image rm debian:bookworm')
    .action(async (refs: string[], options: JsonOption) => {
      await withSession(options, async (session) => {
        for (const ref of refs) await session.removeImage(ref);
      });
      if (options.json) printJson({ removed: refs });
    });
}
