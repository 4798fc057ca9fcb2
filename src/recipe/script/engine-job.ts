import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { findKnownImage } from '../../api/known-image.ts';
import type { JobSubmission, Session } from '../../api/session.ts';
import { type Digest, digestOf } from '../../core/digest.ts';
import { RootlayerError } from '../../core/errors.ts';
import type { ImageRecord } from '../../core/image.ts';
import type { JobEvent, JobRecord } from '../../core/job.ts';
import { directoryStream } from '../../image/directory-stream.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { LineNotes } from './engine-job-notes.ts';
import { type SpooledLayer, spoolLayer } from './layer.ts';

/**
 * Runs a job to its end, shows what its script prints line by line, and gives its record. The job stays in the engine, for its layer; remove it. An abort
 * cancels and removes it; one that failed stays with its log, and its id is shown. Throws the job's own error, with the record as its cause, unless it ended
 * well: `E_SCRIPT` for a script that ended with a status, `E_LIMIT_` codes for limits.
 */
export async function runJob(session: Session, request: JobSubmission, context: RecipeContext): Promise<JobRecord> {
  context.signal.throwIfAborted();
  const job = await session.submit(request);
  const cancel = (): void => {
    // The end of the job shows whether it could be cancelled.
    session.cancelJob(job.id).catch(() => {});
  };
  context.signal.addEventListener('abort', cancel, { once: true });
  try {
    return await doneOnly(session, await follow(session, job, context), context);
  } finally {
    context.signal.removeEventListener('abort', cancel);
  }
}

/** Runs a job like {@link runJob}, takes its layer to a file of this process, and removes the job. */
export async function runForLayer(session: Session, request: JobSubmission, context: RecipeContext): Promise<SpooledLayer> {
  const job = await runJob(session, request, context);
  try {
    const { stream } = await session.openLayer(job.id, 'none', context.signal);
    const layer = await spoolLayer(stream, context.signal);
    for (const warning of job.layer?.warnings ?? []) context.note(`warning: ${warning}`);
    return layer;
  } finally {
    await session.removeJob(job.id).catch(() => {});
  }
}

/**
 * Brings an image file, or an OCI layout directory, into the engine's store unless it is there, and gives its id. It stays there: the next build needs it
 * again. `select` chooses one of several by name:tag or id. Throws what the import throws.
 */
export async function importFile(session: Session, file: string, select: string | null, context: RecipeContext): Promise<ImageRecord> {
  return importStream(session, () => openImageFile(file, context.signal), select, context);
}

/** {@link importFile} for bytes that can be opened as often as wanted, always the same. */
export async function importStream(
  session: Session,
  open: () => Promise<Readable>,
  select: string | null,
  context: RecipeContext,
): Promise<ImageRecord> {
  const known = await findKnownImage(session, await digestOfStream(await open(), context.signal), select);
  if (known !== null) return known;
  const archive = await open();
  try {
    return await session.importImage(archive, { name: null, select, shared: false }, context.progress, context.signal);
  } finally {
    archive.destroy();
  }
}

async function follow(session: Session, job: JobRecord, context: RecipeContext): Promise<JobRecord> {
  const notes = new LineNotes(context.note);
  // Not the context's signal: a job that is cancelled is followed to its end.
  for await (const event of session.events(job.id, 1, true, new AbortController().signal)) {
    if (event.type === 'end') {
      notes.end();
      return event.job;
    }
    show(event, notes, context);
  }
  throw new RootlayerError('E_UNREACHABLE', `Cannot follow job ${job.id}: its events end without an end`);
}

function show(event: JobEvent, notes: LineNotes, context: RecipeContext): void {
  if (event.type === 'log') notes.add(event.stream, Buffer.from(event.data, event.encoding ?? 'utf8'));
  else if (event.type === 'warning') context.note(`warning: ${event.message}`);
  else if (event.type === 'progress') {
    const { stage, done, total, unit } = event;
    context.progress({ stage, done, total, unit });
  }
}

async function doneOnly(session: Session, job: JobRecord, { note }: RecipeContext): Promise<JobRecord> {
  if (job.state === 'done') return job;
  if (job.state === 'failed') note(`Job ${job.id} has failed and is kept: "rootlayer job logs ${job.id}" shows its log.`);
  else await session.removeJob(job.id);
  const { error } = job;
  if (error === null) throw new RootlayerError('E_INTERNAL', `Cannot finish job ${job.id}: its state is ${job.state}`, { cause: job });
  throw new RootlayerError(error.code, error.message, { hint: error.hint, cause: job });
}

async function openImageFile(file: string, signal: AbortSignal): Promise<Readable> {
  const isDirectory = (await stat(file)).isDirectory();
  return isDirectory ? directoryStream(file, signal) : createReadStream(file, { highWaterMark: 1024 * 1024 });
}

async function digestOfStream(stream: Readable, signal: AbortSignal): Promise<Digest> {
  const hash = createHash('sha256');
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    signal.throwIfAborted();
    hash.update(chunk);
  }
  return digestOf(hash.digest());
}
