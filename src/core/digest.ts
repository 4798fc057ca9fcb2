import { RootlayerError } from './errors.ts';

declare const brand: unique symbol;

/** `sha256:` and 64 lower-case hex digits: the hash of bytes as stored. Source: OCI image-spec descriptor.md, "Digests". */
export type Digest = string & { readonly [brand]: 'digest' };

/** A {@link Digest} of an uncompressed layer tar. Source: OCI image-spec config.md, "Layer DiffID". */
export type DiffId = Digest & { readonly diffId: true };

const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** Gives the text as a digest; throws `E_REF` for anything but the strict sha256 grammar, so a digest is always safe in a path. */
export function parseDigest(text: string): Digest {
  if (!isDigest(text)) {
    throw new RootlayerError(
      'E_REF',
      `Cannot read digest ${JSON.stringify(text.slice(0, 100))}: want "sha256:" and 64 lower-case hex digits`,
    );
  }
  return text;
}

/** Like {@link parseDigest}, for the digest of an uncompressed layer. */
export function parseDiffId(text: string): DiffId {
  return parseDigest(text) as DiffId;
}

/** Tells whether the text is a digest. */
export function isDigest(text: string): text is Digest {
  return DIGEST.test(text);
}

/** Gives the 64 hex digits of a digest: the name of its file in a blob directory. */
export function hexOf(digest: Digest): string {
  return digest.slice('sha256:'.length);
}

/** Gives the digest for 64 hex digits or 32 raw bytes. */
export function digestOf(hash: Buffer | string): Digest {
  return parseDigest(`sha256:${typeof hash === 'string' ? hash : hash.toString('hex')}`);
}
