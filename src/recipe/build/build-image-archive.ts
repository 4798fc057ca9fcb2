import { createHash } from 'node:crypto';
import { hexOf } from '../../core/digest.ts';
import { RootlayerError } from '../../core/errors.ts';
import { type ContainerConfig, deriveConfig, type ImageConfig, parseImageConfig } from '../../core/image-config.ts';
import { splitImageName } from '../../core/reference.ts';
import { LAYER_VERSION } from '../../image/root-layer.ts';
import { goArchitecture } from '../../store/platform.ts';
import type { BaseLayer } from '../archive/base-archive.ts';
import { recipeError } from '../recipe-error.ts';
import type { ScriptBase } from '../script/base.ts';
import type { LayerTar } from '../tree/pack-stream.ts';
import { hashTag } from '../tree/result-hash.ts';
import { PLAIN_DIRECTORY, Tree } from '../tree/tree.ts';
import type { BuildImageParts } from './build-image-args.ts';
import { jqText, jshonText } from './seed-json.ts';

/** An image archive that is ready to be packed. */
export type ArchiveTree = { readonly tree: Tree; readonly imageName: string; readonly imageTag: string; readonly configText: string };

/**
 * Gives the archive of an image: `<hex of the diffID>/layer.tar` of each layer of the base, `<id>/` with layer, `json` and `VERSION` of the new one, the config
 * under its digest, `manifest.json` and `repositories`. The config is the base's with the image's own merged in by a rule per field. Throws `E_RECIPE` for a
 * malformed name, `E_CONFIG`.
 */
export async function archiveTree(parts: BuildImageParts, layer: LayerTar, base: ScriptBase | null): Promise<ArchiveTree> {
  const imageName = parts.name.toLowerCase();
  const created = createdTime(parts.created);
  const baseConfig = base === null ? null : inherited(parseImageConfig(base.image.config), parts.inherit ?? 'all');
  const architecture = parts.architecture ?? (baseConfig === null ? goArchitecture() : undefined);
  const { config, json: configText } = deriveConfig(baseConfig, layer.diffId, {
    created,
    createdBy: `rootlayer buildImage ${imageName}`,
    override: parts.config,
    ...(architecture === undefined ? {} : { architecture }),
  });
  const imageTag = parts.tag ?? hashTag(configText);
  checkName(imageName, imageTag);
  const tree = new Tree(READ_ONLY_DIRECTORY);
  const baseLayers = base?.image.layers ?? [];
  for (const baseLayer of baseLayers) addLayer(tree, baseLayer);
  const { architecture: words, os } = config;
  const json = { architecture: words, config: config.config ?? {}, created, os, checksum: layer.tarsum };
  const id = addLayerDirectory(tree, layer, base === null ? json : { ...json, parent: hexOf(base.image.id) });
  addDocuments(tree, { imageName, imageTag, configText, layerId: id, layers: [...baseLayers.map(layerName), `${id}/layer.tar`] });
  return { tree, imageName, imageTag, configText };
}

/** Gives `now` as the present time, in the spelling of `date --iso-8601=seconds`, and any other time as it is. */
export function createdTime(created: string): string {
  return created === 'now' ? new Date().toISOString().replace(/\.\d+Z$/, '+00:00') : created;
}

/** What a tree is made of that nobody is to write to. */
export const READ_ONLY_DIRECTORY = { ...PLAIN_DIRECTORY, mode: 0o555 };

/** Puts a file with text into an archive, read-only. */
export function addDocument(tree: Tree, name: string, text: string): void {
  const bytes = Buffer.from(text);
  tree.insert(Buffer.from(name), { ...PLAIN_DIRECTORY, mode: 0o444, type: 'file', size: bytes.length, source: { kind: 'bytes', bytes } });
}

/** Puts the directory of a new layer into an archive, named by the digest of its JSON, and gives that name. */
export function addLayerDirectory(tree: Tree, layer: LayerTar, json: Record<string, unknown>): string {
  const id = createHash('sha256').update(jshonText(json)).digest('hex');
  tree.insert(Buffer.from(id), READ_ONLY_DIRECTORY);
  addDocument(tree, `${id}/json`, jshonText({ ...json, id, Size: layer.sizeBytes }));
  addDocument(tree, `${id}/VERSION`, LAYER_VERSION);
  const source = { kind: 'stream', open: (signal: AbortSignal) => unchanged(layer, signal) } as const;
  tree.insert(Buffer.from(`${id}/layer.tar`), { ...PLAIN_DIRECTORY, mode: 0o444, type: 'file', size: layer.sizeBytes, source });
  return id;
}

/** What the documents of an archive say. */
export type Documents = {
  readonly imageName: string;
  readonly imageTag: string;
  readonly configText: string;
  /** The directory of the new layer. */
  readonly layerId: string;
  /** Members of the archive, bottom to top. */
  readonly layers: readonly string[];
};

/** Puts the config, `manifest.json` and `repositories` into an archive. */
export function addDocuments(tree: Tree, { imageName, imageTag, configText, layerId, layers }: Documents): void {
  const config = `${createHash('sha256').update(configText).digest('hex')}.json`;
  addDocument(tree, config, configText);
  addDocument(tree, 'manifest.json', jqText([{ RepoTags: [`${imageName}:${imageTag}`], Layers: layers, Config: config }]));
  addDocument(tree, 'repositories', jshonText({ [imageName]: { [imageTag]: layerId } }));
}

/** What is written was summed before: a file that changes in between must not go unseen. */
async function* unchanged(layer: LayerTar, signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
  const hash = createHash('sha256');
  for await (const chunk of layer.open(signal)) {
    hash.update(chunk);
    yield chunk;
  }
  const hex = hash.digest('hex');
  if (hex === hexOf(layer.diffId)) return;
  throw new RootlayerError('E_CAPTURE_CHANGED', `Cannot write layer "${layer.diffId}": its files changed meanwhile, to sha256:${hex}`);
}

function inherited(base: ImageConfig, inherit: 'all' | 'seed'): ImageConfig {
  if (inherit === 'all') return base;
  const Env = base.config?.Env ?? [];
  const config: ContainerConfig = Env.length === 0 ? {} : { Env };
  return { ...base, config };
}

/** Throws `E_RECIPE` with the place of a name, or a tag, that no engine would take. */
export function checkName(imageName: string, imageTag: string): void {
  checkReference('name', `${imageName}:latest`);
  checkReference('tag', `${imageName}:${imageTag}`);
}

function checkReference(place: string, text: string): void {
  try {
    splitImageName(text);
  } catch (error) {
    throw recipeError([place], error instanceof RootlayerError ? error.message : String(error), undefined, error);
  }
}

function layerName({ diffId }: BaseLayer): string {
  return `${hexOf(diffId)}/layer.tar`;
}

function addLayer(tree: Tree, layer: BaseLayer): void {
  const at = Buffer.from(layerName(layer));
  if (tree.lookup(at) !== undefined) return;
  tree.insertParents(at, READ_ONLY_DIRECTORY);
  const source = { kind: 'stream', open: (signal: AbortSignal) => layer.open(signal) } as const;
  tree.insert(at, { ...PLAIN_DIRECTORY, mode: 0o444, type: 'file', size: layer.sizeBytes, source });
}
