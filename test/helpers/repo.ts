import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

/** Absolute path of the repository's root, found upwards from this file, so that it is the same for the source and for its build in `dist`. */
export const repoRoot: string = findRepoRoot(import.meta.dirname);

function findRepoRoot(start: string): string {
  for (let dir = start; ; dir = path.dirname(dir)) {
    if (isRoot(dir)) return dir;
    if (dir === path.dirname(dir)) throw new Error(`Cannot find the repository above "${start}": no package.json of rootlayer`);
  }
}

function isRoot(dir: string): boolean {
  const file = path.join(dir, 'package.json');
  if (!existsSync(file)) return false;
  const manifest: unknown = JSON.parse(readFileSync(file, 'utf8'));
  return typeof manifest === 'object' && manifest !== null && 'name' in manifest && manifest.name === 'rootlayer';
}
