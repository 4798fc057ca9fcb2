import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { argumentSchemas, isRecipeFunction, recipeJsonSchema } from '../../../src/recipe/schema.ts';
import { repoRoot } from '../../helpers/repo.ts';

const EXAMPLES = path.join(repoRoot, 'examples/recipes');
const docs = readFileSync(path.join(repoRoot, 'docs/recipes.md'), 'utf8');

t.test('schemas/recipe.schema.json is what recipeJsonSchema() gives', async (t) => {
  const published: unknown = JSON.parse(readFileSync(path.join(repoRoot, 'schemas/recipe.schema.json'), 'utf8'));
  t.strictSame(published, JSON.parse(JSON.stringify(recipeJsonSchema())), 'make it anew with "rootlayer build --schema"');
});

t.test('recipeJsonSchema() says nothing of the machine it was made on', async (t) => {
  t.notMatch(JSON.stringify(recipeJsonSchema()), /"default":"(?:amd64|arm64)"/);
});

t.test('docs/recipes.md has an example of each function, which is also a file in examples/recipes', async (t) => {
  const shown = [...docs.matchAll(/^```json\n(\{\n {2}"function".*?)^```$/gms)].map(([, text = '']) => text);
  const files = readdirSync(EXAMPLES).filter((name) => name.endsWith('.json'));
  t.strictSame(shown.sort(), files.map((name) => readFileSync(path.join(EXAMPLES, name), 'utf8')).sort());
  const named = shown.map((text) => JSON.parse(text).function as string);
  t.strictSame([...new Set(named)].sort(), Object.keys(argumentSchemas).sort());
});

t.test('the examples pass the schema of their function', async (t) => {
  for (const file of readdirSync(EXAMPLES).filter((name) => name.endsWith('.json'))) {
    const { function: name, ...args } = JSON.parse(readFileSync(path.join(EXAMPLES, file), 'utf8'));
    const schema = isRecipeFunction(name) ? argumentSchemas[name] : null;
    t.strictSame(schema?.safeParse(args).error?.issues ?? [], [], file);
    t.ok(schema, file);
  }
});

t.test('docs/recipes.md explains each argument of each function', async (t) => {
  for (const [name, schema] of Object.entries(argumentSchemas)) {
    const explained = explainedIn(name);
    t.strictSame(
      Object.keys(schema.shape).filter((key) => !explained.has(key) && !COMMON.has(key)),
      [],
      name,
    );
  }
});

t.test('docs/seed-parity.md has a row for each function, and names files that are there', async (t) => {
  const parity = readFileSync(path.join(repoRoot, 'docs/seed-parity.md'), 'utf8');
  const [rows = ''] = parity.split('## The checks');
  const named = new Set([...rows.matchAll(/^\|(.*?)\|/gm)].flatMap(([, cell = '']) => codeIn(cell)));
  t.strictSame(
    [...Object.keys(argumentSchemas), 'tarsum', 'compressors', 'mkDbExtraCommand'].filter((name) => !named.has(name)),
    [],
  );
  const files = [...parity.matchAll(/`((?:src|test|examples)\/[^`]+)`/g)].map(([, file = '']) => file.replace(/\.ts$/, ''));
  t.ok(files.length > 20);
  // Beside a build of this repository its sources may be missing, never their builds.
  const isThere = (file: string): boolean => ['', '.ts', '.js'].some((ending) => existsSync(path.join(repoRoot, file + ending)));
  t.strictSame(
    files.filter((file) => !isThere(file)),
    [],
  );
});

/** What stands in a function's section in the way of code, or in that of the function whose arguments it takes. */
function explainedIn(name: string): Set<string> {
  const section = docs.split(/^### /m).find((text) => text.startsWith(`${name}\n`)) ?? '';
  const prose = section.replace(/^```json.*?^```$/gms, '');
  const other = /Takes the arguments of `(\w+)`/.exec(prose)?.[1];
  return new Set([...codeIn(prose), ...(other === undefined ? [] : explainedIn(other))]);
}

function codeIn(text: string): string[] {
  return [...text.matchAll(/`(\w+)`/g)].map(([, word = '']) => word);
}

/** Arguments that docs/recipes.md explains once, in the table "Arguments that several functions have". */
const COMMON = new Set(
  codeIn((docs.split(/^## /m).find((text) => text.startsWith('Arguments that several')) ?? '').replace(/^[^|].*$/gm, '')),
);
