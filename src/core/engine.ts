import type { Readable } from 'node:stream';
import type { Digest } from './digest.ts';
import type { JobId } from './ids.ts';
import type { Compression, ImageFormat, ImageRecord } from './image.ts';
import type { JobEvent, JobRecord, JobRequest, TerminalSize } from './job.ts';

/** Who asks: the uid that the kernel recorded for the connection, or the command's own uid in embedded mode. */
export type Caller = { uid: number };

/** What a long store operation has done so far. */
export type Progress = (progress: { stage: string; done: number; total: number | null; unit: 'bytes' | 'entries' }) => void;

/** A stream of bytes to hand on, with its length where it is known before. The receiver destroys or drains it. */
export type Download = { stream: Readable; sizeBytes: number | null; digest: Digest | null; fileName: string };

/** What the machine offers; `ok: false` comes with what is lacking and its remedy. */
export type Feature = { name: string; ok: boolean; required: boolean; detail: string; remedy: string | null };

/**
 * The engine as the API and the embedded mode see it. Every method acts for a caller and sees only what is theirs (uid 0: everything);
 * what belongs to others fails with `E_NOT_FOUND`, exactly as if it did not exist.
 */
export interface Engine {
  importImage(
    caller: Caller,
    archive: Readable,
    options: { name: string | null; select: string | null; shared: boolean },
    progress: Progress,
    signal: AbortSignal,
  ): Promise<ImageRecord>;
  listImages(caller: Caller): ImageRecord[];
  /** `ref` is a name:tag, an image id, or the digest of the archive it came in (`sourceDigest`). */
  getImage(caller: Caller, ref: string): ImageRecord;
  /** The config JSON and manifest-like facts of an image, parsed. */
  inspectImage(caller: Caller, ref: string): Promise<{ image: ImageRecord; config: unknown }>;
  /** Removes a name, or the image when `ref` is its id or last name. Blobs and layers that nothing else uses go with it. */
  removeImage(caller: Caller, ref: string): Promise<void>;
  exportImage(caller: Caller, ref: string, format: ImageFormat, signal: AbortSignal): Promise<Download>;

  /** Takes an uploaded context (see JobRequest.contextId) and gives its id; it lives until used or an hour has passed. */
  addContext(caller: Caller, tar: Readable, signal: AbortSignal): Promise<string>;
  submit(caller: Caller, request: JobRequest): JobRecord;
  listJobs(caller: Caller): JobRecord[];
  getJob(caller: Caller, id: JobId): JobRecord;
  /** Asks a job to end; gives the record once it is final. Idempotent. */
  cancelJob(caller: Caller, id: JobId): Promise<JobRecord>;
  /** Removes a final job with its log and layer; `E_CONFLICT` while it is not final. */
  removeJob(caller: Caller, id: JobId): Promise<void>;
  /**
   * Types bytes at the terminal of a running job; none are the end of input, behind which there is no more. `E_CONFLICT` when the job is not running or
   * has no terminal, `E_BUSY` while the script does not read what is there already.
   */
  sendInput(caller: Caller, id: JobId, bytes: Buffer): Promise<void>;
  /** Sets the size of a running job's terminal; throws like {@link Engine.sendInput}. */
  resizeTerminal(caller: Caller, id: JobId, size: TerminalSize): Promise<void>;
  /** Events from number `from` on; with `follow`, goes on until the job's `end` event. Ends early when the signal aborts. */
  events(caller: Caller, id: JobId, from: number, follow: boolean, signal: AbortSignal): AsyncIterable<JobEvent>;
  openLayer(caller: Caller, id: JobId, compression: Compression, signal: AbortSignal): Promise<Download>;
  /** The base plus the job's layer as an image; `format` as for exports. */
  openJobImage(caller: Caller, id: JobId, format: ImageFormat, signal: AbortSignal): Promise<Download>;
  /** The mkRootLayer `json` of a job's layer (config with `checksum`), see spec of the layer directory in docs/recipes.md. */
  layerJson(caller: Caller, id: JobId): Promise<string>;

  features(): Promise<Feature[]>;
  /** Stops taking jobs, waits for the running ones until the signal aborts, then cancels them and releases everything. */
  close(drain: AbortSignal): Promise<void>;
}
