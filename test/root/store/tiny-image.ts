import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { type Digest, digestOf, hexOf } from '../../../src/core/digest.ts';
import type { TarMember } from '../../../src/core/tar/entry.ts';
import { encodeEntry, endOfArchive, padding } from '../../../src/core/tar/writer.ts';
import { packTar } from '../../../src/image/tar-pack.ts';

type File = Partial<Omit<TarMember, 'name' | 'linkName'>> & { linkName?: string; body?: string };

/** A layer's tar of these files; a name that ends in a slash is a directory. */
export function layerTar(files: Record<string, File>): Buffer {
  const parts = Object.entries(files).map(([name, { body = '', linkName = '', ...file }]) => {
    const member = {
      name: Buffer.from(name),
      type: name.endsWith('/') ? 'directory' : 'file',
      mode: name.endsWith('/') ? 0o755 : 0o644,
      uid: 0,
      gid: 0,
      size: body.length,
      mtimeSec: 1_600_000_000,
      devMajor: 0,
      devMinor: 0,
      xattrs: [],
      ...file,
      linkName: Buffer.from(linkName),
    } as const satisfies TarMember;
    return Buffer.concat([encodeEntry(member), Buffer.from(body), padding(body.length)]);
  });
  return Buffer.concat([...parts, endOfArchive]);
}

export const BOTTOM: Buffer = layerTar({
  'bin/': {},
  'bin/tool': { body: '#!/bin/sh\n', mode: 0o4755 },
  'data/': {},
  'data/a': { body: 'a' },
  'etc/': {},
  'etc/gone': { body: 'gone' },
  'etc/hello': { body: 'one', uid: 7, gid: 8 },
  'etc/link': { type: 'symlink', linkName: '/etc/hello' },
});

/** Deletes a file, hides a directory's content, and has a hard link. */
export const TOP: Buffer = layerTar({
  'data/': { mode: 0o700 },
  'data/.wh..wh..opq': {},
  'data/b': { body: 'b', xattrs: [{ name: Buffer.from('user.note'), value: Buffer.from([0, 1, 255]) }] },
  'data/c': { type: 'hardlink', linkName: 'data/b' },
  'etc/': {},
  'etc/.wh.gone': {},
  'etc/hello': { body: 'two' },
});

export function sha256(bytes: Buffer | string): Digest {
  return digestOf(createHash('sha256').update(bytes).digest());
}

/** An image as its documents and layers. */
export type TinyImage = { config: Buffer; layers: Buffer[] };

export function tinyImage(layers: Buffer[], config: object = { Env: ['PATH=/bin'], Cmd: ['/bin/tool'] }): TinyImage {
  const value = {
    created: '2024-01-01T00:00:00Z',
    architecture: 'amd64',
    os: 'linux',
    config,
    rootfs: { type: 'layers', diff_ids: layers.map((layer) => sha256(layer)) },
    history: layers.map((_, n) => ({ created: '2024-01-01T00:00:00Z', created_by: `step ${n}` })),
  };
  return { config: Buffer.from(JSON.stringify(value)), layers };
}

/** Writes a tar of files to `file`. */
export async function writeTar(file: string, files: Record<string, Buffer>): Promise<string> {
  const members = Object.entries(files).map(([name, body]) => ({ name, body }));
  writeFileSync(file, await buffer(packTar(members, new AbortController().signal)));
  return file;
}

/** Writes a docker-archive as `docker save` did before version 25. */
export async function writeDockerArchive(directory: string, image: TinyImage, names: string[]): Promise<string> {
  const layers = image.layers.map((layer): [string, Buffer] => [`${hexOf(sha256(`id of ${sha256(layer)}`))}/layer.tar`, layer]);
  const config = `${hexOf(sha256(image.config))}.json`;
  return await writeTar(path.join(directory, 'classic.tar'), {
    ...Object.fromEntries(layers),
    [config]: image.config,
    'manifest.json': Buffer.from(JSON.stringify([{ Config: config, RepoTags: names, Layers: layers.map(([name]) => name) }])),
    repositories: Buffer.from('{}'),
  });
}

/** Writes a docker-archive as `docker save` does from version 25 on: an OCI layout with a `manifest.json`. */
export async function writeDocker25Archive(directory: string, image: TinyImage, name: string): Promise<string> {
  const blob = (bytes: Buffer): string => `blobs/sha256/${hexOf(sha256(bytes))}`;
  const descriptor = (mediaType: string, bytes: Buffer): object => ({ mediaType, digest: sha256(bytes), size: bytes.length });
  const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
  const manifest = json({
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: descriptor('application/vnd.oci.image.config.v1+json', image.config),
    layers: image.layers.map((layer) => descriptor('application/vnd.oci.image.layer.v1.tar', layer)),
  });
  const annotations = { 'io.containerd.image.name': `docker.io/library/${name}`, 'org.opencontainers.image.ref.name': name.split(':')[1] };
  const entry = { ...descriptor('application/vnd.oci.image.manifest.v1+json', manifest), annotations };
  return await writeTar(path.join(directory, 'docker25.tar'), {
    ...Object.fromEntries([...image.layers, image.config, manifest].map((bytes) => [blob(bytes), bytes])),
    'index.json': json({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests: [entry] }),
    'manifest.json': json([{ Config: blob(image.config), RepoTags: [name], Layers: image.layers.map(blob) }]),
    'oci-layout': json({ imageLayoutVersion: '1.0.0' }),
    repositories: json({}),
  });
}
