import { readFileSync } from 'node:fs';
import path from 'node:path';

/** The version of the installed package, from its package.json. */
export function readVersion(): string {
  for (let dir = import.meta.dirname; dir !== path.dirname(dir); dir = path.dirname(dir)) {
    const version = versionIn(path.join(dir, 'package.json'));
    if (version !== undefined) return version;
  }
  return 'unknown';
}

function versionIn(file: string): string | undefined {
  try {
    const manifest: unknown = JSON.parse(readFileSync(file, 'utf8'));
    if (typeof manifest !== 'object' || manifest === null) return undefined;
    const isOurs = 'name' in manifest && manifest.name === 'rootlayer';
    return isOurs && 'version' in manifest ? String(manifest.version) : undefined;
  } catch {
    return undefined;
  }
}
