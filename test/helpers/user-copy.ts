import { cpSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { mainPath } from './command.ts';
import { repoRoot } from './repo.ts';

/** What users without root run: programs at places that they can read, wherever the repository is. */
export type UserCopy = { main: string; requests: string; probe: string };

/**
 * Copies the command and the programs of `as-user/` to a new directory below one that everybody can enter. A client of a daemon loads no package but commander.
 */
export function copyForUsers(directory: string, packages: readonly string[] = ['commander']): UserCopy {
  const top = path.join(directory, 'app');
  mkdirSync(path.join(top, 'node_modules'), { recursive: true });
  cpSync(path.join(repoRoot, 'package.json'), path.join(top, 'package.json'));
  for (const name of withDependencies(packages)) {
    cpSync(path.join(repoRoot, 'node_modules', name), path.join(top, 'node_modules', name), { recursive: true });
  }
  cpSync(path.join(path.dirname(mainPath), '..'), path.join(top, 'src'), { recursive: true });
  cpSync(path.join(import.meta.dirname, 'as-user'), path.join(top, 'as-user'), { recursive: true });
  return {
    main: path.join(top, 'src/cli/main.js'),
    requests: path.join(top, 'as-user/requests-main.js'),
    probe: path.join(top, 'as-user/probe-main.js'),
  };
}

/** The packages and all that they need and that does not lie within them. */
function withDependencies(packages: readonly string[], found: Set<string> = new Set()): Set<string> {
  for (const name of packages) {
    const file = path.join(repoRoot, 'node_modules', name, 'package.json');
    if (found.has(name) || !existsSync(file)) continue;
    found.add(name);
    const { dependencies = {} } = JSON.parse(readFileSync(file, 'utf8')) as { dependencies?: Record<string, string> };
    withDependencies(Object.keys(dependencies), found);
  }
  return found;
}
