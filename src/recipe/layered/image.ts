import { createHash } from 'node:crypto';
import path from 'node:path';
import { Readable } from 'node:stream';
import { hexOf } from '../../core/digest.ts';
import { RootlayerError } from '../../core/errors.ts';
import type { ImageFile } from '../tree/image-file.ts';
import { packEntries } from '../tree/pack.ts';
import type { LayerTar } from '../tree/pack-stream.ts';
import { hashTag } from '../tree/result-hash.ts';
import type { FileNode, TreeEntry } from '../tree/tree.ts';
import { pythonJson, pythonList } from './json.ts';

/** A layer of a layered image, and the paths that its line of history names. */
export type LayeredLayer = {
  readonly tar: Pick<LayerTar, 'diffId' | 'sizeBytes' | 'open'>;
  /** The member of the archive. */
  readonly name: string;
  readonly paths: readonly string[];
  readonly kind: 'base' | 'store' | 'customisation';
};

/** What a layered image is made of, once its layers are known. */
export type LayeredParts = {
  /** Lower case. */
  readonly imageName: string;
  /** null: a tag is made of the image's content. */
  readonly tag: string | null;
  /** Instead of name and tag, as it is. */
  readonly repoTag: string | null;
  readonly architecture: string;
  readonly config: unknown;
  readonly createdSec: number;
  /** Time of the archive's own members. */
  readonly mtimeSec: number;
  /** Bottom to top. */
  readonly layers: readonly LayeredLayer[];
  /** Members of the archive that occur twice are written twice, as the original does. */
  readonly keepsRepeated: boolean;
};

/** An image that is ready to be streamed, uncompressed. Its stream fails with `E_CAPTURE_CHANGED` when a file of a layer is no longer what it was. */
export interface LayeredImage extends ImageFile {
  readonly imageName: string;
  readonly imageTag: string;
  readonly configText: string;
  readonly layers: readonly LayeredLayer[];
}

/**
 * Gives a layered image; `release` frees what its layers are made of. The archive has base layers, `<sha256>/layer.tar` of each other layer, `<sha256>.json`, `manifest.json`, in this order, as Python's tarfile and json
 * write them. Source: nixpkgs, stream_layered_image.py.
 */
export function layeredImage(parts: LayeredParts, release: () => Promise<void>): LayeredImage {
  const configText = pythonJson(configOf(parts));
  const imageTag = parts.tag ?? hashTag(configText);
  const repoTag = parts.repoTag ?? `${parts.imageName}:${imageTag}`;
  const config = { name: `${createHash('sha256').update(configText).digest('hex')}.json`, text: configText };
  const manifest = [{ Config: config.name, RepoTags: [repoTag], Layers: parts.layers.map(({ name }) => name) }];
  const entries = [
    ...layersToWrite(parts).map((layer) => layerEntry(layer, parts.mtimeSec)),
    document(config.name, configText, parts.mtimeSec),
    document('manifest.json', pythonJson(manifest), parts.mtimeSec),
  ];
  return {
    fileName: `${path.posix.basename(parts.imageName)}.tar`,
    imageName: parts.imageName,
    imageTag,
    configText,
    layers: parts.layers,
    open: (signal) => Readable.from(packEntries(entries, { format: 'python' }, signal), { objectMode: false }),
    [Symbol.asyncDispose]: release,
  };
}

/** ISO 8601 with an offset, in whole seconds, as Python spells it. */
export function isoformat(seconds: number): string {
  return new Date(seconds * 1000).toISOString().replace(/\.000Z$/, '+00:00');
}

function configOf({ architecture, config, createdSec, layers }: LayeredParts): unknown {
  const created = isoformat(createdSec);
  return {
    created,
    architecture,
    os: 'linux',
    config,
    rootfs: { diff_ids: layers.map(({ tar }) => tar.diffId), type: 'layers' },
    history: layers.map(({ paths }) => ({ created, comment: `store paths: ${pythonList(paths)}` })),
  };
}

function layersToWrite({ layers, keepsRepeated }: LayeredParts): readonly LayeredLayer[] {
  return keepsRepeated ? layers : [...new Map(layers.map((layer) => [layer.name, layer])).values()];
}

/** The layer of customisation is a file of the store in the original: read-only, owned by root. */
function layerEntry({ tar, name, kind }: LayeredLayer, mtimeSec: number): TreeEntry {
  const { sizeBytes: size } = tar;
  const attributes = kind === 'customisation' ? READ_ONLY : PLAIN;
  return {
    path: Buffer.from(name),
    node: { ...attributes, mtimeSec, type: 'file', size, source: { kind: 'stream', open: (signal) => verified(tar, signal) } },
  };
}

function document(name: string, text: string, mtimeSec: number): TreeEntry {
  const bytes = Buffer.from(text);
  const node: FileNode = { ...PLAIN, mtimeSec, type: 'file', size: bytes.length, source: { kind: 'bytes', bytes } };
  return { path: Buffer.from(name), node };
}

const PLAIN = { mode: 0o644, uid: 0, gid: 0, uname: '', gname: '' } as const;
const READ_ONLY = { mode: 0o444, uid: 0, gid: 0, uname: 'root', gname: 'root' } as const;

/** What is read again is what was summed: a file that another process has changed since ends the stream. */
async function* verified(tar: LayeredLayer['tar'], signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
  const hash = createHash('sha256');
  for await (const chunk of tar.open(signal)) {
    hash.update(chunk);
    yield chunk;
  }
  const hex = hash.digest('hex');
  if (hex === hexOf(tar.diffId)) return;
  throw new RootlayerError('E_CAPTURE_CHANGED', `Cannot write layer "${tar.diffId}": its files changed meanwhile, to sha256:${hex}`);
}
