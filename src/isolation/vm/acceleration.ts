import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { release } from 'node:os';
import { dirname } from 'node:path';
import { z } from 'zod';
import { toRootlayerError } from '../../core/errors.ts';
import type { Acceleration } from './machine.ts';

/** What was found out about this machine, and by what. */
export type Accelerated = { acceleration: Acceleration; why: string };

/** Longest time to wait for a guest under KVM: real hardware takes less than a second, a broken one for ever. */
export const PROBE_MS = 10_000;

const rememberedSchema = z.strictObject({ key: z.string(), acceleration: z.enum(['kvm', 'tcg']), why: z.string() });

/**
 * Tells how guests can be run here. /dev/kvm that opens proves nothing: there are machines where it does and no guest boots. So `boot` boots
 * one under KVM; what came of it is remembered in a file, for this boot of the host, its kernel and this QEMU.
 */
export async function findAcceleration(
  file: string,
  qemuKey: string,
  boot: (acceleration: Acceleration, limitMs: number) => Promise<void>,
  signal: AbortSignal,
): Promise<Accelerated> {
  const lack = kvmLack();
  if (lack !== null) return { acceleration: 'tcg', why: lack };
  const key = `${bootId()} ${release()} ${qemuKey}`;
  const remembered = await readRemembered(file, key);
  if (remembered !== null) return remembered;
  const { isCertain, ...found } = await probe(boot, signal);
  if (isCertain) await remember(file, { key, ...found });
  return found;
}

/** What is known without booting anything: null where KVM has not been tried since the host booted. A newer QEMU may find otherwise. */
export function recallAcceleration(file: string): Accelerated | null {
  const lack = kvmLack();
  if (lack !== null) return { acceleration: 'tcg', why: lack };
  try {
    const parsed = rememberedSchema.safeParse(parseJson(readFileSync(file, 'utf8')));
    if (!parsed.success || !parsed.data.key.startsWith(`${bootId()} ${release()} `)) return null;
    return { acceleration: parsed.data.acceleration, why: parsed.data.why };
  } catch {
    return null; // nothing was remembered yet
  }
}

/** Why KVM cannot even be tried; null when it can. */
function kvmLack(): string | null {
  try {
    closeSync(openSync('/dev/kvm', constants.O_RDWR));
    return null;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'error';
    return code === 'ENOENT' ? 'there is no /dev/kvm' : `/dev/kvm does not open (${code})`;
  }
}

async function probe(
  boot: (acceleration: Acceleration, limitMs: number) => Promise<void>,
  signal: AbortSignal,
): Promise<Accelerated & { isCertain: boolean }> {
  try {
    await boot('kvm', PROBE_MS);
    return { acceleration: 'kvm', why: 'a guest has booted with it', isCertain: true };
  } catch (thrown) {
    signal.throwIfAborted();
    const error = toRootlayerError(thrown);
    // Another failure (no room, no descriptors) says nothing about KVM.
    const isCertain = error.code === 'E_VM_CRASH' || error.code === 'E_VM_TIMEOUT';
    return { acceleration: 'tcg', why: `/dev/kvm opens, but no guest boots with it: ${inShort(error.message)}`, isCertain };
  }
}

/** What happened, without what could not be done and without QEMU's own words. */
function inShort(message: string): string {
  return message.replace(/^Cannot [^:]*: /, '').replace(/ \(.*\)$/s, '');
}

async function readRemembered(file: string, key: string): Promise<Accelerated | null> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch {
    return null; // nothing was remembered yet
  }
  const parsed = rememberedSchema.safeParse(parseJson(text));
  return parsed.success && parsed.data.key === key ? { acceleration: parsed.data.acceleration, why: parsed.data.why } : null;
}

async function remember(file: string, found: z.infer<typeof rememberedSchema>): Promise<void> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  const temporary = `${file}.${process.pid}.new`;
  await writeFile(temporary, `${JSON.stringify(found)}\n`, { mode: 0o600 });
  await rename(temporary, file);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Changes with each start of the host (random(4)). */
function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
}

/** What of the host a guest under KVM sees, so that its saved state is of use only there: the processor and the kernel. */
export function hostKey(): string {
  const text = readFileSync('/proc/cpuinfo', 'latin1');
  const processor = ['vendor_id', 'cpu family', 'model', 'model name', 'stepping', 'microcode', 'flags'].map(
    (name) => new RegExp(`^${name}\\s*:\\s*(.*)$`, 'm').exec(text)?.[1] ?? '',
  );
  return JSON.stringify([release(), ...processor]);
}
