import { ArchiveFiles, type Listing } from './archive-files.ts';
import { type ArchiveImage, chooseCandidate, type ReadFile } from './candidate.ts';
import { dockerArchiveCandidates } from './docker-archive.ts';
import { ociLayoutCandidates } from './oci-layout.ts';

/**
 * Gives the one image that is meant out of the members of an archive, docker-archive or OCI layout. An archive that is both, as Docker makes
 * them from version 25 on, is read by its `manifest.json`, like `docker load` and skopeo do. `platform` is this machine's, such as `linux/amd64`.
 *
 * Throws `E_IMAGE_FORMAT`, `E_IMAGE_AMBIGUOUS`, `E_NOT_FOUND`, `E_MANIFEST`, `E_CONFIG`, `E_DIGEST`, `E_SIZE`, `E_ARCHIVE_PATH`, `E_ARCHIVE_LINK`.
 */
export function interpretArchive(listing: Listing, read: ReadFile, select: string | null, platform: string): ArchiveImage {
  const files = new ArchiveFiles(listing);
  const manifest = files.get('manifest.json');
  const candidates = manifest === null ? ociLayoutCandidates(files, read) : dockerArchiveCandidates(manifest, files, read);
  return chooseCandidate(candidates, select, platform).open();
}
