import { z } from 'zod';
import { goArchitecture } from '../store/platform.ts';
import { exportImageArgsSchema } from './archive/export-image.ts';
import { mergeImagesArgsSchema } from './archive/merge-images.ts';
import { pullImageArgsSchema } from './archive/pull-image.ts';
import { buildImageArgsSchema } from './build/build-image-args.ts';
import { pureLayerArgsSchema } from './build/pure-layer.ts';
import { rootLayerArgsSchema } from './build/root-layer.ts';
import { runWithOverlayArgsSchema } from './build/run-with-overlay.ts';
import { binShArgsSchema, caCertificatesArgsSchema, usrBinEnvArgsSchema } from './helpers/links.ts';
import { mergeDrvsArgsSchema } from './helpers/merge-drvs.ts';
import { fakeNssArgsSchema } from './helpers/nss.ts';
import { shadowSetupArgsSchema } from './helpers/shadow-setup.ts';
import { streamLayeredImageArgsSchema } from './layered/args.ts';
import { buildLayeredImageArgsSchema, buildLayeredImageWithNixDbArgsSchema } from './layered/compressed.ts';
import { buildImageWithNixDbArgsSchema } from './nix/build-image.ts';
import { buildNixShellImageArgsSchema, streamNixShellImageArgsSchema } from './nix/shell-image.ts';
import { buildContainerArgsSchema } from './oci-runtime/args.ts';
import { shellScriptArgsSchema } from './script/shell-script.ts';

/** The arguments of every function that a recipe can name, by its name. */
export const argumentSchemas = {
  binSh: binShArgsSchema,
  buildContainer: buildContainerArgsSchema,
  buildImage: buildImageArgsSchema,
  buildImageWithNixDb: buildImageWithNixDbArgsSchema,
  buildLayeredImage: buildLayeredImageArgsSchema,
  buildLayeredImageWithNixDb: buildLayeredImageWithNixDbArgsSchema,
  buildNixShellImage: buildNixShellImageArgsSchema,
  caCertificates: caCertificatesArgsSchema,
  exportImage: exportImageArgsSchema,
  fakeNss: fakeNssArgsSchema,
  mergeDrvs: mergeDrvsArgsSchema,
  mergeImages: mergeImagesArgsSchema,
  mkPureLayer: pureLayerArgsSchema,
  mkRootLayer: rootLayerArgsSchema,
  pullImage: pullImageArgsSchema,
  runWithOverlay: runWithOverlayArgsSchema,
  shadowSetup: shadowSetupArgsSchema,
  shellScript: shellScriptArgsSchema,
  streamLayeredImage: streamLayeredImageArgsSchema,
  streamNixShellImage: streamNixShellImageArgsSchema,
  usrBinEnv: usrBinEnvArgsSchema,
} as const;

/** The functions that a recipe can name. */
export type RecipeFunction = keyof typeof argumentSchemas;

/** A recipe: the name of a function, and its arguments beside it. */
export type Recipe = { [Name in RecipeFunction]: { function: Name } & z.input<(typeof argumentSchemas)[Name]> }[RecipeFunction];

/** Tells whether a name is one of {@link argumentSchemas}. */
export function isRecipeFunction(name: string): name is RecipeFunction {
  return Object.hasOwn(argumentSchemas, name);
}

/** Gives the JSON schema of recipes, as published in `schemas/recipe.schema.json`. */
export function recipeJsonSchema(): Record<string, unknown> {
  const variants = Object.entries(argumentSchemas).map(([name, schema]) => {
    const { properties, required, ...rest } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any', override: withoutMachine });
    delete rest.$schema;
    return {
      title: name,
      ...rest,
      properties: { $schema: { type: 'string' }, function: { const: name }, ...properties },
      required: ['function', ...(required ?? [])],
    };
  });
  return {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    title: 'Recipe of rootlayer build',
    type: 'object',
    required: ['function'],
    properties: { function: { enum: Object.keys(argumentSchemas) } },
    oneOf: variants,
  };
}

/** What this machine's own architecture is, is no part of the schema. */
function withoutMachine({ zodSchema, jsonSchema }: { zodSchema: z.core.$ZodType; jsonSchema: z.core.JSONSchema.BaseSchema }): void {
  if (zodSchema instanceof z.ZodDefault && jsonSchema.default === goArchitecture()) delete jsonSchema.default;
}
