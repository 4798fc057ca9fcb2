import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { RootlayerError } from '../core/errors.ts';
import { findProgram } from '../host/programs.ts';
import { runProgram } from '../host/run-program.ts';
import type { NewcEntry } from './newc.ts';

const DIRECTORY = 0o040755;
const PROGRAM = 0o100755;
const SYMLINK = 0o120777;

/** The agent of a guest: which one, the files of the host that it is made of, and what they are in the guest's first root. */
export type GuestAgent = { kind: 'c' | 'shell'; files: string[]; entries(): Promise<NewcEntry[]> };

/** Where the shell agent finds its programs; what is not in busybox has a name that busybox does not know. */
const TAR = 'bin/gnu-tar';
const APPLETS = [
  ...['awk', 'cat', 'chmod', 'chown', 'chroot', 'date', 'dd', 'env', 'head', 'hostname', 'insmod', 'ip', 'ln', 'losetup', 'ls', 'mkdir'],
  ...[
    'mkfifo',
    'mknod',
    'mount',
    'od',
    'printf',
    'rmdir',
    'sh',
    'sleep',
    'stat',
    'sync',
    'tail',
    'touch',
    'tr',
    'umount',
    'unshare',
    'usleep',
  ],
];

/**
 * Gives the agent that was compiled, or where there is none, one of shell, busybox and GNU tar. Throws `E_TOOL` when one of these is missing,
 * `E_MISSING_FEATURE` when busybox is one that needs libraries.
 */
export async function findAgent(compiledPath: string, signal: AbortSignal): Promise<GuestAgent> {
  if (existsSync(compiledPath))
    return { kind: 'c', files: [compiledPath], entries: async () => compiledEntries(await readFile(compiledPath)) };
  const script = shellAgentPath();
  const busybox = findProgram('busybox');
  const tar = findProgram('tar');
  if ((await librariesOf(busybox, signal)).length > 0) {
    throw new RootlayerError('E_MISSING_FEATURE', `Cannot use "${busybox}" in virtual machines: it needs libraries, want a static one`, {
      hint: 'Install the package busybox-static, or a C compiler and build again.',
    });
  }
  const libraries = await librariesOf(tar, signal);
  const files = [script, busybox, tar, ...libraries];
  return { kind: 'shell', files, entries: async () => await shellEntries(script, busybox, tar, libraries) };
}

/** As /sbin/modprobe it loads what the kernel asks for. */
function compiledEntries(agent: Buffer): NewcEntry[] {
  return [
    { name: 'init', mode: PROGRAM, data: agent },
    { name: 'sbin/modprobe', mode: SYMLINK, data: Buffer.from('/init') },
  ];
}

async function shellEntries(script: string, busybox: string, tar: string, libraries: string[]): Promise<NewcEntry[]> {
  const names = libraries.map((file) => file.slice(1));
  const directories = new Set(['bin', ...names.flatMap(parentsOf)]);
  const program = async (name: string, file: string): Promise<NewcEntry> => ({ name, mode: PROGRAM, data: await readFile(file) });
  return [
    ...[...directories].map((name) => ({ name, mode: DIRECTORY })),
    await program('init', script),
    await program('bin/busybox', busybox),
    await program(TAR, tar),
    ...(await Promise.all(libraries.map(async (file) => await program(file.slice(1), file)))),
    ...APPLETS.map((name) => ({ name: `bin/${name}`, mode: SYMLINK, data: Buffer.from('busybox') })),
  ];
}

/** Directories on the way to a file, the topmost first. */
function parentsOf(name: string): string[] {
  const parts = name.split('/').slice(0, -1);
  return parts.map((_, index) => parts.slice(0, index + 1).join('/'));
}

/** The libraries of a program with the dynamic loader, by the paths under which the loader looks for them; none for a static program. */
async function librariesOf(program: string, signal: AbortSignal): Promise<string[]> {
  const { stdout } = await runProgram('ldd', [program], { env: { LC_ALL: 'C' } }, signal);
  return [...stdout.toString('latin1').matchAll(/(?:=> |^\s*)(\/\S+) \(0x/gm)].map(([, file = '']) => file);
}

/** It lies beside the sources, in a checkout as in the installed package. */
function shellAgentPath(): string {
  for (let dir = import.meta.dirname; dir !== path.dirname(dir); dir = path.dirname(dir)) {
    const file = path.join(dir, 'vm/agent.sh');
    if (existsSync(file)) return file;
  }
  throw new RootlayerError(
    'E_MISSING_FEATURE',
    'Cannot find the agent of virtual machines: it was not built, and "vm/agent.sh" is not there',
    {
      hint: 'Build with a C compiler (scripts/build), or install the whole package.',
    },
  );
}
