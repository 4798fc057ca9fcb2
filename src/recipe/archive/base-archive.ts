import { createHash } from 'node:crypto';
import { type Digest, digestOf } from '../../core/digest.ts';
import { RootlayerError } from '../../core/errors.ts';
import type { Compression } from '../../core/image.ts';
import { type DockerManifest, parseDockerManifest } from '../../core/manifest.ts';
import { parseStrictJson } from '../../core/strict-json.ts';
import { type ArchiveFile, ArchiveFiles, type Listing } from '../../store/ingest/archive-files.ts';
import { type Candidate, MAX_DOCUMENT_BYTES, type ReadFile, readDocument } from '../../store/ingest/candidate.ts';
import { dockerArchiveCandidates } from '../../store/ingest/docker-archive.ts';
import { parseMemberName } from '../../store/ingest/member-name.ts';
import { ociLayoutCandidates } from '../../store/ingest/oci-layout.ts';
import { type BaseChoice, choose, fittingPlatform, isUnnamed, namesOf } from './choice.ts';
import { type BaseLayer, openLayer } from './layers.ts';
import type { OuterMember } from './members.ts';
import { namingFile, type OuterArchive, openOuterArchive } from './outer.ts';

export type { BaseChoice } from './choice.ts';
export type { BaseLayer } from './layers.ts';

/** An image of an archive that is open. */
export type ArchivedImage = {
  /** Digest of the config. */
  readonly id: Digest;
  readonly config: Record<string, unknown>;
  readonly configText: string;
  /** name:tag, in the spelling of `parseImageName`. */
  readonly tags: readonly string[];
  /** The same as the archive spells them, and those that `parseImageName` cannot read. */
  readonly repoTags: readonly string[];
  /** Bottom to top; one that the manifest lists twice is here twice. */
  readonly layers: readonly BaseLayer[];
};

/** An image in a file of the user. Dispose it to close its files. */
export interface BaseImage extends AsyncDisposable, ArchivedImage {
  /** True when the archive holds several images and the first was taken because none was named. */
  readonly isFirstOfSeveral: boolean;
}

/** All images of a file of the user, each once. Dispose it to close its files. */
export interface BaseImages extends AsyncDisposable {
  readonly images: readonly ArchivedImage[];
  /** How the archive itself is compressed. */
  readonly compression: Compression;
}

/**
 * Opens an image of a docker-archive (`<id>/layer.tar`, links to `<hex>.tar`, or `blobs/sha256`) or an OCI layout (tar or directory), plain, gzip or
 * zstd, with the caller's own rights and nothing else. Names and tags are compared whole. Documents are checked here, layers while they are streamed;
 * a compressed layer is read through once, for its size. Of several images for several platforms, this machine's goes first.
 *
 * Throws `E_NOT_FOUND` listing what there is, `E_IMAGE_AMBIGUOUS`, `E_IMAGE_FORMAT`, `E_MANIFEST`, `E_CONFIG`, `E_DIGEST`, `E_SIZE`,
 * `E_COMPRESSION`, `E_REF`, and the `E_ARCHIVE_` codes.
 */
export async function openBaseImage(file: string, choice: BaseChoice, signal: AbortSignal): Promise<BaseImage> {
  return await opened(file, signal, async (contents, outer) => {
    const chosen = choose(contents.candidates, choice, file);
    const image = await readImage(contents, chosen, signal);
    const isFirstOfSeveral = isUnnamed(choice) && new Set(contents.candidates.map(({ digests }) => digests[0])).size > 1;
    return { ...image, isFirstOfSeveral, [Symbol.asyncDispose]: disposer(outer) };
  });
}

/** Opens all images of an archive like {@link openBaseImage}; of those for several platforms, this machine's. Throws the same. */
export async function openBaseImages(file: string, signal: AbortSignal): Promise<BaseImages> {
  return await opened(file, signal, async (contents, outer) => {
    const images = new Map<Digest, ArchivedImage>();
    for (const candidate of fittingPlatform(contents.candidates)) {
      const [id] = candidate.digests;
      if (id !== undefined && !images.has(id)) images.set(id, await readImage(contents, candidate, signal));
    }
    return { images: [...images.values()], compression: outer.compression, [Symbol.asyncDispose]: disposer(outer) };
  });
}

async function opened<T>(file: string, signal: AbortSignal, work: (contents: Contents, outer: OuterArchive) => Promise<T>): Promise<T> {
  const outer = await openOuterArchive(file, signal);
  try {
    return await work(contentsOf(outer), outer);
  } catch (error) {
    await outer[Symbol.asyncDispose]();
    throw namingFile(file, error);
  }
}

function disposer(outer: OuterArchive): () => Promise<void> {
  return async () => await outer[Symbol.asyncDispose]();
}

/** An archive, interpreted: its images in the order of its manifest, if it has one. */
type Contents = {
  readonly candidates: readonly Candidate[];
  readonly read: ReadFile;
  readonly memberOf: (file: ArchiveFile) => OuterMember;
  readonly manifest: DockerManifest | null;
};

function contentsOf(outer: OuterArchive): Contents {
  const memberOf = (file: ArchiveFile): OuterMember => {
    const member = outer.members[file.n];
    if (member === undefined) throw new RootlayerError('E_INTERNAL', `Cannot find member ${file.n} of an image archive`);
    return member;
  };
  const read: ReadFile = (file) => memberOf(file).readStart(file.sizeBytes);
  const files = filesOf(outer);
  const file = files.get('manifest.json');
  if (file === null) return { candidates: ociLayoutCandidates(files, read), read, memberOf, manifest: null };
  const manifest = parseDockerManifest(parseStrictJson(readDocument(file, read), { what: 'manifest.json' }));
  return { candidates: dockerArchiveCandidates(file, files, read), read, memberOf, manifest };
}

async function readImage(contents: Contents, candidate: Candidate, signal: AbortSignal): Promise<ArchivedImage> {
  const { candidates, read, memberOf, manifest } = contents;
  const image = candidate.open();
  const names = manifest?.[candidates.indexOf(candidate)]?.Layers;
  const tags = namesOf(candidates, candidate);
  const layers: BaseLayer[] = [];
  for (const [index, layer] of image.layers.entries()) {
    const member = memberOf(layer.file);
    layers.push(await openLayer(member, layer, names?.[index] ?? plainName(member), signal));
  }
  return {
    id: image.config.file.digest,
    config: image.config.value,
    configText: read(image.config.file).toString('utf8'),
    tags,
    repoTags: manifest === null ? tags : repoTagsOf(contents, manifest, candidate),
    layers,
  };
}

function repoTagsOf({ candidates }: Contents, manifest: DockerManifest, candidate: Candidate): string[] {
  const same = manifest.filter((_entry, at) => candidates[at]?.digests[0] === candidate.digests[0]);
  return [...new Set(same.flatMap(({ RepoTags }) => RepoTags ?? []))];
}

/** The files as the store's own interpretation takes them: numbered by their place among the members. */
function filesOf(outer: OuterArchive): ArchiveFiles {
  const members = outer.members.flatMap((member, n): Listing['members'] => {
    const name = parseMemberName(member.name);
    if (member.type === 'directory') return [];
    if (member.type === 'symlink' || member.type === 'hardlink')
      return [{ kind: member.type, name, target: member.linkName.toString('hex') }];
    const head = member.readStart(HEAD).toString('hex');
    return [{ kind: 'file', name, n, sizeBytes: member.sizeBytes, digest: knownDigest(member, name, n), head }];
  });
  return new ArchiveFiles({ members, sizeBytes: 0 });
}

const HEAD = 8;

/**
 * Documents are hashed. What is larger is a layer, whose diffID is checked while it is streamed: until then it counts as what its name says it is, or as
 * equal to nothing else.
 */
function knownDigest(member: OuterMember, name: string, n: number): Digest {
  if (member.sizeBytes <= MAX_DOCUMENT_BYTES) return digestOf(createHash('sha256').update(member.readStart(member.sizeBytes)).digest());
  const claimed = CLAIM.exec(name)?.[1];
  return digestOf(claimed ?? createHash('sha256').update(`member ${n}`).digest());
}

const CLAIM = /^(?:blobs\/sha256\/|sha256:)?([0-9a-f]{64})(?:\.json)?$/;

function plainName(member: OuterMember): string {
  return member.name.toString('latin1').replace(/^(?:\.\/)+/, '');
}
