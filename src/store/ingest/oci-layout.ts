import type { Digest } from '../../core/digest.ts';
import { RootlayerError } from '../../core/errors.ts';
import {
  ANNOTATIONS,
  checkContent,
  type Descriptor,
  embeddedContent,
  kindOfMediaType,
  parseIndex,
  parseLayoutMarker,
  parseManifest,
} from '../../core/manifest.ts';
import { parseStrictJson } from '../../core/strict-json.ts';
import type { ArchiveFile, ArchiveFiles } from './archive-files.ts';
import { type Candidate, openImage, type ReadFile, readableNames, readDocument } from './candidate.ts';

/** Of all indexes and manifests together: a wide index of large ones must not keep the daemon busy. */
const MAX_WALK_BYTES = 16 * 1024 * 1024;

/** `index.json`, and one index in it. Source: spec/threats.md A56. */
const MAX_INDEX_DEPTH = 2;

/**
 * Gives the images of an OCI layout: those of `index.json` and of the indexes in it, without what is no image (attestations, artifacts).
 * Throws `E_MANIFEST`, `E_DIGEST`, `E_SIZE`. Source: OCI image-spec image-layout.md.
 */
export function ociLayoutCandidates(files: ArchiveFiles, read: ReadFile): Candidate[] {
  const marker = files.get('oci-layout');
  const index = files.get('index.json');
  if (marker === null || index === null) {
    throw new RootlayerError(
      'E_IMAGE_FORMAT',
      'Cannot read image archive: it has no manifest.json, and not both oci-layout and index.json',
    );
  }
  parseLayoutMarker(parseStrictJson(readDocument(marker, read), { what: 'oci-layout' }));
  const walk = new IndexWalk(files, read);
  walk.addIndex(readDocument(index, read), null, { labels: NO_LABELS, digests: [] }, 1);
  return walk.candidates;
}

/** What the entry of `index.json` says about all that is below it. */
type Origin = { readonly labels: { readonly names: string[]; readonly tags: string[] }; readonly digests: Digest[] };

const NO_LABELS = { names: [], tags: [] };

class IndexWalk {
  readonly candidates: Candidate[] = [];
  readonly #files: ArchiveFiles;
  readonly #read: ReadFile;
  #bytesLeft = MAX_WALK_BYTES;

  constructor(files: ArchiveFiles, read: ReadFile) {
    this.#files = files;
    this.#read = read;
  }

  addIndex(bytes: Buffer, mediaType: string | null, origin: Origin, depth: number): void {
    const index = parseIndex(parseStrictJson(bytes, { what: 'image index' }), mediaType);
    for (const descriptor of index.manifests) {
      const kind = kindOfMediaType(descriptor.mediaType);
      if (kind === 'index') this.#addNested(descriptor, originOf(descriptor, origin, depth), depth);
      else if (kind === 'manifest' && !isAttestation(descriptor)) this.#addManifest(descriptor, originOf(descriptor, origin, depth));
    }
  }

  #addNested(descriptor: Descriptor, origin: Origin, depth: number): void {
    if (depth >= MAX_INDEX_DEPTH) {
      throw new RootlayerError(
        'E_MANIFEST',
        `Cannot read image index "${descriptor.digest}": indexes lie in each other more than ${MAX_INDEX_DEPTH} deep`,
      );
    }
    this.addIndex(this.#document(descriptor), descriptor.mediaType, origin, depth + 1);
  }

  /** An index may list platforms whose content is elsewhere; only what is here can be chosen. */
  #addManifest(descriptor: Descriptor, origin: Origin): void {
    if (this.#find(descriptor) === null && embeddedContent(descriptor) === null) return;
    const manifest = parseManifest(parseStrictJson(this.#document(descriptor), { what: 'image manifest' }), descriptor.mediaType);
    const { names, tags } = origin.labels;
    const { os, architecture } = descriptor.platform ?? {};
    this.candidates.push({
      names,
      tags,
      digests: [manifest.config.digest, ...origin.digests],
      platform: os && architecture ? `${os}/${architecture}` : null,
      open: () =>
        openImage(
          names,
          this.#blob(manifest.config),
          manifest.layers.map((layer) => this.#blob(layer)),
          this.#read,
        ),
    });
  }

  #document(descriptor: Descriptor): Buffer {
    this.#bytesLeft -= descriptor.size;
    if (this.#bytesLeft < 0) {
      throw new RootlayerError('E_MANIFEST', `Cannot read image index: its documents have more than ${MAX_WALK_BYTES} bytes`);
    }
    return embeddedContent(descriptor) ?? readDocument(this.#blob(descriptor), this.#read);
  }

  #blob(descriptor: Descriptor): ArchiveFile {
    embeddedContent(descriptor);
    const file = this.#find(descriptor);
    if (file === null) {
      throw new RootlayerError(
        'E_MANIFEST',
        `Cannot use blob "${descriptor.digest}": it is not in the archive, and rootlayer fetches nothing`,
      );
    }
    checkContent(descriptor, file);
    return file;
  }

  #find(descriptor: Descriptor): ArchiveFile | null {
    return this.#files.get(`blobs/${descriptor.digest.replace(':', '/')}`);
  }
}

/** Only `index.json` itself can give names; a digest on any level leads to the image. */
function originOf(descriptor: Descriptor, origin: Origin, depth: number): Origin {
  const digests = [...origin.digests, descriptor.digest];
  return { labels: depth === 1 ? labelsOf(descriptor) : origin.labels, digests };
}

/** containerd and Docker give the whole name beside the tag; others put either into the one annotation. */
function labelsOf(descriptor: Descriptor): { names: string[]; tags: string[] } {
  const refName = descriptor.annotations?.[ANNOTATIONS.refName];
  const imageName = descriptor.annotations?.[ANNOTATIONS.imageName];
  const isName = refName !== undefined && /[:/]/.test(refName);
  return {
    names: readableNames([...(imageName === undefined ? [] : [imageName]), ...(isName ? [refName] : [])]),
    tags: refName === undefined || isName ? [] : [refName],
  };
}

/** Source: BuildKit, attestation storage: an attestation poses as an image for no platform. */
function isAttestation(descriptor: Descriptor): boolean {
  return descriptor.platform?.os === 'unknown' || descriptor.annotations?.['vnd.docker.reference.type'] === 'attestation-manifest';
}
