import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { z } from 'zod';
import { type Digest, digestOf, isDigest } from '../../core/digest.ts';
import { splitImageName } from '../../core/reference.ts';
import { goArchitecture } from '../../store/platform.ts';
import { parseArguments } from '../arguments.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { recipeError } from '../recipe-error.ts';
import type { ImageFile } from '../tree/image-file.ts';
import { openRange } from './members.ts';
import { checkHash, parseSha256, sriOf } from './pull-hash.ts';
import { ARCHIVE, copyFromRegistry, type Registry, readManifest } from './skopeo.ts';

const imageName = z.string().refine(isBareName, 'want the name of an image without tag and digest, such as "docker.io/library/debian"');
const imageDigest = z.string().refine(isDigest, 'want "sha256:" and 64 lower-case hex digits');
const sha256 = z.string().refine((text) => parseSha256(text) !== null, 'want a sha256 in hex, base 32 of Nix, or "sha256-" and base 64');
const tag = z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/, 'want the tag of an image');
const platformWord = z.string().regex(/^[a-z0-9]+$/, 'want a word of Go, such as linux or amd64');

const common = {
  imageName,
  os: platformWord.default('linux'),
  /** In Go's words; this machine's by default. */
  arch: platformWord.default(goArchitecture),
  /** Name and tag that the archive gives the image. */
  finalImageName: imageName.nullable().default(null),
  /** false: certificates are not checked, and plain HTTP is taken. */
  tlsVerify: z.boolean().default(true),
} as const;

/** What {@link pullImage} takes: the names, meanings and defaults of dockerTools. */
export const pullImageArgsSchema = z.strictObject({
  ...common,
  imageDigest,
  /** Of the archive that is made; one of the two must be there. */
  sha256: sha256.nullable().default(null),
  hash: sha256.nullable().default(null),
  finalImageTag: tag.default('latest'),
  /** Of the file. */
  name: z
    .string()
    .regex(/^[^/\0]+$/, 'want the name of a file, without a directory')
    .nullable()
    .default(null),
});

/** See {@link pullImageArgsSchema}. */
export type PullImageArgs = z.input<typeof pullImageArgsSchema>;

/**
 * Fetches an image by its digest from a registry, as an uncompressed docker-archive with the given hash. skopeo does it, with the variables for proxies and
 * accounts that are set. The whole archive is checked before any of it can be read. Throws `E_RECIPE`, `E_REGISTRY`, `E_DIGEST`, `E_TOOL`.
 */
export async function pullImage(args: PullImageArgs, { signal }: Pick<RecipeContext, 'signal'>): Promise<ImageFile> {
  const parsed = parseArguments(pullImageArgsSchema, args);
  const wanted = wantedHash(parsed);
  const pulled = await pull(parsed, signal);
  try {
    checkHash(parsed.imageName, pulled.sha256, wanted);
    return { ...pulled.file, fileName: parsed.name ?? pulled.file.fileName };
  } catch (error) {
    await pulled.file[Symbol.asyncDispose]();
    throw error;
  }
}

/** What {@link prefetchImage} takes. */
export const prefetchImageArgsSchema = z.strictObject({
  ...common,
  imageTag: tag.default('latest'),
  /** null: what the tag means now. */
  imageDigest: imageDigest.nullable().default(null),
  /** null: that of the image. */
  finalImageTag: tag.nullable().default(null),
});

/** See {@link prefetchImageArgsSchema}. */
export type PrefetchImageArgs = z.input<typeof prefetchImageArgsSchema>;

/** The arguments that make {@link pullImage} give what was just there: `sha256` in hex, `hash` as Subresource Integrity has it. */
export type Prefetched = {
  imageName: string;
  imageDigest: string;
  sha256: string;
  hash: string;
  finalImageName: string;
  finalImageTag: string;
  os: string;
  arch: string;
  tlsVerify: boolean;
};

/** Finds out digest and hash of an image. Throws as {@link pullImage}. */
export async function prefetchImage(args: PrefetchImageArgs, { signal }: Pick<RecipeContext, 'signal'>): Promise<Prefetched> {
  const parsed = parseArguments(prefetchImageArgsSchema, args);
  const { os, arch, tlsVerify } = parsed;
  const finalImageTag = parsed.finalImageTag ?? parsed.imageTag;
  const digest = parsed.imageDigest ?? (await resolveTag(`${parsed.imageName}:${parsed.imageTag}`, { os, arch, tlsVerify }, signal));
  const pulled = await pull({ ...parsed, imageDigest: digest, finalImageTag }, signal);
  await pulled.file[Symbol.asyncDispose]();
  return {
    ...{ imageName: parsed.imageName, imageDigest: digest, sha256: pulled.sha256.toString('hex'), hash: sriOf(pulled.sha256) },
    ...{ finalImageName: parsed.finalImageName ?? parsed.imageName, finalImageTag, os, arch, tlsVerify },
  };
}

function isBareName(text: string): boolean {
  try {
    const { name } = splitImageName(`${text}:tag`);
    return name !== '' && !text.includes('@');
  } catch {
    return false;
  }
}

type Parsed = Omit<z.output<typeof pullImageArgsSchema>, 'sha256' | 'hash' | 'name'>;

function wantedHash({ sha256: first, hash: second }: { sha256: string | null; hash: string | null }): Buffer {
  const [one, two] = [first, second].map((text) => (text === null ? null : parseSha256(text)));
  if (one && two && !one.equals(two)) throw recipeError(['hash'], 'it is another hash than "sha256", want one of them');
  const wanted = one ?? two;
  if (wanted) return wanted;
  throw recipeError(
    ['sha256'],
    'it is missing, want the hash of the archive here or in "hash"',
    'rootlayer image pull --prefetch prints it',
  );
}

/** A list of manifests has a digest of its own, by which it can be pulled again. */
async function resolveTag(source: string, how: Omit<Registry, 'tmpDir'>, signal: AbortSignal): Promise<Digest> {
  return await withTmpDir(async (tmpDir) => {
    const manifest = await readManifest(source, { ...how, tmpDir }, signal);
    return digestOf(createHash('sha256').update(manifest).digest());
  });
}

/** The archive has no name any more when this returns: its descriptor is all there is of it. */
async function pull(parsed: Parsed, signal: AbortSignal): Promise<{ file: ImageFile; sha256: Buffer }> {
  const { os, arch, tlsVerify, imageName: from, finalImageTag } = parsed;
  const name = parsed.finalImageName ?? from;
  const fd = await withTmpDir(async (tmpDir) => {
    await copyFromRegistry(`${from}@${parsed.imageDigest}`, `${name}:${finalImageTag}`, { os, arch, tlsVerify, tmpDir }, signal);
    return openSync(path.join(tmpDir, ARCHIVE), 'r');
  });
  const { size } = fstatSync(fd);
  const file: ImageFile = {
    fileName: `docker-image-${name}-${finalImageTag}.tar`.replace(/[/:]/g, '-'),
    open: (use) => openRange(fd, 0, size, Buffer.from(ARCHIVE), use),
    [Symbol.asyncDispose]: once(() => closeSync(fd)),
  };
  try {
    const hash = createHash('sha256');
    for await (const chunk of file.open(signal) as AsyncIterable<Buffer>) hash.update(chunk);
    return { file, sha256: hash.digest() };
  } catch (error) {
    await file[Symbol.asyncDispose]();
    throw error;
  }
}

function once(close: () => void): () => Promise<void> {
  let isOpen = true;
  return async () => {
    if (isOpen) close();
    isOpen = false;
  };
}

async function withTmpDir<T>(work: (dir: string) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(path.join(tmpdir(), 'rootlayer-pull-'));
  try {
    return await work(dir);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
