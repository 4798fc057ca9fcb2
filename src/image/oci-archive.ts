import { createHash } from 'node:crypto';
import type { Readable } from 'node:stream';
import { type Digest, digestOf, hexOf } from '../core/digest.ts';
import { ANNOTATIONS, layerMediaType, MEDIA_TYPES } from '../core/manifest.ts';
import { canonicalImageName, splitImageName } from '../core/reference.ts';
import type { ImageSource, SourceLayer } from './image-source.ts';
import { layerStream } from './layer-stream.ts';
import { type PackMember, packTar } from './tar-pack.ts';

/** The tag of an image without a name: umoci can only unpack what has one. */
const DEFAULT_TAG = 'latest';

/**
 * Gives an image as the tar of an OCI layout, layers compressed as they are stored; unpacked it is a layout directory. Each name is an entry of
 * `index.json` with its tag, and the whole name beside it as containerd and Docker write it. The same image gives the same bytes.
 * Source: OCI image-spec image-layout.md.
 */
export function ociArchive(image: ImageSource, signal: AbortSignal): Readable {
  const manifest = Buffer.from(JSON.stringify(manifestOf(image)));
  const digest = digestOf(createHash('sha256').update(manifest).digest());
  return packTar(
    [
      { name: 'blobs/', body: null },
      { name: 'blobs/sha256/', body: null },
      { name: 'index.json', body: Buffer.from(JSON.stringify(indexOf(image, { digest, sizeBytes: manifest.length }))) },
      { name: 'oci-layout', body: Buffer.from('{"imageLayoutVersion":"1.0.0"}') },
      { name: blobName(digest), body: manifest },
      { name: blobName(image.config.digest), body: Buffer.from(image.config.text) },
      ...distinctBlobs(image).map((layer): PackMember => {
        const { blobDigest, blobSizeBytes, compression, tarBytes } = layer;
        const open = (): Readable =>
          layerStream({ fd: image.openBlob(blobDigest), compression, tarBytes }, compression, image.uidBase, signal);
        return { name: blobName(blobDigest), body: { sizeBytes: blobSizeBytes, open } };
      }),
    ],
    signal,
  );
}

function manifestOf(image: ImageSource): object {
  return {
    schemaVersion: 2,
    mediaType: MEDIA_TYPES.manifest[0],
    config: { mediaType: MEDIA_TYPES.config[0], digest: image.config.digest, size: Buffer.byteLength(image.config.text) },
    layers: image.layers.map((layer) => ({
      mediaType: layerMediaType(layer.compression),
      digest: layer.blobDigest,
      size: layer.blobSizeBytes,
    })),
  };
}

function indexOf(image: ImageSource, manifest: { digest: Digest; sizeBytes: number }): object {
  const descriptor = { mediaType: MEDIA_TYPES.manifest[0], digest: manifest.digest, size: manifest.sizeBytes };
  const labels = image.names.map((name) => ({
    [ANNOTATIONS.imageName]: canonicalImageName(name),
    [ANNOTATIONS.refName]: splitImageName(name).tag,
  }));
  const entries = labels.length > 0 ? labels : [{ [ANNOTATIONS.refName]: DEFAULT_TAG }];
  return {
    schemaVersion: 2,
    mediaType: MEDIA_TYPES.index[0],
    manifests: entries.map((annotations) => ({ ...descriptor, annotations })),
  };
}

function blobName(digest: Digest): string {
  return `blobs/sha256/${hexOf(digest)}`;
}

function distinctBlobs(image: ImageSource): SourceLayer[] {
  return [...new Map(image.layers.map((layer) => [layer.blobDigest, layer])).values()];
}
