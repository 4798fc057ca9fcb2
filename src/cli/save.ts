import { randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, open, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { pipeline } from 'node:stream/promises';
import type { Fetched } from '../api/session.ts';
import { assertNever } from '../core/assert-never.ts';
import type { Digest } from '../core/digest.ts';
import { RootlayerError } from '../core/errors.ts';
import type { Target } from './output-plan.ts';

/** What was written: the digest is that of the bytes, checked against the one that was announced. */
export type Saved = { digest: Digest; sizeBytes: number };

/** How much has come, of how much. */
export type OnBytes = (done: number, total: number | null) => void;

/** Writes a stream of bytes to where it should go, and gives its digest. A file appears under its name only when it is whole. */
export async function saveStream(fetched: Fetched, target: Target, onBytes: OnBytes, signal: AbortSignal): Promise<Saved> {
  switch (target.kind) {
    case 'stdout':
      return copyTo(fetched, process.stdout, onBytes, signal);
    case 'device':
      return copyTo(fetched, createWriteStream(target.path, { flags: 'w' }), onBytes, signal);
    case 'file':
      return withDraft(target.path, async (draft) => {
        const saved = await copyTo(fetched, createWriteStream(draft, { flags: 'wx' }), onBytes, signal);
        await syncFile(draft);
        return saved;
      });
    case 'directory':
      throw new RootlayerError('E_INTERNAL', 'Cannot write bytes to a directory');
    default:
      return assertNever(target);
  }
}

/** Makes a directory that appears under its name only when `fill` has filled it. */
export function saveDirectory<T>(dir: string, fill: (draft: string) => Promise<T>): Promise<T> {
  return withDraft(dir, async (draft) => {
    await mkdir(draft);
    return fill(draft);
  });
}

async function withDraft<T>(file: string, make: (draft: string) => Promise<T>): Promise<T> {
  const draft = path.join(path.dirname(file), `.${path.basename(file).slice(0, 100)}.${randomBytes(6).toString('hex')}`);
  try {
    const made = await make(draft);
    await rename(draft, file);
    return made;
  } catch (error) {
    await rm(draft, { recursive: true, force: true });
    throw explainWrite(error, file);
  }
}

async function copyTo(fetched: Fetched, target: NodeJS.WritableStream, onBytes: OnBytes, signal: AbortSignal): Promise<Saved> {
  let sizeBytes = 0;
  const count = async function* (chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void, undefined> {
    for await (const chunk of chunks) {
      sizeBytes += chunk.length;
      onBytes(sizeBytes, fetched.sizeBytes);
      yield chunk;
    }
  };
  await pipeline(fetched.stream, count, target, { end: target !== process.stdout, signal });
  return { digest: await fetched.digest, sizeBytes };
}

async function syncFile(file: string): Promise<void> {
  const handle = await open(file, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** A disk that is full is the user's to know of; what came from the engine has its own words. */
function explainWrite(error: unknown, file: string): unknown {
  if (error instanceof RootlayerError || !(error instanceof Error) || !('syscall' in error)) return error;
  return new RootlayerError('E_USAGE', `Cannot write "${file}": ${error.message}`, { cause: error });
}
