import type { Readable } from 'node:stream';
import { hexOf } from '../core/digest.ts';
import type { ImageSource, SourceLayer } from './image-source.ts';
import { layerStream } from './layer-stream.ts';
import { type PackMember, packTar } from './tar-pack.ts';

/**
 * Gives an image as a docker-archive: `<hex of the config>.json`, `<hex of the diffID>/layer.tar` (uncompressed) and `manifest.json`, which docker load,
 * podman, skopeo and everything since Docker 1.10 read. The same image gives the same bytes. Throws, by the stream, what {@link layerStream} throws.
 * Source: moby, image spec v1.2.
 */
export function dockerArchive(image: ImageSource, signal: AbortSignal): Readable {
  const config = `${hexOf(image.config.digest)}.json`;
  const manifest = [{ Config: config, RepoTags: image.names.length === 0 ? null : image.names, Layers: image.layers.map(layerName) }];
  return packTar(
    [
      { name: config, body: Buffer.from(image.config.text) },
      { name: 'manifest.json', body: Buffer.from(`${JSON.stringify(manifest)}\n`) },
      ...distinctLayers(image).flatMap((layer): PackMember[] => [
        { name: `${hexOf(layer.diffId)}/`, body: null },
        { name: layerName(layer), body: { sizeBytes: layer.tarBytes, open: () => openTar(image, layer, signal) } },
      ]),
    ],
    signal,
  );
}

function layerName(layer: SourceLayer): string {
  return `${hexOf(layer.diffId)}/layer.tar`;
}

function openTar(image: ImageSource, { blobDigest, compression, tarBytes }: SourceLayer, signal: AbortSignal): Readable {
  return layerStream({ fd: image.openBlob(blobDigest), compression, tarBytes }, 'none', image.uidBase, signal);
}

/** A layer that occurs twice is written once, and listed twice. */
function distinctLayers(image: ImageSource): SourceLayer[] {
  return [...new Map(image.layers.map((layer) => [layer.diffId, layer])).values()];
}
