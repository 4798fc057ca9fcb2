import { readdirSync, readFileSync } from 'node:fs';
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

t.test('docs/recipes.md has a row for each argument of each function', async (t) => {
  for (const [name, schema] of Object.entries(argumentSchemas)) {
    const section = docs.split(/^### /m).find((text) => text.startsWith(`${name}\n`)) ?? '';
    const missing = Object.keys(schema.shape).filter((key) => !section.includes(`\`${key}\``) && !COMMON.has(key));
    t.strictSame(missing, [], name);
  }
});

/** Arguments that docs/recipes.md explains once, in the table "Arguments that several functions have". */
const COMMON = new Set(
  [...(docs.split(/^## /m).find((text) => text.startsWith('Arguments that several')) ?? '').matchAll(/^\| (.*?) \|/gm)].flatMap(
    ([, cell = '']) => [...cell.matchAll(/`(\w+)`/g)].map(([, name = '']) => name),
  ),
);
