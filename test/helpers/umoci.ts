import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';

type Descriptor = { mediaType: string; digest: string; size: number };

/** An OCI layout for umoci, as a judge of layers that shares no code with ours. It lives below a directory that the caller deletes. */
export class UmociLayout {
  readonly #directory: string;
  readonly #manifests: (Descriptor & { annotations: Record<string, string> })[] = [];

  constructor(directory: string) {
    this.#directory = directory;
    mkdirSync(path.join(directory, 'blobs/sha256'), { recursive: true });
    writeFileSync(path.join(directory, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
  }

  /** Adds an image with these uncompressed layers, lowest first. */
  addImage(tag: string, layers: readonly string[]): void {
    const descriptors = layers.map((file) => this.#addFile(file));
    const config = this.#addJson('application/vnd.oci.image.config.v1+json', {
      architecture: 'amd64',
      os: 'linux',
      config: {},
      rootfs: { type: 'layers', diff_ids: descriptors.map(({ digest }) => digest) },
    });
    const manifest = this.#addJson('application/vnd.oci.image.manifest.v1+json', { schemaVersion: 2, config, layers: descriptors });
    this.#manifests.push({ ...manifest, annotations: { 'org.opencontainers.image.ref.name': tag } });
    writeFileSync(path.join(this.#directory, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: this.#manifests }));
  }

  /** Unpacks an image into a directory that does not exist yet. */
  unpack(tag: string, rootfs: string): void {
    execFileSync('umoci', ['raw', 'unpack', '--image', `${this.#directory}:${tag}`, rootfs], { stdio: ['ignore', 'pipe', 'pipe'] });
  }

  #addFile(file: string): Descriptor {
    const digest = `sha256:${createHash('sha256').update(readFileSync(file)).digest('hex')}`;
    const blob = this.#blobPath(digest);
    if (!existsSync(blob)) copyFileSync(file, blob);
    return { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest, size: statSync(blob).size };
  }

  #addJson(mediaType: string, value: unknown): Descriptor {
    const text = JSON.stringify(value);
    const digest = `sha256:${createHash('sha256').update(text).digest('hex')}`;
    writeFileSync(this.#blobPath(digest), text);
    return { mediaType, digest, size: Buffer.byteLength(text) };
  }

  #blobPath(digest: string): string {
    return path.join(this.#directory, 'blobs/sha256', digest.slice('sha256:'.length));
  }
}
