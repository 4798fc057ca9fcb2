import { statSync } from 'node:fs';
import path from 'node:path';
import { Command } from 'commander';
import { AGENT, buildGuestImage, type GuestImage } from '../../guest/guest-image.ts';
import { findKernel, openKernel } from '../../guest/kernel.ts';
import { formatBytes, print, printJson } from '../output.ts';
import { DEFAULT_STATE_DIR } from '../session.ts';

/** Where an engine with the usual state directory looks for it. */
const DEFAULT_OUTPUT = path.join(DEFAULT_STATE_DIR, 'vm/guest');

type BuildOptions = { kernel?: string; output: string; json?: boolean };

export function vmCommand(): Command {
  return new Command('vm').addCommand(buildCommand()).addHelpText('after', '\nExample:\n  sudo rootlayer vm build');
}

function buildCommand(): Command {
  return new Command('build')
    .description('make what virtual machines boot from: a kernel and an initramfs')
    .option('--kernel <dir>', 'directory with "vmlinuz" and "modules/" (default: $ROOTLAYER_VM_KERNEL, else an installed one)')
    .option('--output <dir>', 'where it goes', DEFAULT_OUTPUT)
    .option('--json', 'print one JSON document')
    .addHelpText(
      'after',
      `
An engine makes it by itself, with the first job that is run in a virtual machine; made before, that job need not wait for it. One that is there
already, made of the same files, is taken as it is.

Example:
  sudo rootlayer vm build --kernel /srv/kernel`,
    )
    .action(async ({ kernel, output, json }: BuildOptions) => {
      const parts = { kernel: kernel === undefined ? findKernel() : openKernel(kernel), agentPath: AGENT, outputDir: output };
      const image = await buildGuestImage(parts, new AbortController().signal);
      if (json) printJson(image);
      else print(describe(image));
    });
}

function describe({ directory, kernelPath, initramfsPath, digest, kernelRelease, agent }: GuestImage): string {
  const sizeOf = (file: string): string => formatBytes(statSync(file).size);
  return [
    `${directory}: sha256:${digest}`,
    `  kernel     Linux ${kernelRelease}, ${sizeOf(kernelPath)}`,
    `  initramfs  ${agent === 'c' ? 'agent in C' : 'shell agent'}, ${sizeOf(initramfsPath)}`,
  ].join('\n');
}
