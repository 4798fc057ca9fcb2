import { createHash } from 'node:crypto';
import { existsSync, statSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { RootlayerError } from '../core/errors.ts';
import { findAgent } from './agent-files.ts';
import { makeInitramfs } from './initramfs.ts';
import type { GuestKernel } from './kernel.ts';
import { extractVmlinux } from './vmlinux.ts';

/** What guests boot from. `digest` is over kernel and initramfs, and changes when anything of them does. */
export type GuestImage = {
  directory: string;
  kernelPath: string;
  initramfsPath: string;
  digest: string;
  kernelRelease: string;
  agent: 'c' | 'shell';
};

/** The built agent, if the package was built where there was a C compiler. */
export const AGENT = fileURLToPath(new URL('../../bin/rootlayer-agent', import.meta.url));

/** Changes with the way in which images are made. */
const RECIPE = 1;

const descriptionSchema = z.strictObject({
  inputs: z.string(),
  digest: z.string(),
  kernelRelease: z.string(),
  agent: z.enum(['c', 'shell']),
});
type Description = z.infer<typeof descriptionSchema>;

/**
 * Of what a guest image is made, and where: `outputDir` takes "kernel", "initramfs" and "image.json". With nothing at `agentPath`, the agent is
 * one of shell, busybox and GNU tar.
 */
export type GuestImageParts = { kernel: GuestKernel; agentPath: string; outputDir: string };

/**
 * Makes the guest image, whole or not at all; one that is there, made of the same files, is taken as it is. The output directory is
 * replaced as a whole. Throws `E_MISSING_FEATURE` when the kernel lacks something, `E_TOOL` when a program of the shell agent is missing.
 */
export async function buildGuestImage({ kernel, agentPath, outputDir }: GuestImageParts, signal: AbortSignal): Promise<GuestImage> {
  const agent = await findAgent(agentPath, signal);
  const inputs = identify([kernel.vmlinuzPath, path.join(kernel.modulesPath, 'modules.builtin'), ...agent.files]);
  const present = await readDescription(outputDir);
  if (present?.inputs === inputs) return describe(outputDir, present);
  const vmlinux = extractVmlinux(await readFile(kernel.vmlinuzPath));
  const initramfs = await makeInitramfs(kernel, await agent.entries(), signal);
  const digest = createHash('sha256').update(vmlinux).update(initramfs).digest('hex');
  const description: Description = { inputs, digest, kernelRelease: kernel.release, agent: agent.kind };
  await replaceDirectory(outputDir, { kernel: vmlinux, initramfs, 'image.json': `${JSON.stringify(description)}\n` });
  return describe(outputDir, description);
}

/** Gives the guest image in a directory. Throws `E_MISSING_FEATURE` when there is none. */
export async function openGuestImage(directory: string): Promise<GuestImage> {
  const description = await readDescription(directory);
  if (description === null) {
    throw new RootlayerError('E_MISSING_FEATURE', `Cannot open guest image "${directory}": there is none, or it is not whole`, {
      hint: 'Make it with "rootlayer vm build".',
    });
  }
  return describe(directory, description);
}

/** Files are told apart as make does: contents would take longer to read than an image to reuse. */
function identify(files: string[]): string {
  const facts = files.map((file) => {
    const { size, mtimeNs } = statSync(file, { bigint: true });
    return [file, String(size), String(mtimeNs)];
  });
  return createHash('sha256')
    .update(JSON.stringify([RECIPE, facts]))
    .digest('hex');
}

async function readDescription(directory: string): Promise<Description | null> {
  if (!['kernel', 'initramfs', 'image.json'].every((name) => existsSync(path.join(directory, name)))) return null;
  try {
    const text: unknown = JSON.parse(await readFile(path.join(directory, 'image.json'), 'utf8'));
    return descriptionSchema.safeParse(text).data ?? null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

function describe(directory: string, { digest, kernelRelease, agent }: Description): GuestImage {
  const place = path.resolve(directory);
  return {
    directory: place,
    kernelPath: path.join(place, 'kernel'),
    initramfsPath: path.join(place, 'initramfs'),
    digest,
    kernelRelease,
    agent,
  };
}

/** Whoever has the old directory open keeps files that belong together. */
async function replaceDirectory(directory: string, files: Record<string, Buffer | string>): Promise<void> {
  const place = path.resolve(directory);
  await mkdir(path.dirname(place), { recursive: true });
  const work = await mkdtemp(`${place}.`);
  try {
    const fresh = path.join(work, 'new');
    await mkdir(fresh, { mode: 0o755 });
    for (const [name, data] of Object.entries(files)) await writeFile(path.join(fresh, name), data, { mode: 0o644 });
    if (existsSync(place)) await rename(place, path.join(work, 'old'));
    await rename(fresh, place);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
