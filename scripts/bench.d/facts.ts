import { readFileSync } from 'node:fs';
import os from 'node:os';
import process from 'node:process';
import { runScript } from './command.ts';

/** What of the machine matters for the figures; never its name. */
export async function readFacts(state: string): Promise<Record<string, string>> {
  const firstLine = async (command: string): Promise<string> => await runScript(`${command} 2>&1 | head -n 1`, []);
  return {
    cpu: `${os.availableParallelism()} × ${os.cpus()[0]?.model ?? 'unknown'}${hasShaInstructions() ? ' (with SHA instructions)' : ''}`,
    memory: `${(os.totalmem() / 2 ** 30).toFixed(0)} GiB`,
    kernel: os.release().replace(/-.*/, ''),
    node: process.versions.node,
    'load before': `${(os.loadavg()[0] ?? 0).toFixed(1)} processes`,
    state,
    buildah: `${(await firstLine('buildah --version')).split(' ')[2] ?? ''}, overlay driver, chroot isolation`,
    tar: (await firstLine('tar --version')).split(' ').at(-1) ?? '',
    openssl: (await firstLine('openssl version')).split(' ')[1] ?? '',
    pigz: (await firstLine('pigz --version')).split(' ')[1] ?? '',
  };
}

function hasShaInstructions(): boolean {
  return /^(flags|Features)\s*:.*\b(sha_ni|sha2)\b/m.test(readFileSync('/proc/cpuinfo', 'utf8'));
}
