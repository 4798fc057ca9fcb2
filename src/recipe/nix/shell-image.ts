import path from 'node:path';
import { z } from 'zod';
import { parseArguments } from '../arguments.ts';
import { streamLayeredImageArgsSchema } from '../layered/args.ts';
import type { LayeredImage } from '../layered/image.ts';
import { mentionsInText } from '../layered/mentions.ts';
import { type LayeredExtras, layeredWith } from '../layered/stream-layered-image.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { recipeError } from '../recipe-error.ts';
import { compressed, compressorChoices, compressors } from '../tree/compressors.ts';
import { type Derivation, derivationSchema, parseDerivation } from './derivation.ts';
import { shellRc } from './shell-rc.ts';
import { shellTree } from './shell-tree.ts';

const absolute = z.string().regex(/^\/[^\0:]*$/, 'want an absolute path');
const id = z.int().min(0).max(4_294_967_294);
const layeredMembers = {
  tag: true,
  fromImage: true,
  fromImageName: true,
  fromImageTag: true,
  contents: true,
  architecture: true,
  created: true,
  mtime: true,
  maxLayers: true,
  storeDir: true,
  storeRoot: true,
  references: true,
  closure: true,
  layering: true,
  includeStorePaths: true,
  repoTag: true,
  compat: true,
} as const;

/** What {@link streamNixShellImage} takes: what dockerTools' function does, and where programs are that Nix would have found. */
export const streamNixShellImageArgsSchema = streamLayeredImageArgsSchema.pick(layeredMembers).extend({
  /** What the shell is for: a plain environment, or the output of `nix show-derivation`. */
  drv: derivationSchema,
  /** null: the name of the derivation, and `-env`. */
  name: z.string().min(1).nullable().default(null),
  uid: id.default(1000),
  gid: id.default(1000),
  /** Need not be there. */
  homeDirectory: absolute.default('/build'),
  /** A bash, in the image. */
  shell: absolute.default('/bin/bash'),
  /** Run in the shell, which then stays one for people. */
  command: z.string().nullable().default(null),
  /** Run in a shell that is not for people. */
  run: z.string().nullable().default(null),
  /** The directory with `bin/env`, in the image. */
  coreutils: absolute.default('/'),
  /** The bundle of certificates, in the image. */
  certificates: absolute.default('/etc/ssl/certs/ca-certificates.crt'),
});

/** See {@link streamNixShellImageArgsSchema}. */
export type StreamNixShellImageArgs = z.input<typeof streamNixShellImageArgsSchema>;

/** What {@link buildNixShellImage} takes. */
export const buildNixShellImageArgsSchema = streamNixShellImageArgsSchema.extend({ compressor: z.enum(compressorChoices).default('gz') });

/** See {@link buildNixShellImageArgsSchema}. */
export type BuildNixShellImageArgs = z.input<typeof buildNixShellImageArgsSchema>;

/**
 * Makes an image that drops a person into the environment that something is built in: its variables, its shell, its own user, a directory `/build` that is
 * theirs, and a command `buildDerivation`. On a base image `/bin/sh` and `/usr/bin/env` are the base's, and its users stay. Needs no engine. Throws
 * `E_RECIPE`, also for `command` together with `run`. Source: nixpkgs dockerTools, streamNixShellImage.
 */
export async function streamNixShellImage(args: StreamNixShellImageArgs, context: RecipeContext): Promise<LayeredImage> {
  const parsed = parseArguments(streamNixShellImageArgsSchema, args);
  if (parsed.command !== null && parsed.run !== null) {
    throw recipeError(
      ['run'],
      "streamNixShellImage: Can't specify both command and run",
      'keep "run" for what needs no person, else "command"',
    );
  }
  const drv = parseDerivation(parsed.drv);
  const extras: LayeredExtras = {
    trees: async (base) => [await shellTree(placesOf(parsed, drv), base, context.signal)],
    ignored: new Set(drv.outputs),
  };
  return await layeredWith(layeredArgs(parsed, drv), extras, context);
}

/** {@link streamNixShellImage} as a compressed archive, called by the name of the derivation. */
export async function buildNixShellImage(args: BuildNixShellImageArgs, context: RecipeContext): Promise<LayeredImage> {
  const { drv } = parseArguments(buildNixShellImageArgsSchema, args);
  const { compressor = 'gz', ...rest } = args;
  const image = await streamNixShellImage(rest, context);
  return {
    ...image,
    fileName: `${parseDerivation(drv).name}-env.tar${compressors[compressor].ext}`,
    open: (signal) => compressed(image.open(signal), compressor, signal),
    [Symbol.asyncDispose]: async () => await image[Symbol.asyncDispose](),
  };
}

type Parsed = z.output<typeof streamNixShellImageArgsSchema>;

/** Where things of the shell lie in the image. */
const OWN = '/etc/nix-shell';
const RC_FILE = `${OWN}/rc`;
const BUILD_DIR = '/build';

function staticPath({ shell }: Parsed): string {
  return `${path.posix.dirname(shell)}:${OWN}/bin`;
}

function placesOf(args: Parsed, drv: Derivation): Parameters<typeof shellTree>[0] {
  const { uid, gid, homeDirectory, shell, coreutils, storeDir } = args;
  const own = new Map([...drv.files].map(([name, text]) => [passedFile(name), text]));
  own.set(RC_FILE, shellRc({ path: staticPath(args), shell, command: args.command ?? args.run }));
  return {
    ...{ uid, gid, homeDirectory, shell, coreutils, storeDir },
    buildDir: BUILD_DIR,
    files: own,
    builder: { path: `${OWN}/bin/buildDerivation`, command: [drv.builder, ...drv.args] },
  };
}

function passedFile(name: string): string {
  return `${OWN}/pass-as-text-${name.replaceAll('/', '-')}`;
}

function layeredArgs(args: Parsed, drv: Derivation): z.output<typeof streamLayeredImageArgsSchema> {
  const { uid, gid, shell, run, fromImage, storeDir } = args;
  const defaults = streamLayeredImageArgsSchema.parse({ name: args.name ?? `${drv.name}-env` });
  const picked = Object.fromEntries(Object.entries(args).filter(([key]) => Object.hasOwn(layeredMembers, key)));
  const programs = mentionsInText(
    [shell, args.coreutils, args.certificates, drv.builder, ...drv.args, ...drv.files.values()].join('\n'),
    storeDir,
  );
  return {
    ...defaults,
    ...(picked as Pick<Parsed, keyof typeof layeredMembers>),
    closure: [...args.closure, ...programs],
    config: {
      ...(fromImage === null ? {} : { Entrypoint: null }),
      User: `${uid}:${gid}`,
      Cmd: run === null ? [shell, '--rcfile', RC_FILE] : [shell, RC_FILE],
      WorkingDir: BUILD_DIR,
      Env: environmentOf(args, drv),
    },
  };
}

/** Sorted by name, as Nix prints it; later ones stand over the derivation's own. */
function environmentOf(args: Parsed, drv: Derivation): string[] {
  const before = {
    SSL_CERT_FILE: args.certificates,
    NIX_SSL_CERT_FILE: args.certificates,
    PATH: staticPath(args),
    HOME: args.homeDirectory,
    NIX_STORE: args.storeDir,
    NIX_BUILD_CORES: '1',
  };
  const passed = [...drv.files.keys()].map((name) => [`${name}Path`, passedFile(name)]);
  const places = ['NIX_BUILD_TOP', 'TMPDIR', 'TEMPDIR', 'TMP', 'TEMP', 'PWD'].map((name) => [name, BUILD_DIR]);
  const all: Record<string, string> = {
    ...before,
    ...Object.fromEntries(drv.variables),
    ...Object.fromEntries([...passed, ...places]),
    TERM: 'xterm-256color',
  };
  return Object.keys(all)
    .sort()
    .map((name) => `${name}=${all[name] ?? ''}`);
}
