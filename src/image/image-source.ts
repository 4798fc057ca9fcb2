import type { Digest } from '../core/digest.ts';
import type { ImageLayer } from '../core/image.ts';

/** A layer with the size of its uncompressed tar. */
export type SourceLayer = ImageLayer & { readonly tarBytes: number };

/** An image to be written out: one of the store, or a base with a job's layer on top. Its blobs must stay until the export has ended. */
export type ImageSource = {
  /** Its digest is that of the text. */
  readonly config: { readonly digest: Digest; readonly text: string };
  /** Bottom to top; one layer may occur more than once. */
  readonly layers: readonly SourceLayer[];
  /** As `parseImageName` gives them. */
  readonly names: readonly string[];
  /** Gives a descriptor of a blob, which the reader closes. */
  openBlob(digest: Digest): number;
  /** First of the host ids that decompressors run under. */
  readonly uidBase: number;
};
