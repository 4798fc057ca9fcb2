import { createHash } from 'node:crypto';
import { z } from 'zod';
import { type Digest, digestOf, isDigest } from './digest.ts';
import { RootlayerError } from './errors.ts';
import type { Compression } from './image.ts';
import { MAX_LAYERS } from './image-config.ts';

/** The media types that mean one thing in OCI and in Docker's registry format. The first of each is the one rootlayer writes. */
export const MEDIA_TYPES = {
  index: ['application/vnd.oci.image.index.v1+json', 'application/vnd.docker.distribution.manifest.list.v2+json'],
  manifest: ['application/vnd.oci.image.manifest.v1+json', 'application/vnd.docker.distribution.manifest.v2+json'],
  config: ['application/vnd.oci.image.config.v1+json', 'application/vnd.docker.container.image.v1+json'],
  /** Tar layers only: a file system image (ext4, erofs, squashfs) is never taken for a layer. */
  layer: [
    'application/vnd.oci.image.layer.v1.tar',
    'application/vnd.oci.image.layer.v1.tar+gzip',
    'application/vnd.oci.image.layer.v1.tar+zstd',
    'application/vnd.oci.image.layer.nondistributable.v1.tar',
    'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip',
    'application/vnd.oci.image.layer.nondistributable.v1.tar+zstd',
    'application/vnd.docker.image.rootfs.diff.tar',
    'application/vnd.docker.image.rootfs.diff.tar.gzip',
    'application/vnd.docker.image.rootfs.diff.tar.zstd',
    'application/vnd.docker.image.rootfs.foreign.diff.tar',
    'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
  ],
} as const;

/** What a descriptor points at, by its media type. */
export type ContentKind = keyof typeof MEDIA_TYPES;

/** Gives the kind of content for a media type, or null for what is none of an image's. */
export function kindOfMediaType(mediaType: string): ContentKind | null {
  const found = Object.entries(MEDIA_TYPES).find(([, types]) => (types as readonly string[]).includes(mediaType));
  return found === undefined ? null : (found[0] as ContentKind);
}

/** Gives the media type of a layer that is stored so. */
export function layerMediaType(compression: Compression): string {
  return compression === 'none' ? MEDIA_TYPES.layer[0] : `${MEDIA_TYPES.layer[0]}+${compression}`;
}

/** Where the annotations of an index keep names. Sources: OCI image-spec annotations.md; containerd for the second. */
export const ANNOTATIONS = { refName: 'org.opencontainers.image.ref.name', imageName: 'io.containerd.image.name' } as const;

const digest = z.string().refine(isDigest, 'want "sha256:" and 64 lower-case hex digits');
const annotations = z.record(z.string(), z.string()).nullish();

const descriptorSchema = z.looseObject({
  mediaType: z.string().max(255),
  digest,
  size: z.int().min(0),
  annotations,
  /** Other places to fetch the content from: never used. */
  urls: z.array(z.string()).nullish(),
  /** The content itself, in base64. */
  data: z.base64().nullish(),
  platform: z.looseObject({ os: z.string().nullish(), architecture: z.string().nullish() }).nullish(),
});

/** Points at content by digest and size. Source: OCI image-spec descriptor.md. */
export type Descriptor = z.infer<typeof descriptorSchema>;

const indexSchema = z.looseObject({
  schemaVersion: z.literal(2),
  mediaType: z.string().nullish(),
  manifests: z.array(descriptorSchema).max(10_000),
  annotations,
});

/** A list of images, or of lists of images. Source: OCI image-spec image-index.md. */
export type OciIndex = z.infer<typeof indexSchema>;

const manifestSchema = z.looseObject({
  schemaVersion: z.literal(2),
  mediaType: z.string().nullish(),
  config: descriptorSchema,
  layers: z.array(descriptorSchema).max(MAX_LAYERS),
  annotations,
});

/** One image. Source: OCI image-spec manifest.md. */
export type OciManifest = z.infer<typeof manifestSchema>;

const layoutSchema = z.looseObject({ imageLayoutVersion: z.literal('1.0.0') });

const dockerManifestSchema = z
  .array(
    z.looseObject({
      Config: z.string().max(4096),
      RepoTags: z.array(z.string().max(4096)).max(1000).nullish(),
      Layers: z.array(z.string().max(4096)).max(MAX_LAYERS).nullish(),
    }),
  )
  .max(1000);

/** The `manifest.json` of a docker-archive: names of members. Source: moby, image spec v1.2, "Combined Image JSON + Filesystem Changeset Format". */
export type DockerManifest = z.infer<typeof dockerManifestSchema>;

/** Checks a parsed `manifest.json` of a docker-archive. Throws `E_MANIFEST`. */
export function parseDockerManifest(value: unknown): DockerManifest {
  return checked(dockerManifestSchema, value, 'manifest.json');
}

/** Checks a parsed `oci-layout` file. Throws `E_MANIFEST`. */
export function parseLayoutMarker(value: unknown): void {
  checked(layoutSchema, value, 'oci-layout');
}

/**
 * Checks a parsed index; `announced` is the media type of the descriptor that led here, null for `index.json`. Throws `E_MANIFEST`, also for
 * a document that could be read as a manifest as well, and for one that calls itself something else than it was announced as.
 */
export function parseIndex(value: unknown, announced: string | null): OciIndex {
  refuseMixture(value);
  const index = checked(indexSchema, value, 'image index');
  checkMediaType(index.mediaType, announced, 'index');
  return index;
}

/** Checks a parsed manifest like {@link parseIndex}; of its layers only tars are taken. Throws `E_MANIFEST`. */
export function parseManifest(value: unknown, announced: string): OciManifest {
  refuseMixture(value);
  const manifest = checked(manifestSchema, value, 'image manifest');
  checkMediaType(manifest.mediaType, announced, 'manifest');
  checkKind(manifest.config, 'config');
  for (const layer of manifest.layers) checkKind(layer, 'layer');
  return manifest;
}

/**
 * Gives the content that a descriptor carries itself, or null when it has none. Throws `E_SIZE` and `E_DIGEST` when it is not what the
 * descriptor announces.
 */
export function embeddedContent(descriptor: Descriptor): Buffer | null {
  if (descriptor.data === undefined || descriptor.data === null) return null;
  const content = Buffer.from(descriptor.data, 'base64');
  checkContent(descriptor, { digest: digestOf(createHash('sha256').update(content).digest()), sizeBytes: content.length });
  return content;
}

/** Throws `E_SIZE` or `E_DIGEST` unless the content is what the descriptor announces. */
export function checkContent(descriptor: { digest: Digest; size: number }, content: { digest: Digest; sizeBytes: number }): void {
  if (content.sizeBytes !== descriptor.size) {
    throw new RootlayerError(
      'E_SIZE',
      `Cannot use blob "${descriptor.digest}": it has ${content.sizeBytes} bytes, want ${descriptor.size}`,
    );
  }
  if (content.digest !== descriptor.digest) {
    throw new RootlayerError('E_DIGEST', `Cannot use blob "${descriptor.digest}": its content has the digest ${content.digest}`);
  }
}

function checkKind(descriptor: Descriptor, kind: ContentKind): void {
  if (kindOfMediaType(descriptor.mediaType) === kind) return;
  refuse(
    'image manifest',
    `the ${kind} ${descriptor.digest} has the media type ${quoted(descriptor.mediaType)}, want one of a ${KIND_WORDS[kind]}`,
  );
}

const KIND_WORDS: Record<ContentKind, string> = { index: 'image index', manifest: 'manifest', config: 'image config', layer: 'tar layer' };

/** Source: CVE-2021-41190: a document that is both lets two readers run two different images. */
function refuseMixture(value: unknown): void {
  if (typeof value !== 'object' || value === null) return;
  const isIndex = 'manifests' in value;
  const isManifest = 'layers' in value || 'config' in value || 'fsLayers' in value;
  if (isIndex && isManifest) refuse('image manifest', 'it is an index and a manifest at once');
}

function checkMediaType(own: string | null | undefined, announced: string | null, kind: ContentKind): void {
  if (own === undefined || own === null) return;
  if (announced !== null && own !== announced) {
    refuse(KIND_WORDS[kind], `it calls itself ${quoted(own)} and was announced as ${quoted(announced)}`);
  }
  if (kindOfMediaType(own) !== kind) refuse(KIND_WORDS[kind], `it calls itself ${quoted(own)}`);
}

function checked<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const where = issue === undefined || issue.path.length === 0 ? '' : `member ${quoted(issue.path.join('.'))}: `;
  return refuse(what, `${where}${issue?.message ?? 'it is malformed'}`);
}

function quoted(text: string): string {
  return JSON.stringify(text.slice(0, 200));
}

function refuse(what: string, why: string): never {
  throw new RootlayerError('E_MANIFEST', `Cannot read ${what}: ${why}`);
}
