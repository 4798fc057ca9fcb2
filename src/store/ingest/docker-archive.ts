import { basename } from 'node:path/posix';
import { digestOf } from '../../core/digest.ts';
import { RootlayerError } from '../../core/errors.ts';
import { type DockerManifest, parseDockerManifest } from '../../core/manifest.ts';
import { parseStrictJson } from '../../core/strict-json.ts';
import type { ArchiveFile, ArchiveFiles } from './archive-files.ts';
import { type Candidate, openImage, type ReadFile, readableNames, readDocument } from './candidate.ts';
import { parseMemberName } from './member-name.ts';

/**
 * Gives the images of a docker-archive: all layouts have a `manifest.json` that names the config and the layers among the members, be they
 * `<id>/layer.tar`, links to `<hex>.tar`, or `blobs/sha256/<hex>`. Throws `E_MANIFEST`.
 */
export function dockerArchiveCandidates(manifestFile: ArchiveFile, files: ArchiveFiles, read: ReadFile): Candidate[] {
  const manifest = parseDockerManifest(parseStrictJson(readDocument(manifestFile, read), { what: 'manifest.json' }));
  return manifest.map((entry) => candidateOf(entry, files, read));
}

function candidateOf(entry: DockerManifest[number], files: ArchiveFiles, read: ReadFile): Candidate {
  const names = readableNames(entry.RepoTags ?? []);
  const config = member(entry.Config, files);
  return {
    names,
    tags: [],
    digests: [config.digest],
    platform: null,
    open: () => {
      const layers = (entry.Layers ?? []).map((name) => member(name, files));
      return openImage(names, config, layers, read);
    },
  };
}

/** A member that is named by its digest must have it; a layer in `<hex>.tar` is named by its diffID, which unpacking checks. */
function member(name: string, files: ArchiveFiles): ArchiveFile {
  const path = parseMemberName(Buffer.from(name));
  const file = files.get(path);
  if (file === null) throw new RootlayerError('E_MANIFEST', `Cannot read manifest.json: the archive has no member ${JSON.stringify(name)}`);
  const hex = DIGEST_NAME.exec(path)?.[1];
  if (hex !== undefined && file.digest !== digestOf(hex)) {
    throw new RootlayerError('E_DIGEST', `Cannot use member "${basename(path)}": its content has the digest ${file.digest}`);
  }
  return file;
}

/** How docker, podman and skopeo (`<hex>.json`, `blobs/sha256/<hex>`), and kaniko (`sha256:<hex>`) name members by their digests. */
const DIGEST_NAME = /^(?:blobs\/sha256\/|sha256:)?([0-9a-f]{64})(?:\.json)?$/;
