import type { Digest } from '../core/digest.ts';
import { RootlayerError } from '../core/errors.ts';
import type { ImageRecord } from '../core/image.ts';
import type { Session } from './session.ts';

/**
 * The stored image that came in the archive with this digest, so that it need not be uploaded again; null when there is none. With `select` (a name:tag or an image
 * id) the digest is not enough: another image of the archive may be the one that is stored.
 */
export async function findKnownImage(session: Session, digest: Digest, select: string | null): Promise<ImageRecord | null> {
  try {
    const { image } = await session.inspectImage(digest);
    return select === null || image.id === select || image.names.includes(select) ? image : null;
  } catch (error) {
    if (error instanceof RootlayerError && error.code === 'E_NOT_FOUND') return null;
    throw error;
  }
}
