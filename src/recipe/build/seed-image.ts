import { createHash } from 'node:crypto';
import { buffer } from 'node:stream/consumers';
import { RootlayerError } from '../../core/errors.ts';
import { type DockerManifest, parseDockerManifest } from '../../core/manifest.ts';
import type { Scope } from '../../core/scope.ts';
import { parseStrictJson } from '../../core/strict-json.ts';
import { goArchitecture } from '../../store/platform.ts';
import { openOuterArchive } from '../archive/outer.ts';
import { sortedKeys } from '../layered/json.ts';
import { resolved } from '../tree/contents-link.ts';
import { hashTag } from '../tree/result-hash.ts';
import { type FileNode, Tree } from '../tree/tree.ts';
import type { FinishedLayer } from './build-image.ts';
import { type ArchiveTree, addDocuments, addLayerDirectory, createdTime, READ_ONLY_DIRECTORY } from './build-image-archive.ts';
import type { BuildImageParts } from './build-image-args.ts';
import { jqText } from './seed-json.ts';
import { outerTree } from './seed-outer.ts';

/**
 * Gives the archive of an image as the seed makes it: all members of the base's archive but its documents, and of its config `Env` alone. The base's layers
 * are those of its first image. Throws `E_RECIPE` and what reading the base throws.
 */
export async function seedArchiveTree(
  parts: BuildImageParts,
  { layer, madeTarsum }: FinishedLayer,
  scope: Scope,
  signal: AbortSignal,
): Promise<ArchiveTree> {
  const imageName = parts.name.toLowerCase();
  const baseJson = sortedKeys({
    architecture: parts.architecture ?? goArchitecture(),
    config: parts.config,
    created: createdTime(parts.created),
    os: 'linux',
    preferLocalBuild: true,
  }) as BaseJson;
  const base = parts.fromImage === null ? emptyBase() : await seedBase(parts.fromImage, parts, scope, signal);
  const { tree } = base;
  const meta = { ...baseJson, checksum: madeTarsum };
  const id = addLayerDirectory(tree, layer, base.parent === null ? meta : { ...meta, parent: base.parent });
  const layers = [...base.layers, `${id}/layer.tar`];
  const diffIds = [...(await digestsOf(tree, base.layers, signal)), layer.diffId];
  const configText = configOf(baseJson, base.env, diffIds);
  const imageTag = parts.tag ?? hashTag(configText);
  addDocuments(tree, { imageName, imageTag, configText, layerId: id, layers });
  return { tree, imageName, imageTag, configText };
}

type BaseJson = { readonly created: string; readonly config: Record<string, unknown> | null } & Record<string, unknown>;

type SeedBase = {
  readonly tree: Tree;
  readonly layers: readonly string[];
  readonly env: readonly unknown[];
  readonly parent: string | null;
};

function emptyBase(): SeedBase {
  return { tree: new Tree(READ_ONLY_DIRECTORY), layers: [], env: [], parent: null };
}

async function seedBase(file: string, parts: BuildImageParts, scope: Scope, signal: AbortSignal): Promise<SeedBase> {
  const outer = scope.use(await openOuterArchive(file, signal));
  const tree = outerTree(outer);
  const manifest = parseDockerManifest(await readJson(tree, 'manifest.json', signal));
  const [first] = manifest;
  if (first === undefined) throw missing('manifest.json');
  const config = (await readJson(tree, first.Config, signal)) as { config?: { Env?: unknown[] | null } | null };
  for (const name of tree.names(Buffer.alloc(0))) if (isDocument(name)) tree.remove(name);
  return { tree, layers: first.Layers ?? [], env: config.config?.Env ?? [], parent: parentOf(manifest, first.Config, parts) };
}

/** By name and tag the seed means to choose an image, and gets its whole entry as text; by a part of a tag, too. */
function parentOf(manifest: DockerManifest, config: string, { fromImageName, fromImageTag }: BuildImageParts): string | null {
  if (fromImageName === null || fromImageTag === null) return config.replace(/\.json$/, '') || null;
  const wanted = `${fromImageName}:${fromImageTag}`;
  const chosen = manifest.filter(({ RepoTags }) => (RepoTags ?? []).some((tag) => tag.includes(wanted)));
  return chosen.map(jqText).join('').trimEnd() || null;
}

/** As `rm *.json` of a shell: not what begins with a dot. */
function isDocument(name: Buffer): boolean {
  const text = name.toString('latin1');
  return text.endsWith('.json') && !text.startsWith('.');
}

function fileIn(tree: Tree, name: string): FileNode {
  const at = resolved(tree, Buffer.from(name));
  const node = at === null ? undefined : tree.lookup(at);
  if (node?.type === 'file') return node;
  throw missing(name);
}

function missing(name: string): RootlayerError {
  return new RootlayerError('E_IMAGE_FORMAT', `Cannot use the base image: it has no file ${JSON.stringify(name)}`);
}

const MAX_DOCUMENT_BYTES = 4 * 1024 * 1024;

async function readJson(tree: Tree, name: string, signal: AbortSignal): Promise<unknown> {
  const node = fileIn(tree, name);
  if (node.size > MAX_DOCUMENT_BYTES || node.source.kind !== 'stream') throw missing(name);
  return parseStrictJson(await buffer(node.source.open(signal)), { what: name });
}

/** Of the files as they are, compressed or not; one that is listed twice is read once. */
async function digestsOf(tree: Tree, names: readonly string[], signal: AbortSignal): Promise<string[]> {
  const known = new Map<string, string>();
  for (const name of new Set(names)) {
    const { source } = fileIn(tree, name);
    const hash = createHash('sha256');
    if (source.kind === 'stream') for await (const chunk of source.open(signal)) hash.update(chunk);
    known.set(name, `sha256:${hash.digest('hex')}`);
  }
  return names.map((name) => known.get(name) ?? '');
}

function configOf(baseJson: BaseJson, baseEnv: readonly unknown[], diffIds: readonly string[]): string {
  const { config, created } = baseJson;
  const own = (config?.['Env'] ?? []) as unknown[];
  return jqText({
    ...baseJson,
    config: { ...config, Env: [...baseEnv, ...own] },
    rootfs: { diff_ids: diffIds, type: 'layers' },
    history: diffIds.map(() => ({ created })),
  });
}
