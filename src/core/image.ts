import type { DiffId, Digest } from './digest.ts';

/** How a layer blob is compressed, told by its first bytes. */
export type Compression = 'none' | 'gzip' | 'zstd';

/** One layer of an image: the blob as it came and the tar inside it. */
export type ImageLayer = {
  diffId: DiffId;
  blobDigest: Digest;
  blobSizeBytes: number;
  compression: Compression;
};

/** An image in the store, as the API shows it. */
export type ImageRecord = {
  /** Digest of the config blob: the image's identity, also for `docker inspect`. */
  id: Digest;
  /** Digest of the bytes the image came in, so that a client need not upload the same archive twice; null for images made here. */
  sourceDigest: Digest | null;
  /** name:tag, in the caller's view. */
  names: string[];
  layers: ImageLayer[];
  /** ISO 8601, when it was imported or made. */
  createdAt: string;
  /** Sum of the blobs. */
  sizeBytes: number;
  uid: number;
  /** Readable by every caller (an administrator's decision). */
  shared: boolean;
};

export const imageFormats = ['docker-archive', 'oci-archive', 'rootfs-tar'] as const;
/** What an image can be exported as; an `oci-dir` is an oci-archive unpacked by the client. */
export type ImageFormat = (typeof imageFormats)[number];

export const layerCompressions = ['none', 'gzip', 'zstd'] as const;
