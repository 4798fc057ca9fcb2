import { createHash } from 'node:crypto';
import { Transform, type TransformCallback } from 'node:stream';
import { deferred } from '../core/deferred.ts';
import { type Digest, digestOf, hexOf } from '../core/digest.ts';
import { RootlayerError } from '../core/errors.ts';

/** Bytes that wait between two streams: enough to keep a disk and a socket busy at once. */
const HIGH_WATER_BYTES = 1024 * 1024;

/**
 * Hands bytes on unchanged and hashes them. At their end it compares with what `expected` gives then (null for unknown) and fails with `E_DIGEST`
 * when they differ.
 */
export class DigestStream extends Transform {
  readonly #hash = createHash('sha256');
  readonly #result = deferred<Digest>();
  readonly #expected: () => Digest | null;

  constructor(expected: () => Digest | null = () => null) {
    super({ highWaterMark: HIGH_WATER_BYTES });
    this.#expected = expected;
  }

  /** Settles when all bytes have passed. */
  get digest(): Promise<Digest> {
    return this.#result.promise;
  }

  override _transform(chunk: Buffer, _encoding: string, done: TransformCallback): void {
    this.#hash.update(chunk);
    done(null, chunk);
  }

  override _flush(done: TransformCallback): void {
    const actual = digestOf(this.#hash.digest());
    const problem = this.#problemWith(actual);
    if (problem === null) this.#result.resolve(actual);
    done(problem);
  }

  #problemWith(actual: Digest): Error | null {
    try {
      const expected = this.#expected();
      return expected === null || expected === actual ? null : mismatch(actual, expected);
    } catch (error) {
      return error instanceof Error ? error : new Error(String(error));
    }
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#result.reject(error ?? new RootlayerError('E_CANCELLED', 'Cannot finish the transfer: it was given up'));
    done(error);
  }
}

function mismatch(actual: Digest, expected: Digest): RootlayerError {
  return new RootlayerError('E_DIGEST', `Cannot use the download: its digest is ${actual}, want ${expected}`, {
    hint: 'fetch it again',
  });
}

/** Gives a digest as the value of `Repr-Digest`. Source: RFC 9530, section 3. */
export function formatReprDigest(digest: Digest): string {
  return `sha-256=:${Buffer.from(hexOf(digest), 'hex').toString('base64')}:`;
}

/** Gives a digest as the value of the older `Digest` field. Source: RFC 3230, section 4.3.2. */
export function formatLegacyDigest(digest: Digest): string {
  return `sha-256=${Buffer.from(hexOf(digest), 'hex').toString('base64')}`;
}

/** Reads a value of `Repr-Digest`; null when it holds no sha-256 digest. */
export function parseReprDigest(value: string): Digest | null {
  const encoded = /(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):/.exec(value)?.[1];
  return encoded === undefined ? null : digestOf(Buffer.from(encoded, 'base64'));
}
