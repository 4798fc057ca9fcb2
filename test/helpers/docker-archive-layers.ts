import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

/** Takes the uncompressed layers of a docker-archive out into a new directory, with GNU tar; gives their paths, lowest first. */
export function extractDockerLayers(archive: string, directory: string): string[] {
  mkdirSync(directory);
  execFileSync('tar', ['-xf', archive, '-C', directory], { stdio: ['ignore', 'pipe', 'pipe'] });
  const manifest: unknown = JSON.parse(readFileSync(path.join(directory, 'manifest.json'), 'utf8'));
  const [first] = manifest as [{ Layers: string[] }];
  return first.Layers.map((layer) => path.join(directory, layer));
}
