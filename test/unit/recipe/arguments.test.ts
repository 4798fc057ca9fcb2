import t from 'tap';
import { parseArguments } from '../../../src/recipe/arguments.ts';
import { inFile, recipeError } from '../../../src/recipe/recipe-error.ts';
import { runRecipe } from '../../../src/recipe/run-recipe.ts';
import { argumentSchemas } from '../../../src/recipe/schema.ts';
import { quietContext } from '../../helpers/tiny-store.ts';

const schema = argumentSchemas.buildImage;

t.test('parseArguments() names the place of what is wrong, and what is wanted', async (t) => {
  const samples: [args: Record<string, unknown>, message: string][] = [
    [{}, '/name: it is missing, want a string'],
    [{ name: 'x', tags: '1' }, '/tags: there is no such member, did you mean "tag"?'],
    [{ name: 'x', copyToRoots: '1' }, '/copyToRoots: there is no such member, did you mean "copyToRoot"?'],
    [{ name: 'x', RunAsRoot: '1' }, '/RunAsRoot: there is no such member, did you mean "runAsRoot"?'],
    [{ name: 'x', keepContentsDirlinks: 'yes' }, '/keepContentsDirlinks: it is a string, want true or false'],
    [{ name: 'x', uid: '0' }, '/uid: it is a string, want a number'],
    [{ name: 'x', uid: -1 }, '/uid: Too small: expected number to be >=0'],
    [{ name: 'x', config: ['a'] }, '/config: it is a list, want an object'],
    [
      { name: 'x', copyToRoot: [{ function: 'fakeNss', extraPasswdLine: [] }] },
      '/copyToRoot/0/extraPasswdLine: there is no such member, did you mean "extraPasswdLines"?',
    ],
    [{ name: 'x', copyToRoot: 3 }, '/copyToRoot: want a path, an object such as {"function": "binSh"}, or a list of them'],
    [{ name: 'x', created: 'then' }, '/created: want a time such as "1970-01-01T00:00:01Z", or "now"'],
    [{ name: 'x', compressor: 'bz2' }, '/compressor: Invalid option: expected one of "none"|"gz"|"zstd"'],
  ];
  for (const [args, message] of samples) {
    t.throws(() => parseArguments(schema, args), { code: 'E_RECIPE', message: `Cannot use recipe: ${message}` }, JSON.stringify(args));
  }
});

t.test('parseArguments() lists the known members when none is near', async (t) => {
  t.throws(() => parseArguments(argumentSchemas.binSh, { zzzzzzzz: 1 }), {
    message: 'Cannot use recipe: /zzzzzzzz: there is no such member',
    hint: 'known are: bash',
  });
});

t.test('runRecipe() refuses a missing and an unknown function', async (t) => {
  await t.rejects(runRecipe({}, quietContext()), {
    code: 'E_RECIPE',
    message: 'Cannot use recipe: /function: it is missing, want the name of a function',
  });
  await t.rejects(runRecipe({ function: 'buildimage' }, quietContext()), {
    message: 'Cannot use recipe: /function: there is no function "buildimage", did you mean "buildImage"?',
  });
});

t.test('inFile() puts the file in front of the place, and leaves other errors alone', async (t) => {
  t.match(inFile(recipeError(['config', 'a/b~'], 'it is wrong', 'a hint'), 'x.json'), {
    code: 'E_RECIPE',
    message: 'Cannot use x.json: /config/a~1b~0: it is wrong',
    hint: 'a hint',
  });
  const other = new Error('x');
  t.equal(inFile(other, 'x.json'), other);
});
