import { realpathSync, statSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { parseArguments } from '../arguments.ts';
import { recipeError } from '../recipe-error.ts';
import type { FileNode, Tree } from '../tree/tree.ts';
import { linkTree } from './tree.ts';

const inImage = z.string().regex(/^\/[^\0]*$/, 'want an absolute path');

/** What {@link usrBinEnv} takes. */
export const usrBinEnvArgsSchema = z.strictObject({
  /** The directory of the coreutils, whose `bin/env` is meant. */
  coreutils: inImage.default('/'),
});

/** What {@link binSh} takes. */
export const binShArgsSchema = z.strictObject({
  /** A bash for people to type into. */
  bash: inImage.default('/bin/bash'),
});

/** What {@link caCertificates} takes. */
export const caCertificatesArgsSchema = z.strictObject({
  /** Where the image has a bundle already; null to put this machine's into it. */
  bundle: inImage.nullable().default(null),
  /** This machine's bundle. */
  source: z.string().min(1).default('/etc/ssl/certs/ca-certificates.crt'),
});

export type UsrBinEnvArgs = z.input<typeof usrBinEnvArgsSchema>;
export type BinShArgs = z.input<typeof binShArgsSchema>;
export type CaCertificatesArgs = z.input<typeof caCertificatesArgsSchema>;

/** Gives `/usr/bin/env` as a link, for scripts that begin with it. Source: nixpkgs dockerTools, usrBinEnv. */
export function usrBinEnv(args: UsrBinEnvArgs = {}): Tree {
  const { coreutils } = parseArguments(usrBinEnvArgsSchema, args);
  return linkTree({ 'usr/bin/env': path.posix.join(coreutils, 'bin/env') });
}

/** Gives `/bin/sh` as a link to bash, so that `docker run -it IMAGE` is of use. Source: nixpkgs dockerTools, binSh. */
export function binSh(args: BinShArgs = {}): Tree {
  const { bash } = parseArguments(binShArgsSchema, args);
  return linkTree({ 'bin/sh': bash });
}

/**
 * Gives a bundle of certificates at the three places where programs look for one: links to where the image has it, or this machine's own at
 * `/etc/ssl/certs/ca-certificates.crt` and links to that. Throws `E_RECIPE` when there is none. Source: nixpkgs dockerTools, caCertificates.
 */
export function caCertificates(args: CaCertificatesArgs = {}): Tree {
  const { bundle, source } = parseArguments(caCertificatesArgsSchema, args);
  const places = BUNDLE_PLACES.filter((place) => bundle !== null || place !== OWN_BUNDLE);
  const tree = linkTree(Object.fromEntries(places.map((place) => [place, bundle ?? `/${OWN_BUNDLE}`])));
  if (bundle === null) tree.insert(Buffer.from(OWN_BUNDLE), bundleFile(source));
  return tree;
}

const OWN_BUNDLE = 'etc/ssl/certs/ca-certificates.crt';
const BUNDLE_PLACES = ['etc/ssl/certs/ca-bundle.crt', OWN_BUNDLE, 'etc/pki/tls/certs/ca-bundle.crt'];

function bundleFile(source: string): FileNode {
  try {
    const file = realpathSync(source);
    const found = statSync(file);
    if (!found.isFile()) throw new Error('it is no file');
    const { size } = found;
    return { type: 'file', mode: 0o444, uid: 0, gid: 0, mtimeSec: 0, size, source: { kind: 'path', path: Buffer.from(file) } };
  } catch (error) {
    const why = error instanceof Error ? ('code' in error ? String(error.code) : error.message) : String(error);
    throw recipeError(
      ['source'],
      `${JSON.stringify(source)}: ${why}, want a bundle of certificates`,
      'install the package ca-certificates',
      error,
    );
  }
}
