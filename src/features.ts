import { join } from 'node:path';
import type { Feature } from './core/engine.ts';
import { probeFeatures } from './host/doctor.ts';
import { chooseMounter } from './overlay/mounter.ts';
import { findVmFeatures } from './vm-features.ts';

/** What this machine offers to an engine with its state in a directory, which must exist. Starts no engine: that would fail on what is lacking. */
export async function findFeatures(stateDir: string): Promise<Feature[]> {
  const features = await probeFeatures(stateDir, async () => `mounts layers by ${(await chooseMounter()).name}`);
  return [...features, ...findVmFeatures(join(stateDir, 'vm'))];
}
