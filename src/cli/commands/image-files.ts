import { Command } from 'commander';
import type { Session } from '../../api/session.ts';
import { RootlayerError } from '../../core/errors.ts';
import type { ImageFile } from '../../recipe/tree/image-file.ts';
import { listenForInterrupts } from '../interrupts.ts';
import { formatBytes, formatTable, Output, print, printJson } from '../output.ts';
import { planExport, type Target } from '../output-plan.ts';
import { saveImageFile } from '../save-image-file.ts';
import { addSessionOptions, type SessionOptions, withSession } from '../session.ts';

type MergeOptions = { output: string; compressor?: string; compat?: string; json?: boolean };
type PullOptions = SessionOptions & {
  prefetch?: boolean;
  sha256?: string;
  hash?: string;
  os: string;
  arch?: string;
  finalName?: string;
  finalTag?: string;
  tlsVerify: boolean;
  output?: string;
  json?: boolean;
};

/** Loaded by the command that needs it. NOTE: tsc 6.0 leaves the ending of a dynamic import as it is in a function with `await using`. */
const loadMerge = () => import('../../recipe/archive/merge-images.ts');
const loadExport = () => import('../../recipe/archive/export-image.ts');
const loadPull = () => import('../../recipe/archive/pull-image.ts');

/** What a command works with: when to stop, and whom to tell. */
type Work = { readonly signal: AbortSignal; readonly note: (line: string) => void; readonly output: Output };

/** `image merge`: several archives in one. */
export function mergeCommand(): Command {
  return new Command('merge')
    .description('put the images of several archives into one docker-archive')
    .argument('<archive...>', 'docker-archives or OCI layouts')
    .requiredOption('-o, --output <out>', 'where it goes; "-" is standard output')
    .option('--compressor <name>', 'none, gz or zstd (default: that of the last archive)')
    .option('--compat <seed>', 'the bytes that dockerTools would give')
    .option('--json', 'print digest and size as JSON')
    .addHelpText('after', '\nExample:\n  rootlayer image merge bash.tar redis.tar.gz -o both.tar.gz')
    .action(async (images: string[], options: MergeOptions) => {
      const { target } = planExport(options.output, 'docker-archive');
      const { compressor, compat } = options;
      await working(async (work) => {
        const { mergeImages } = await loadMerge();
        const args = { images, ...(compressor === undefined ? {} : { compressor }), ...(compat === undefined ? {} : { compat }) };
        await using file = await mergeImages(args as Parameters<typeof mergeImages>[0], work);
        await save(file, { target, name: options.output, format: 'docker-archive', isJson: options.json === true }, work);
      });
    });
}

/** `image pull`: an image by its digest out of a registry. */
export function pullCommand(): Command {
  const command = new Command('pull')
    .description('fetch an image by its digest from a registry, into a file or into the store')
    .argument('<image>', 'name@sha256:...; with --prefetch also name:tag')
    .option('--prefetch', 'print digest and hash of the image, for recipes, and keep nothing')
    .option('--sha256 <hash>', 'sha256 of the archive, in hex, base 32 of Nix, or base 64')
    .option('--hash <hash>', 'the same as "sha256-" and base 64')
    .option('--os <os>', 'of a list of images', 'linux')
    .option('--arch <arch>', "likewise, such as amd64 (default: this machine's)")
    .option('--final-name <name>', 'what the archive calls the image (default: its name)')
    .option('--final-tag <tag>', 'likewise (default: latest, with --prefetch the tag of the image)')
    .option('--no-tls-verify', 'check no certificates, and take plain HTTP')
    .option('-o, --output <out>', 'write a docker-archive instead of storing the image; "-" is standard output')
    .option('--json', 'print the result as JSON');
  return addSessionOptions(command).addHelpText('after', '\nExample:\n  rootlayer image pull --prefetch debian:bookworm-slim').action(pull);
}

/** Writes the merged root of an image in a file: what `image export` does for what is not in the store. */
export async function exportRootfs(
  file: string,
  target: Target,
  options: { output: string; json?: boolean; compat?: string },
): Promise<void> {
  await working(async (work) => {
    const { exportImage } = await loadExport();
    const args = { fromImage: file, ...(options.compat === undefined ? {} : { compat: options.compat }) };
    await using made = await exportImage(args as Parameters<typeof exportImage>[0], work);
    await save(made, { target, name: options.output, format: 'rootfs-tar', isJson: options.json === true }, work);
  });
}

async function pull(text: string, options: PullOptions): Promise<void> {
  const { imageName, imageTag, imageDigest } = parseSource(text);
  const target = options.output === undefined ? null : planExport(options.output, 'docker-archive').target;
  const common = {
    ...{ imageName, os: options.os, tlsVerify: options.tlsVerify },
    ...(options.arch === undefined ? {} : { arch: options.arch }),
    ...(options.finalName === undefined ? {} : { finalImageName: options.finalName }),
    ...(options.finalTag === undefined ? {} : { finalImageTag: options.finalTag }),
  };
  await working(async (work) => {
    const { prefetchImage, pullImage } = await loadPull();
    if (options.prefetch === true) {
      const found = await prefetchImage({ ...common, imageDigest, ...(imageTag === null ? {} : { imageTag }) }, work);
      if (options.json) printJson(found);
      else print(formatTable(Object.entries(found).map(([key, value]) => [key, String(value)])));
      return;
    }
    if (imageDigest === null) throw noDigest(text);
    await using file = await pullImage({ ...common, imageDigest, sha256: options.sha256 ?? null, hash: options.hash ?? null }, work);
    if (target !== null && options.output !== undefined) {
      await save(file, { target, name: options.output, format: 'docker-archive', isJson: options.json === true }, work);
    } else {
      await withSession(options, async (session) => await store(file, session, options.json === true, work));
    }
  });
}

async function store(file: ImageFile, session: Session, isJson: boolean, { signal, output }: Work): Promise<void> {
  const choice = { name: null, select: null, shared: false };
  const image = await session.importImage(
    file.open(signal),
    choice,
    ({ stage, done, total, unit }) => output.progress(stage, done, total, unit),
    signal,
  );
  output.end();
  if (isJson) printJson(image);
  else print([image.id, ...(image.names.length === 0 ? [] : [image.names.join(' ')])].join('  '));
}

/** Reads `name`, `name:tag`, `name@digest` or `name:tag@digest`. A colon behind the last slash starts a tag. */
function parseSource(text: string): { imageName: string; imageTag: string | null; imageDigest: string | null } {
  const [named = '', digest] = text.split('@', 2);
  const colon = named.indexOf(':', named.lastIndexOf('/') + 1);
  return {
    imageName: colon < 0 ? named : named.slice(0, colon),
    imageTag: colon < 0 ? null : named.slice(colon + 1),
    imageDigest: digest ?? null,
  };
}

function noDigest(text: string): RootlayerError {
  return new RootlayerError('E_USAGE', `Cannot pull ${JSON.stringify(text)}: a tag can change its meaning, want name@sha256:...`, {
    hint: `"rootlayer image pull --prefetch ${text}" prints the digest, and the hash to go with it`,
  });
}

async function working(work: (work: Work) => Promise<void>): Promise<void> {
  const interrupts = listenForInterrupts();
  const output = new Output({ keepsStdout: true, raw: false });
  try {
    await work({ signal: interrupts.signal, note: (line) => output.note(line), output });
  } finally {
    output.end();
    interrupts.stop();
  }
}

type Destination = { readonly target: Target; readonly name: string; readonly format: string; readonly isJson: boolean };

async function save(file: ImageFile, { target, name, format, isJson }: Destination, { output, signal }: Work): Promise<void> {
  const onBytes = (done: number, total: number | null): void => output.progress('writing', done, total, 'bytes');
  const saved = await saveImageFile(file, target, onBytes, signal);
  if (isJson && target.kind !== 'stdout') printJson({ format, ...saved });
  else output.note(`written  ${name} (${format}, ${formatBytes(saved.sizeBytes)}, ${saved.digest})`);
}
