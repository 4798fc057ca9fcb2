import type { DiffId, Digest } from '../../core/digest.ts';
import { isDigest } from '../../core/digest.ts';
import { RootlayerError } from '../../core/errors.ts';
import { diffIdsOf, type ImageConfig, parseImageConfig } from '../../core/image-config.ts';
import { parseImageName } from '../../core/reference.ts';
import { parseStrictJson } from '../../core/strict-json.ts';
import type { ArchiveFile } from './archive-files.ts';

/** One layer of an image in an archive: where its blob lies and what it must unpack to. */
export type ArchiveLayer = { readonly file: ArchiveFile; readonly diffId: DiffId };

/** An image of an archive whose documents have been checked against each other; the layers' contents have not. */
export type ArchiveImage = {
  readonly names: string[];
  readonly config: { readonly file: ArchiveFile; readonly value: ImageConfig };
  /** Bottom to top. */
  readonly layers: ArchiveLayer[];
};

/** An image that an archive offers. */
export type Candidate = {
  /** As {@link parseImageName} gives them; names that it cannot read are left out. */
  readonly names: string[];
  /** By what else it can be chosen: the tag an OCI index gives it. */
  readonly tags: string[];
  /** Of the config, of the manifest and of the index entry that led to it. */
  readonly digests: Digest[];
  readonly platform: string | null;
  /** Checks its documents. Throws `E_MANIFEST`, `E_CONFIG`, `E_DIGEST`, `E_SIZE`. */
  open(): ArchiveImage;
};

/** Reads a file of an archive, of at most 4 MiB. */
export type ReadFile = (file: ArchiveFile) => Buffer;

/** Documents of an image are small; Docker refuses larger manifests too. */
export const MAX_DOCUMENT_BYTES = 4 * 1024 * 1024;

/**
 * Gives the candidate that `select` (a name:tag, the tag of an OCI index, or a digest) names exactly, or the only one there is. Candidates of
 * other platforms stand back when one of them fits this machine. Throws `E_IMAGE_AMBIGUOUS` and `E_NOT_FOUND`, both listing what there is.
 */
export function chooseCandidate(candidates: readonly Candidate[], select: string | null, platform: string): Candidate {
  const matching = select === null ? candidates : candidates.filter((candidate) => isMeant(candidate, select));
  if (matching.length === 0) {
    const what =
      select === null ? 'Cannot find an image in the archive' : `Cannot find image ${JSON.stringify(select.slice(0, 300))} in the archive`;
    throw new RootlayerError('E_NOT_FOUND', `${what}: it holds ${describeCandidates(candidates)}`);
  }
  const fitting = matching.filter((candidate) => candidate.platform === platform);
  const chosen = fitting.length > 0 ? fitting : matching;
  const [first] = chosen;
  if (first !== undefined && chosen.every((candidate) => candidate.digests[0] === first.digests[0])) return merged(first, chosen);
  throw new RootlayerError('E_IMAGE_AMBIGUOUS', `Cannot choose an image of the archive: it holds ${describeCandidates(chosen)}`, {
    hint: 'Choose one by its exact name:tag or digest.',
  });
}

function isMeant(candidate: Candidate, select: string): boolean {
  if (isDigest(select)) return candidate.digests.includes(select);
  if (candidate.tags.includes(select)) return true;
  return candidate.names.includes(readableNames([select])[0] ?? '');
}

/** One image under several names is one image. */
function merged(first: Candidate, all: readonly Candidate[]): Candidate {
  const names = [...new Set(all.flatMap((candidate) => candidate.names))];
  return { ...first, names, open: () => ({ ...first.open(), names }) };
}

/** Gives what there is to choose from, in words. */
export function describeCandidates(candidates: readonly Candidate[]): string {
  if (candidates.length === 0) return 'none';
  const words = candidates.map(({ names, tags, digests, platform }) => {
    const label = names.length > 0 ? names.join(', ') : tags.length > 0 ? tags.join(', ') : (digests[0] ?? 'an image without a name');
    return platform === null ? label : `${label} (${platform})`;
  });
  const shown = words.slice(0, 20).join('; ');
  return words.length > 20 ? `${shown}; and ${words.length - 20} more` : shown;
}

/** Gives the names that are well-formed, in one spelling, each once. */
export function readableNames(names: readonly string[]): string[] {
  const readable = names.flatMap((name) => {
    try {
      return [parseImageName(name)];
    } catch (error) {
      if (error instanceof RootlayerError && error.code === 'E_REF') return [];
      throw error;
    }
  });
  return [...new Set(readable)];
}

/**
 * Pairs the layers of a manifest with the diffIDs of the config, and checks what can be checked without unpacking. Throws `E_MANIFEST` when the
 * two differ in number, or when a plain layer has another diffID. Source: spec/threats.md A54.
 */
export function openImage(names: string[], configFile: ArchiveFile, layerFiles: readonly ArchiveFile[], read: ReadFile): ArchiveImage {
  const value = parseImageConfig(parseStrictJson(readDocument(configFile, read), { what: 'image config', maxBytes: MAX_DOCUMENT_BYTES }));
  const diffIds = diffIdsOf(value);
  if (diffIds.length !== layerFiles.length) {
    const counts = `the config lists ${diffIds.length} layers and the manifest ${layerFiles.length}`;
    throw new RootlayerError('E_MANIFEST', `Cannot use image ${configFile.digest}: ${counts}`);
  }
  const layers = diffIds.map((diffId, index) => {
    const file = layerFiles[index];
    if (file === undefined) throw new RootlayerError('E_MANIFEST', `Cannot use image ${configFile.digest}: layer ${index + 1} is missing`);
    return { file, diffId };
  });
  return { names, config: { file: configFile, value }, layers };
}

/** Reads a JSON document of an archive. Throws `E_MANIFEST` for one that is too large to be any. */
export function readDocument(file: ArchiveFile, read: ReadFile): Buffer {
  if (file.sizeBytes > MAX_DOCUMENT_BYTES) {
    throw new RootlayerError('E_MANIFEST', `Cannot read a document of ${file.sizeBytes} bytes: want at most ${MAX_DOCUMENT_BYTES}`);
  }
  return read(file);
}
