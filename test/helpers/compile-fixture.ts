import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { repoRoot } from './repo.ts';

/** Compiles `test/fixtures/NAME.c` to a static program at the given path, directory made if need be. Needs `requires(t, 'gcc')`. */
export function compileFixture(name: string, target: string): void {
  mkdirSync(path.dirname(target), { recursive: true });
  const source = path.join(repoRoot, `test/fixtures/${name}.c`);
  execFileSync('gcc', ['-O1', '-Wall', '-Wextra', '-Werror', '-static', '-pthread', '-o', target, source], { stdio: 'pipe' });
}
