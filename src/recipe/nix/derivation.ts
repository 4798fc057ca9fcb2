import path from 'node:path';
import { z } from 'zod';
import { recipeError } from '../recipe-error.ts';

const env = z.record(z.string().regex(/^[^=\0]+$/, 'want a name without "="'), z.string());

/** An environment that something is built in, for people who do not have Nix. */
const plainSchema = z.strictObject({
  name: z.string().min(1),
  /** The program that builds, and its arguments. */
  builder: z.string().min(1),
  args: z.array(z.string()).default([]),
  env: env.default({}),
  /** Names of variables whose values are put into files. */
  passAsFile: z.array(z.string()).default([]),
});

/** One derivation as `nix show-derivation` prints it. */
const shownSchema = z.looseObject({
  builder: z.string(),
  args: z.array(z.string()),
  env,
  outputs: z.record(z.string(), z.looseObject({ path: z.string().nullish() })),
  inputSrcs: z.array(z.string()).nullish(),
  name: z.string().nullish(),
});

/** What {@link parseDerivation} takes: a plain environment, or the output of `nix show-derivation` for one derivation as it is. */
export const derivationSchema = z.union([plainSchema, z.record(z.string().regex(/\.drv$/, 'want the path of a .drv file'), shownSchema)], {
  error: 'want an object with name, builder and env, or what "nix show-derivation" prints',
});

/** An environment to be in. */
export type Derivation = {
  readonly name: string;
  readonly builder: string;
  readonly args: readonly string[];
  /** Sorted by name; without the variables that are files. */
  readonly variables: ReadonlyMap<string, string>;
  /** Values that are files, by variable. */
  readonly files: ReadonlyMap<string, string>;
  /** Where results would go: named by variables, and not there. */
  readonly outputs: readonly string[];
};

/** Gives a derivation in either form as one. Throws `E_RECIPE` for several at once, and for one with structured attributes. */
export function parseDerivation(value: z.output<typeof derivationSchema>): Derivation {
  if (isPlain(value)) return derivation(value, value.passAsFile, []);
  const [first, second] = Object.entries(value);
  if (first === undefined || second !== undefined) throw recipeError(['drv'], 'want exactly one derivation');
  const [file, shown] = first;
  const name = shown.env['name'] ?? shown.name ?? path.posix.basename(file, '.drv').replace(/^[^-]*-/, '');
  if (Object.hasOwn(shown.env, '__json')) {
    throw recipeError(['drv'], `streamNixShellImage: Does not work with the derivation ${name} because it uses __structuredAttrs`);
  }
  const passed = (shown.env['passAsFile'] ?? '').split(/\s+/).filter((word) => word !== '');
  const outputs = Object.values(shown.outputs).flatMap((output) => output.path ?? []);
  return derivation({ ...shown, name }, passed, outputs);
}

type Plain = z.output<typeof plainSchema>;

function isPlain(value: z.output<typeof derivationSchema>): value is Plain {
  return 'builder' in value;
}

function derivation(
  { name, builder, args, env: all }: Pick<Plain, 'name' | 'builder' | 'args' | 'env'>,
  passed: readonly string[],
  outputs: readonly string[],
): Derivation {
  const entries = Object.entries(all).sort(([a], [b]) => (a < b ? -1 : 1));
  return {
    ...{ name, builder, args, outputs },
    variables: new Map(entries.filter(([key]) => !passed.includes(key))),
    files: new Map(entries.filter(([key]) => passed.includes(key))),
  };
}
