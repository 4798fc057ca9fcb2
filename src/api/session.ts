import type { Readable } from 'node:stream';
import type { Digest } from '../core/digest.ts';
import type { Feature, Progress } from '../core/engine.ts';
import type { JobId } from '../core/ids.ts';
import type { Compression, ImageFormat, ImageRecord } from '../core/image.ts';
import type { JobEvent, JobRecord, jobRequestSchema, TerminalSize } from '../core/job.ts';

/** What an import may say about the archive; see the members of the same names in {@link Engine.importImage}. */
export type ImportOptions = { name: string | null; select: string | null; shared: boolean };

/** A job request as a client writes it: everything with a default may be left out. */
export type JobSubmission = (typeof jobRequestSchema)['_zod']['input'];

/** Which part of a log is wanted; `both` merges them in the order of their events. */
export const logStreams = ['both', 'stdout', 'stderr'] as const;
export type LogStream = (typeof logStreams)[number];

/**
 * Bytes on their way to the caller, hashed as they pass. The stream fails with `E_DIGEST` when they are not what was announced, so what was read
 * to its end without an error is whole. The caller drains or destroys the stream.
 */
export type Fetched = {
  stream: Readable;
  sizeBytes: number | null;
  fileName: string;
  /** Digest of the bytes; settled once the stream has ended. */
  digest: Promise<Digest>;
};

/** An image with the config it holds. */
export type ImageDetails = { image: ImageRecord; config: unknown };

/**
 * The engine as one caller uses it, wherever it runs: in a daemon behind a socket, or in this process. The methods are those of `Engine` in
 * core/engine.ts, without the caller and always asynchronous; errors have the same codes.
 */
export interface Session {
  readonly kind: 'daemon' | 'embedded';
  importImage(archive: Readable, options: ImportOptions, progress: Progress, signal: AbortSignal): Promise<ImageRecord>;
  listImages(): Promise<ImageRecord[]>;
  inspectImage(ref: string): Promise<ImageDetails>;
  removeImage(ref: string): Promise<void>;
  exportImage(ref: string, format: ImageFormat, signal: AbortSignal): Promise<Fetched>;
  addContext(tar: Readable, signal: AbortSignal): Promise<string>;
  submit(request: JobSubmission): Promise<JobRecord>;
  listJobs(): Promise<JobRecord[]>;
  getJob(id: JobId): Promise<JobRecord>;
  cancelJob(id: JobId): Promise<JobRecord>;
  removeJob(id: JobId): Promise<void>;
  sendInput(id: JobId, bytes: Buffer): Promise<void>;
  resizeTerminal(id: JobId, size: TerminalSize): Promise<void>;
  events(id: JobId, from: number, follow: boolean, signal: AbortSignal): AsyncIterable<JobEvent>;
  openLayer(id: JobId, compression: Compression, signal: AbortSignal): Promise<Fetched>;
  openJobImage(id: JobId, format: ImageFormat, signal: AbortSignal): Promise<Fetched>;
  layerJson(id: JobId): Promise<string>;
  features(): Promise<Feature[]>;
  /** Ends the session; an embedded engine waits for its running jobs until the signal aborts. */
  close(drain: AbortSignal): Promise<void>;
}
