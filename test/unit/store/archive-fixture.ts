import { createHash } from 'node:crypto';
import { type DiffId, type Digest, digestOf, hexOf } from '../../../src/core/digest.ts';
import type { Listing } from '../../../src/store/ingest/archive-files.ts';
import type { ReadFile } from '../../../src/store/ingest/candidate.ts';

/** Members of an archive in order: bytes for a file, or a link. */
export type Members = readonly (readonly [name: string, content: Buffer | { symlink: string } | { hardlink: string }])[];

/** What the ingest worker would say about an archive of these members, and how to read its files. */
export function archiveOf(members: Members): { listing: Listing; read: ReadFile } {
  const contents: Buffer[] = [];
  const listed = members.map(([name, content], n): Listing['members'][number] => {
    contents[n] = Buffer.isBuffer(content) ? content : Buffer.alloc(0);
    if (!Buffer.isBuffer(content)) {
      const [kind, target] = 'symlink' in content ? (['symlink', content.symlink] as const) : (['hardlink', content.hardlink] as const);
      return { kind, name, target: Buffer.from(target).toString('hex') };
    }
    const head = content.subarray(0, 8).toString('hex');
    return { kind: 'file', name, n, sizeBytes: content.length, digest: sha256(content), head };
  });
  return { listing: { members: listed, sizeBytes: 0 }, read: (file) => contents[file.n] ?? Buffer.alloc(0) };
}

export function sha256(content: Buffer | string): Digest {
  return digestOf(createHash('sha256').update(content).digest());
}

export function jsonOf(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value));
}

/** An image config for layers with these contents. */
export function configFor(layers: readonly Buffer[], more: object = {}): Buffer {
  const diffIds = layers.map((layer) => sha256(layer) as DiffId);
  return jsonOf({ architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: diffIds }, ...more });
}

export const MEDIA = {
  index: 'application/vnd.oci.image.index.v1+json',
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  tar: 'application/vnd.oci.image.layer.v1.tar',
} as const;

export function descriptorOf(mediaType: string, content: Buffer, more: object = {}): object {
  return { mediaType, digest: sha256(content), size: content.length, ...more };
}

export function blobName(content: Buffer): string {
  return `blobs/sha256/${hexOf(sha256(content))}`;
}

/** The members of an OCI layout with the given descriptors in `index.json`, and blobs. */
export function layoutOf(manifests: readonly object[], blobs: readonly Buffer[]): Members {
  return [
    ['oci-layout', jsonOf({ imageLayoutVersion: '1.0.0' })],
    ['index.json', jsonOf({ schemaVersion: 2, manifests })],
    ...blobs.map((blob) => [blobName(blob), blob] as const),
  ];
}

/** A manifest document. */
export function manifestFor(config: Buffer, layers: readonly Buffer[], more: object = {}): Buffer {
  return jsonOf({
    schemaVersion: 2,
    mediaType: MEDIA.manifest,
    config: descriptorOf(MEDIA.config, config),
    layers: layers.map((layer) => descriptorOf(MEDIA.tar, layer)),
    ...more,
  });
}
