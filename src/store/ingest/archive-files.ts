import { z } from 'zod';
import { type Digest, isDigest } from '../../core/digest.ts';
import { RootlayerError } from '../../core/errors.ts';
import type { Compression } from '../../core/image.ts';
import { resolveLink } from './member-name.ts';

const fileSchema = z.strictObject({
  kind: z.literal('file'),
  name: z.string().min(1),
  /** The file `<n>` of the ingest directory. */
  n: z.int().min(0),
  sizeBytes: z.int().min(0),
  digest: z.string().refine(isDigest),
  /** The first bytes, in hex. */
  head: z.string().regex(/^(?:[0-9a-f]{2}){0,8}$/),
});

const linkSchema = z.strictObject({
  kind: z.enum(['symlink', 'hardlink']),
  name: z.string().min(1),
  /** In hex, since it can be any bytes. */
  target: z.string().regex(/^(?:[0-9a-f]{2})*$/),
});

/** What the ingest worker answers: the members of an archive in order, directories left out. */
export const listingSchema = z.strictObject({
  members: z.array(z.discriminatedUnion('kind', [fileSchema, linkSchema])),
  /** Of the archive, uncompressed. */
  sizeBytes: z.int().min(0),
});

/** See {@link listingSchema}. */
export type Listing = z.infer<typeof listingSchema>;

/** A regular file of an archive, copied to the ingest directory as `<n>` and hashed on the way. */
export type ArchiveFile = { readonly n: number; readonly sizeBytes: number; readonly digest: Digest; readonly head: Buffer };

/** Chains of links in `docker save` archives have one part. */
const MAX_LINKS = 8;

/** The files of an image archive by name, links followed inside the archive. */
export class ArchiveFiles {
  readonly #files = new Map<string, ArchiveFile>();
  readonly #links = new Map<string, string>();

  /** Throws `E_ARCHIVE_PATH` when one name stands for two contents, and `E_ARCHIVE_LINK` for a link that leaves the archive. */
  constructor(listing: Listing) {
    for (const member of listing.members) {
      if (member.kind === 'file') {
        const { name, n, sizeBytes, digest, head } = member;
        this.#refuseSecond(name, this.#files.get(name)?.digest ?? this.#links.get(name), digest);
        this.#files.set(name, { n, sizeBytes, digest, head: Buffer.from(head, 'hex') });
      } else {
        const target = resolveLink(member.name, member.kind, Buffer.from(member.target, 'hex'));
        this.#refuseSecond(member.name, this.#files.get(member.name)?.digest ?? this.#links.get(member.name), target);
        this.#links.set(member.name, target);
      }
    }
  }

  /** Gives a file by the name of a member, or null. Throws `E_ARCHIVE_LINK` for links in a circle. */
  get(name: string): ArchiveFile | null {
    let at = name;
    for (let step = 0; step <= MAX_LINKS; step += 1) {
      const next = this.#links.get(at);
      if (next === undefined) return this.#files.get(at) ?? null;
      at = next;
    }
    throw new RootlayerError('E_ARCHIVE_LINK', `Cannot follow link "${name}" in an image archive: more than ${MAX_LINKS} links in a row`);
  }

  /** Two readers of the archive could take either of the two. */
  #refuseSecond(name: string, before: string | undefined, now: string): void {
    if (before === undefined || before === now) return;
    throw new RootlayerError('E_ARCHIVE_PATH', `Cannot use image archive: member "${name}" occurs twice with different content`);
  }
}

/** Gives how a stream is compressed, from its first four bytes or more. Sources: RFC 1952 2.3.1, RFC 8878 3.1.1. */
export function compressionOf(head: Buffer): Compression {
  if (head[0] === 0x1f && head[1] === 0x8b) return 'gzip';
  // A zstd stream may also start with a skippable frame, 0x184D2A50 to 0x184D2A5F.
  if (head.length >= 4 && head.readUInt32LE(0) === 0xfd2fb528) return 'zstd';
  return head.length >= 4 && (head.readUInt32LE(0) & 0xfffffff0) >>> 0 === 0x184d2a50 ? 'zstd' : 'none';
}
