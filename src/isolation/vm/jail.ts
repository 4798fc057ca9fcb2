import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { constants, existsSync, statSync } from 'node:fs';
import { chmod, copyFile, mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { RootlayerError } from '../../core/errors.ts';
import { keepDirectory } from './kept-directory.ts';

/** The one program of the jail. Not Debian's smaller qemu-system-x86_64-microvm, which cannot emulate. */
export const QEMU_PROGRAM = '/usr/bin/qemu-system-x86_64';
/** Where the jail has the firmware. */
export const FIRMWARE_DIRECTORY = '/usr/share/qemu';

/** A read-only root for QEMU, with nothing in it but QEMU. `key` changes with any of its files. */
export type Jail = { path: string; key: string; qemuVersion: string };

/** Emulation is a module of its own in Debian; elsewhere it is built in. */
const MODULES = ['accel-tcg-x86_64.so'];
const MODULE_DIRECTORIES = ['/usr/lib/x86_64-linux-gnu/qemu', '/usr/lib64/qemu', '/usr/lib/qemu'];
/** Only the first is for each start; the others let it load a kernel. */
const FIRMWARE = ['bios-microvm.bin', 'linuxboot_dma.bin', 'linuxboot.bin', 'pvh.bin'];
const FIRMWARE_DIRECTORIES = ['/usr/share/qemu', '/usr/share/seabios', '/usr/share/qemu-firmware'];

/**
 * Gives the jail of the installed QEMU, made anew below `directory` when any of its files has changed; with `removeOthers`, jails of other files go. Throws
 * `E_TOOL` naming the package when QEMU is missing, `E_STATE` when the disk is full.
 */
export async function openJail(directory: string, removeOthers: boolean, signal: AbortSignal): Promise<Jail> {
  const qemuVersion = readQemuVersion();
  const files = await findFiles(signal);
  const key = keyOf(qemuVersion, files);
  const path = await keepDirectory({ parent: directory, kind: 'qemu-root', key, removeOthers }, async (path) => await fill(path, files));
  return { path, key, qemuVersion };
}

/** The version that a program has told, and by what it is known to be the same. */
let told: { program: string; size: number; mtimeMs: number; version: string } | null = null;

/**
 * Gives the version of the installed QEMU as it tells it. It is asked again only when the program has changed: that blocks for some 40 ms. Throws `E_TOOL`
 * naming the package when there is none.
 */
export function readQemuVersion(program: string = QEMU_PROGRAM): string {
  const facts = statSync(program, { throwIfNoEntry: false });
  if (facts === undefined) {
    throw new RootlayerError('E_TOOL', `Cannot find program "${program}": it is not installed`, {
      hint: 'Install the package qemu-system-x86.',
    });
  }
  const { size, mtimeMs } = facts;
  if (told?.program !== program || told.size !== size || told.mtimeMs !== mtimeMs) {
    told = { program, size, mtimeMs, version: askVersion(program) };
  }
  return told.version;
}

function askVersion(program: string): string {
  const { stdout } = spawnSync(program, ['--version'], { env: {}, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  return stdout.split('\n')[0]?.replace(/^QEMU emulator version /, '') ?? '';
}

/** A file of the host, and where the jail has it. */
type JailFile = { from: string; to: string };

async function findFiles(signal: AbortSignal): Promise<JailFile[]> {
  const modules = MODULES.map((name) => find(name, MODULE_DIRECTORIES)).filter((path) => path !== null);
  const firmware = FIRMWARE.map((name) => ({ name, from: find(name, FIRMWARE_DIRECTORIES) }));
  if (firmware[0]?.from === null) {
    throw new RootlayerError('E_TOOL', `Cannot find firmware "${FIRMWARE[0]}": it is not installed`, {
      hint: 'Install the package qemu-system-data.',
    });
  }
  const programs = [QEMU_PROGRAM, ...modules];
  const libraries = await Promise.all(programs.map(async (path) => await findLibraries(path, signal)));
  return [
    ...[...new Set([...programs, ...libraries.flat()])].map((path) => ({ from: path, to: path })),
    ...firmware.flatMap(({ name, from }) => (from === null ? [] : [{ from, to: `${FIRMWARE_DIRECTORY}/${name}` }])),
  ];
}

function find(name: string, directories: string[]): string | null {
  return directories.map((directory) => join(directory, name)).find((path) => existsSync(path)) ?? null;
}

/** The loader and all libraries, by the names under which the loader looks for them (ldd(1)). */
async function findLibraries(program: string, signal: AbortSignal): Promise<string[]> {
  const lines = (await outputOf('/usr/bin/ldd', [program], signal)).split('\n');
  return lines.flatMap((line) => /^\s+(?:\S+ => )?(\/\S+) \(0x/.exec(line)?.[1] ?? []);
}

function keyOf(version: string, files: JailFile[]): string {
  const hash = createHash('sha256').update(version);
  for (const { from, to } of files) {
    const { size, mtimeMs } = statSync(from);
    hash.update(JSON.stringify([from, to, size, mtimeMs]));
  }
  return hash.digest('hex').slice(0, 16);
}

async function fill(path: string, files: JailFile[]): Promise<void> {
  // Mount points for a job's /dev/kvm and for the files of a booting guest.
  for (const name of ['dev', 'boot']) await makeDirectory(join(path, name));
  for (const { from, to } of files) {
    const target = join(path, to);
    await makeDirectory(dirname(target));
    await copyFile(from, target, constants.COPYFILE_FICLONE);
    await chmod(target, 0o555);
  }
}

/** Also under a umask that takes rights away from QEMU's user. */
async function makeDirectory(path: string): Promise<void> {
  if (existsSync(path)) return;
  await makeDirectory(dirname(path));
  await mkdir(path);
  await chmod(path, 0o755);
}

async function outputOf(program: string, args: string[], signal: AbortSignal): Promise<string> {
  const { execa } = await import('execa');
  const { stdout } = await execa(program, args, {
    env: { PATH: '/usr/bin:/bin' },
    extendEnv: false,
    stdin: 'ignore',
    cancelSignal: signal,
  });
  return stdout;
}
