import { readFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { z } from 'zod';
import { repoRoot } from '../../helpers/repo.ts';

const manifestSchema = z.object({ dependencies: z.record(z.string(), z.string()), devDependencies: z.record(z.string(), z.string()) });

const manifest = manifestSchema.parse(JSON.parse(read('package.json')));
const packages = Object.entries({ ...manifest.dependencies, ...manifest.devDependencies });

t.test('package.json pins each dependency exactly', async (t) => {
  t.strictSame(
    packages.filter(([, version]) => !/^\d+\.\d+\.\d+$/.test(version)),
    [],
  );
});

t.test('docs/dependencies.md names each dependency with its version', async (t) => {
  const text = read('docs/dependencies.md');
  t.strictSame(
    packages.map(([name, version]) => `${name} ${version}`).filter((entry) => !text.includes(entry)),
    [],
  );
});

t.test('docs/dependencies.md names each Debian package of scripts/setup', async (t) => {
  const lists = [...read('scripts/setup').matchAll(/^\w+_packages=\(([^)]*)\)/gm)];
  const names = lists.flatMap(([, list = '']) => list.split(/\s+/)).filter((name) => name !== '');
  t.ok(names.length > 10);
  const words = new Set(read('docs/dependencies.md').split(/[\s,|]+/));
  t.strictSame(
    names.filter((name) => !words.has(name)),
    [],
  );
});

function read(file: string): string {
  return readFileSync(path.join(repoRoot, file), 'utf8');
}
