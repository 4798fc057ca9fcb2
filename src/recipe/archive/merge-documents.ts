import { z } from 'zod';
import { RootlayerError } from '../../core/errors.ts';
import { parseDockerManifest } from '../../core/manifest.ts';
import { parseStrictJson } from '../../core/strict-json.ts';

/** Which layer each tag of each name means: keys in the order of the file. */
export type Repositories = Map<string, Map<string, string>>;

const repositoriesSchema = z.record(z.string(), z.record(z.string(), z.string()));

/** Reads a `repositories` file, keys in their order, which no object would keep for names that are numbers. Throws `E_MANIFEST`. */
export function parseRepositories(bytes: Buffer): Repositories {
  if (!repositoriesSchema.safeParse(parseStrictJson(bytes, { what: 'repositories' })).success) {
    throw new RootlayerError('E_MANIFEST', 'Cannot read repositories: want {name: {tag: layer}}');
  }
  const repositories: Repositories = new Map();
  let tags: Map<string, string> | null = null;
  let key: string | null = null;
  for (const [token] of bytes.toString('utf8').matchAll(/"(?:[^"\\]|\\.)*"|[{}]/g)) {
    if (token === '}') tags = null;
    if (token === '{' || token === '}') continue;
    const text = String(JSON.parse(token));
    if (tags === null) {
      tags = new Map();
      repositories.set(text, tags);
    } else if (key === null) key = text;
    else {
      tags.set(key, text);
      key = null;
    }
  }
  return repositories;
}

/** Gives the `repositories` file as `jq` prints it. */
export function formatRepositories(repositories: Repositories): string {
  if (repositories.size === 0) return '{}\n';
  const names = [...repositories].map(([name, tags]) => `  ${JSON.stringify(name)}: ${formatTags(tags)}`);
  return `{\n${names.join(',\n')}\n}\n`;
}

function formatTags(tags: ReadonlyMap<string, string>): string {
  if (tags.size === 0) return '{}';
  return `{\n${[...tags].map(([tag, id]) => `    ${JSON.stringify(tag)}: ${JSON.stringify(id)}`).join(',\n')}\n  }`;
}

/** Checks a `manifest.json` and gives its entries with all their members. Throws `E_MANIFEST`. */
export function parseManifestEntries(bytes: Buffer): unknown[] {
  return parseDockerManifest(parseStrictJson(bytes, { what: 'manifest.json' }));
}
