import { z } from 'zod';
import { assertNever } from '../../core/assert-never.ts';
import type { Tree } from '../tree/tree.ts';
import { binSh, binShArgsSchema, caCertificates, caCertificatesArgsSchema, usrBinEnv, usrBinEnvArgsSchema } from './links.ts';
import { fakeNss, fakeNssArgsSchema } from './nss.ts';

/** A helper that gives a few files, as recipes write it: alone, or among the contents of an image. */
export const helperRecipeSchema = z.discriminatedUnion('function', [
  fakeNssArgsSchema.extend({ function: z.literal('fakeNss') }),
  binShArgsSchema.extend({ function: z.literal('binSh') }),
  usrBinEnvArgsSchema.extend({ function: z.literal('usrBinEnv') }),
  caCertificatesArgsSchema.extend({ function: z.literal('caCertificates') }),
]);

/** See {@link helperRecipeSchema}. */
export type HelperRecipe = z.input<typeof helperRecipeSchema>;

/** Gives the files of a helper. Throws `E_RECIPE`. */
export function helperTree(recipe: HelperRecipe): Tree {
  switch (recipe.function) {
    case 'fakeNss':
      return fakeNss(withoutFunction(recipe));
    case 'binSh':
      return binSh(withoutFunction(recipe));
    case 'usrBinEnv':
      return usrBinEnv(withoutFunction(recipe));
    case 'caCertificates':
      return caCertificates(withoutFunction(recipe));
    default:
      return assertNever(recipe);
  }
}

function withoutFunction<T extends HelperRecipe>({ function: _name, ...args }: T): Omit<T, 'function'> {
  return args;
}

/** Something to put into an image: a path of this machine, or a helper's files. */
export const contentItemSchema = z.union([z.string().min(1), helperRecipeSchema], {
  error: 'want a path, or an object such as {"function": "binSh"}',
});

/** See {@link contentItemSchema}. */
export type ContentItem = z.input<typeof contentItemSchema>;
