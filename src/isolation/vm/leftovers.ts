import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';

/** At the start of the name of what is being made. */
export const NEW = 'new-';

/** What is being made; the guest image and what is known of acceleration have other names meanwhile. */
const UNFINISHED = /^(?:new-|files-|guest\.|acceleration\.json\..*\.new$)/;
const UNFINISHED_STATE = /\.new$/;

/** Removes what a process that was killed has left unfinished in an engine's directory for virtual machines. For its only owner, before it makes anything. */
export function removeLeftovers(directory: string): void {
  removeMatching(directory, UNFINISHED);
  removeMatching(join(directory, 'templates'), UNFINISHED_STATE);
}

function removeMatching(directory: string, pattern: RegExp): void {
  if (!existsSync(directory)) return;
  for (const name of readdirSync(directory)) {
    if (pattern.test(name)) rmSync(join(directory, name), { recursive: true, force: true });
  }
}
