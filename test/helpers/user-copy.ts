import { cpSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import { mainPath } from './command.ts';
import { repoRoot } from './repo.ts';

/** What users without root run: programs at places that they can read, wherever the repository is. */
export type UserCopy = { main: string; requests: string; probe: string };

/** Copies the command and the programs of `as-user/` to a new directory below one that everybody can enter. */
export function copyForUsers(directory: string): UserCopy {
  const top = path.join(directory, 'app');
  mkdirSync(path.join(top, 'node_modules'), { recursive: true });
  cpSync(path.join(repoRoot, 'package.json'), path.join(top, 'package.json'));
  // The only package that a client of a daemon loads.
  cpSync(path.join(repoRoot, 'node_modules/commander'), path.join(top, 'node_modules/commander'), { recursive: true });
  cpSync(path.join(path.dirname(mainPath), '..'), path.join(top, 'src'), { recursive: true });
  cpSync(path.join(import.meta.dirname, 'as-user'), path.join(top, 'as-user'), { recursive: true });
  return {
    main: path.join(top, 'src/cli/main.js'),
    requests: path.join(top, 'as-user/requests-main.js'),
    probe: path.join(top, 'as-user/probe-main.js'),
  };
}
