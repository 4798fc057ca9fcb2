import { readFile } from 'node:fs/promises';
import { RootlayerError } from '../core/errors.ts';
import { runProgram } from '../host/run-program.ts';
import type { GuestKernel } from './kernel.ts';
import { type GuestModule, listModules, resolveModule } from './kernel-modules.ts';
import { type NewcEntry, writeNewc } from './newc.ts';

const DIRECTORY = 0o040755;
const FILE = 0o100644;
const CONSOLE = 0o020600;

/** Loaded while the guest boots, in this order: the agent hears nothing of a disk that it did not ask for once virtio_blk comes. */
const AT_BOOT = ['virtio_mmio', 'virtio_console', 'overlay', 'erofs', 'ext4', 'virtio_blk'];
/** Some kernels have it apart, and no module says that it needs it. */
const AT_BOOT_IF_THERE = ['crc32c_generic'];
/** Loaded when a script asks for what they give. What a kernel lacks of them is left out. */
const ON_DEMAND = [
  'loop',
  'fuse',
  'squashfs',
  'isofs',
  'vfat',
  'nls_cp437',
  'nls_ascii',
  'nls_iso8859_1',
  'nls_utf8',
  'binfmt_misc',
  'tun',
];

/** Gives the first root of the guest: the agent's files with /init, and the modules with an index that tells when each is loaded. */
export async function makeInitramfs(kernel: GuestKernel, agent: readonly NewcEntry[], signal: AbortSignal): Promise<Buffer> {
  const modules = await collectModules(kernel, signal);
  return writeNewc([
    ...['dev', 'proc', 'sys', 'sbin', 'modules'].map((name) => ({ name, mode: DIRECTORY })),
    { name: 'dev/console', mode: CONSOLE, device: [5, 1] },
    ...agent,
    { name: 'modules/index', mode: FILE, data: Buffer.from(modules.index) },
    ...modules.entries,
  ]);
}

/** The lines of the index: `boot NAME`, and `demand ALIAS NAME...` with what has to be loaded before. Read by load_for() of vm/agent.c and boot() of vm/agent.sh. */
async function collectModules(kernel: GuestKernel, signal: AbortSignal): Promise<{ index: string; entries: NewcEntry[] }> {
  const all = listModules(kernel.modulesPath);
  const bytes = new Map<string, Buffer>();
  const read = async (file: string): Promise<Buffer> => {
    const known = bytes.get(file) ?? (await readModule(file, signal));
    bytes.set(file, known);
    return known;
  };
  const resolve = async (name: string): Promise<GuestModule[]> => await resolveModule(all, name, read);
  const atBoot: GuestModule[] = [];
  for (const name of [...AT_BOOT_IF_THERE.filter((name) => all.files.has(name)), ...AT_BOOT]) atBoot.push(...(await resolve(name)));
  const onDemand: GuestModule[][] = [];
  for (const name of ON_DEMAND.filter((name) => all.files.has(name))) onDemand.push(await resolve(name));
  const lines = [...new Set(atBoot.map(({ name }) => `boot ${name}`)), ...onDemand.flatMap(demandLines)];
  const files = new Map([...atBoot, ...onDemand.flat()].map(({ name, file }) => [name, file]));
  const entries = [...files].map(([name, file]) => ({ name: `modules/${name}.ko`, mode: FILE, data: bytes.get(file) ?? Buffer.alloc(0) }));
  return { index: `${lines.join('\n')}\n`, entries };
}

function demandLines(chain: GuestModule[]): string[] {
  const names = chain.map(({ name }) => name).join(' ');
  const last = chain.at(-1);
  return last === undefined ? [] : [last.name, ...last.aliases].map((alias) => `demand ${alias} ${names}`);
}

/** The kernel of a guest is given plain modules: it could not be sure to have the means to unpack others. */
async function readModule(file: string, signal: AbortSignal): Promise<Buffer> {
  if (!file.endsWith('.xz')) return await readFile(file);
  const { status, stdout, stderr } = await runProgram('xz', ['--decompress', '--stdout', file], { env: {} }, signal);
  if (status === 0) return stdout;
  throw new RootlayerError('E_MISSING_FEATURE', `Cannot unpack kernel module "${file}": ${stderr.trim()}`);
}
