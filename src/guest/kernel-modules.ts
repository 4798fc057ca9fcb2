import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { RootlayerError } from '../core/errors.ts';

/** A module of the guest: its bytes as the kernel takes them, what it needs before it, what it is asked for by. */
export type GuestModule = { name: string; file: string; depends: string[]; aliases: string[] };

/** The modules of one kernel, by name. In names "-" and "_" are the same, and are given as "_". */
export type KernelModules = { files: ReadonlyMap<string, string>; builtIn: ReadonlySet<string> };

const SUFFIX = /\.ko(?:\.xz)?$/;

/** Lists the modules below `directory` (as /lib/modules/RELEASE). */
export function listModules(directory: string): KernelModules {
  const builtIn = readFileSync(path.join(directory, 'modules.builtin'), 'utf8').split('\n').filter(Boolean).map(moduleName);
  const names = readdirSync(path.join(directory, 'kernel'), { recursive: true, encoding: 'utf8' }).filter((name) => SUFFIX.test(name));
  return { files: new Map(names.map((name) => [moduleName(name), path.join(directory, 'kernel', name)])), builtIn: new Set(builtIn) };
}

function moduleName(file: string): string {
  return path.basename(file).replace(SUFFIX, '').replaceAll('-', '_');
}

/**
 * Gives a module and all that it needs, each after what it needs; nothing for what is built in. `read` gives the bytes of a file.
 * Throws `E_MISSING_FEATURE` when one is missing.
 */
export async function resolveModule(modules: KernelModules, name: string, read: (file: string) => Promise<Buffer>): Promise<GuestModule[]> {
  const found = new Map<string, GuestModule>();
  await collect(modules, name, read, found);
  return [...found.values()];
}

async function collect(
  modules: KernelModules,
  name: string,
  read: (file: string) => Promise<Buffer>,
  found: Map<string, GuestModule>,
): Promise<void> {
  if (found.has(name) || modules.builtIn.has(name)) return;
  const file = modules.files.get(name);
  if (file === undefined) {
    throw new RootlayerError(
      'E_MISSING_FEATURE',
      `Cannot use this kernel for virtual machines: it has no module "${name}", and it is not built in`,
      {
        hint: "Take Debian's cloud kernel: scripts/setup --vm fetches it.",
      },
    );
  }
  const info = readModinfo(await read(file));
  for (const needed of info.depends) await collect(modules, needed, read, found);
  found.set(name, { name, file, ...info });
}

/**
 * Reads what a module says of itself, by a search for the words: they stand as "key=value" between NUL bytes in its section ".modinfo".
 */
export function readModinfo(module: Buffer): { depends: string[]; aliases: string[] } {
  const depends = valuesOf(module, 'depends').flatMap((value) => value.split(',').filter(Boolean));
  return { depends: depends.map(moduleName), aliases: valuesOf(module, 'alias') };
}

function valuesOf(module: Buffer, key: string): string[] {
  const mark = Buffer.from(`\0${key}=`);
  const values: string[] = [];
  for (let at = module.indexOf(mark); at >= 0; at = module.indexOf(mark, at + 1)) {
    const start = at + mark.length;
    values.push(module.toString('latin1', start, module.indexOf(0, start)));
  }
  return values;
}
