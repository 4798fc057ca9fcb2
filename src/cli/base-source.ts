import { createHash } from 'node:crypto';
import { createReadStream, existsSync, statSync } from 'node:fs';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { findKnownImage } from '../api/known-image.ts';
import type { Session } from '../api/session.ts';
import { type Digest, digestOf, isDigest } from '../core/digest.ts';
import type { Progress } from '../core/engine.ts';
import { RootlayerError } from '../core/errors.ts';
import type { ImageRecord } from '../core/image.ts';

/** What `--from` names: something in the store, or a file or directory of the user. */
export type BaseSource = { kind: 'stored'; ref: string } | { kind: 'file'; path: string } | { kind: 'directory'; path: string };

/** A base that is in the store; `wasUploaded` when it had to be brought there. */
export type ResolvedBase = { ref: string; image: ImageRecord | null; wasUploaded: boolean };

/**
 * Reads `--from`: `scratch` and digests are in the store; a text that begins with `/`, `./` or `../`, or names a file or an OCI layout that is there, is a
 * path; anything else is a name:tag. Throws `E_USAGE` for a path with nothing usable.
 */
export function parseBaseSource(text: string): BaseSource {
  if (text === '') throw new RootlayerError('E_USAGE', 'Cannot use --from "": want a path, a name:tag, a digest, or "scratch"');
  if (text === 'scratch' || isDigest(text)) return { kind: 'stored', ref: text };
  const looksLikePath = /^\.{0,2}\//.test(text) || text.endsWith('/');
  const stat = statSync(text, { throwIfNoEntry: false });
  if (stat === undefined) {
    if (looksLikePath) throw refuse(text, 'there is no such file');
    return { kind: 'stored', ref: text };
  }
  if (!stat.isDirectory()) return { kind: 'file', path: text };
  if (existsSync(path.join(text, 'oci-layout'))) return { kind: 'directory', path: text };
  if (looksLikePath) throw refuse(text, 'the directory has no file "oci-layout"');
  return { kind: 'stored', ref: text };
}

/**
 * Brings a base into the store unless it is there. A file is hashed first, and sent only when the store does not know its digest: hashing costs a
 * fraction of sending and unpacking.
 */
export async function resolveBase(
  session: Session,
  source: BaseSource,
  select: string | null,
  progress: Progress,
  signal: AbortSignal,
): Promise<ResolvedBase> {
  if (source.kind === 'stored') return { ref: source.ref, image: null, wasUploaded: false };
  const known = await findKnownImage(session, await hashSource(source, progress, signal), select);
  if (known !== null) return { ref: known.id, image: known, wasUploaded: false };
  const archive = withProgress(await openSource(source), 'uploading', sizeOf(source), progress);
  const image = await session.importImage(archive, { name: null, select, shared: false }, progress, signal);
  return { ref: image.id, image, wasUploaded: true };
}

/** Gives the bytes of an archive, or of a layout directory as a tar. */
export async function openSource(source: Exclude<BaseSource, { kind: 'stored' }>): Promise<Readable> {
  if (source.kind === 'file') return createReadStream(source.path, { highWaterMark: 1024 * 1024 });
  const { directoryStream } = await import('../image/directory-stream.ts');
  return directoryStream(source.path);
}

/** Tells how many bytes a file has; null for a directory, which is put together on the way. */
export function sizeOf(source: Exclude<BaseSource, { kind: 'stored' }>): number | null {
  return source.kind === 'file' ? statSync(source.path).size : null;
}

/** Reports the bytes that pass. */
export function withProgress(stream: Readable, stage: string, total: number | null, progress: Progress): Readable {
  let done = 0;
  stream.on('data', (chunk: Buffer) => {
    done += chunk.length;
    progress({ stage, done, total, unit: 'bytes' });
  });
  return stream.pause();
}

async function hashSource(source: Exclude<BaseSource, { kind: 'stored' }>, progress: Progress, signal: AbortSignal): Promise<Digest> {
  const hash = createHash('sha256');
  const stream = withProgress(await openSource(source), 'reading', sizeOf(source), progress);
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    if (signal.aborted) throw new RootlayerError('E_CANCELLED', 'Cannot read the base image: it was cancelled');
    hash.update(chunk);
  }
  return digestOf(hash.digest());
}

function refuse(text: string, why: string): RootlayerError {
  return new RootlayerError('E_USAGE', `Cannot use --from ${JSON.stringify(text)}: ${why}`, {
    hint: 'want a docker-archive, an OCI layout, a name:tag, a digest, or "scratch"',
  });
}
