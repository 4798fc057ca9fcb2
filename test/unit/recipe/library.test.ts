import process from 'node:process';
import t from 'tap';
import { argumentSchemas } from '../../../src/recipe/schema.ts';

/** On its own: a dynamic import beside `await using` is not rewritten by the compiler. */
const load = (): Promise<typeof import('../../../src/index.ts')> => import('../../../src/index.ts');

t.test('the library has every function that a recipe can name, and tarsum and compressors', async (t) => {
  const library: Record<string, unknown> = await load();
  for (const name of [...Object.keys(argumentSchemas), 'tarsum']) t.type(library[name], 'function', name);
  t.strictSame(Object.keys(library['compressors'] ?? {}).sort(), ['gz', 'none', 'zstd']);
});

t.test('importing the library loads no native module', async (t) => {
  await load();
  const loaded = (process.report.getReport() as { sharedObjects: string[] }).sharedObjects;
  t.strictSame(
    loaded.filter((file) => file.endsWith('.node')),
    [],
  );
});

t.test('recipeContext() without an engine fails only when a script must run', async (t) => {
  const { recipeContext, streamLayeredImage } = await load();
  await using image = await streamLayeredImage({ name: 'x', tag: '1', contents: [{ function: 'binSh' }] }, recipeContext());
  t.equal(image.imageTag, '1');
  await t.rejects(streamLayeredImage({ name: 'x', extraCommands: 'true' }, recipeContext()), {
    code: 'E_UNREACHABLE',
    message: /no engine was given/,
  });
});
