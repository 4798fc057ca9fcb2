import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Test } from 'tap';
import { archive, member } from '../../helpers/tar-builder.ts';
import { layerTar } from '../../root/store/tiny-image.ts';
import { blobName, configFor, descriptorOf, jsonOf, layoutOf, MEDIA, type Members, manifestFor, sha256 } from '../store/archive-fixture.ts';

/** Two layers, and a config for them with the lower one twice. */
export const LOWER: Buffer = layerTar({ 'etc/': {}, 'etc/hello': { body: 'one', uid: 7, gid: 8 } });
export const UPPER: Buffer = layerTar({ 'etc/': {}, 'etc/hello': { body: 'two' }, 'etc/more': { body: 'x'.repeat(2000) } });
export const CONFIG: Buffer = configFor([LOWER, UPPER, LOWER], { config: { Env: ['A=1'] } });

/** A directory that is removed at the end of the test. */
export function scratch(t: Test): string {
  const directory = mkdtempSync(path.join(tmpdir(), 'recipe-'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** Writes a tar of these members. */
export function writeMembers(file: string, members: Members): string {
  const parts = members.map(([name, content]) => {
    if (Buffer.isBuffer(content)) return member({ name }, content);
    if ('symlink' in content) return member({ name, type: '2', linkName: content.symlink });
    return member({ name, type: '1', linkName: content.hardlink });
  });
  writeFileSync(file, archive(...parts));
  return file;
}

/** Writes these members as files of a directory. */
export function writeDirectory(directory: string, members: Members): string {
  for (const [name, content] of members) {
    if (!Buffer.isBuffer(content)) continue;
    mkdirSync(path.dirname(path.join(directory, name)), { recursive: true });
    writeFileSync(path.join(directory, name), content);
  }
  return directory;
}

export function writeGzip(file: string, plain: Buffer): string {
  writeFileSync(file, gzipSync(plain));
  return file;
}

export function writeZstd(file: string, plain: string): string {
  execFileSync('zstd', ['-q', '-o', file, plain]);
  return file;
}

/** An image with {@link CONFIG} as `docker save` made it before version 25. */
export function classicMembers(tags: string[] | null): Members {
  const names = ['1'.repeat(64), '2'.repeat(64)].map((id) => `${id}/layer.tar`);
  const [lower = '', upper = ''] = names;
  return [
    [lower, LOWER],
    [upper, UPPER],
    ['config.json', CONFIG],
    ['manifest.json', jsonOf([{ Config: 'config.json', RepoTags: tags, Layers: [lower, upper, lower] }])],
  ];
}

/** The same as skopeo makes it: layers by their digests, and links to them. */
export function skopeoMembers(tag: string): Members {
  const files = [LOWER, UPPER].map((layer) => `${sha256(layer).slice(7)}.tar`);
  const [lower = '', upper = ''] = files;
  const config = `${sha256(CONFIG).slice(7)}.json`;
  return [
    [lower, LOWER],
    [upper, UPPER],
    [`${'1'.repeat(64)}/layer.tar`, { symlink: `../${lower}` }],
    [config, CONFIG],
    ['manifest.json', jsonOf([{ Config: config, RepoTags: [tag], Layers: [lower, upper, `${'1'.repeat(64)}/layer.tar`] }])],
  ];
}

/** The same as an OCI layout, its layers compressed with gzip. */
export function ociMembers(name: string): Members {
  const [lower, upper] = [gzipSync(LOWER), gzipSync(UPPER)];
  const layers = [lower, upper, lower];
  const gzip = 'application/vnd.oci.image.layer.v1.tar+gzip';
  const manifest = jsonOf({ ...JSON.parse(manifestFor(CONFIG, []).toString()), layers: layers.map((layer) => descriptorOf(gzip, layer)) });
  const annotations = { 'io.containerd.image.name': name, 'org.opencontainers.image.ref.name': 'tag' };
  return layoutOf([descriptorOf(MEDIA.manifest, manifest, { annotations })], [lower, upper, CONFIG, manifest]);
}

/** The same as Docker 25 and later save it: a layout with a `manifest.json`. */
export function docker25Members(tag: string): Members {
  const manifest = manifestFor(CONFIG, [LOWER, UPPER, LOWER]);
  return [
    ...layoutOf([descriptorOf(MEDIA.manifest, manifest)], [LOWER, UPPER, CONFIG, manifest]),
    ['manifest.json', jsonOf([{ Config: blobName(CONFIG), RepoTags: [tag], Layers: [LOWER, UPPER, LOWER].map(blobName) }])],
  ];
}
