/**
 * rootlayer as a library: a client of the daemon, and the engine without one. Importing this loads neither the engine nor its native modules.
 */
import type { Engine } from './core/engine.ts';
import type { EngineOptions } from './engine.ts';

export { connect } from './api/client.ts';
export type { Fetched, ImageDetails, ImportOptions, JobSubmission, Session } from './api/session.ts';
export type { DiffId, Digest } from './core/digest.ts';
export type { Caller, Download, Engine, Feature, Progress } from './core/engine.ts';
export { ERROR_CODES, type ErrorBody, type ErrorCode, RootlayerError } from './core/errors.ts';
export type { JobId } from './core/ids.ts';
export type { Compression, ImageFormat, ImageLayer, ImageRecord } from './core/image.ts';
export type { JobEvent, JobRecord, JobRequest, JobState, LayerSummary } from './core/job.ts';
export type { EngineOptions } from './engine.ts';

/** Opens an engine in this process, which needs root; close it with `close`. Throws what `createEngine` in engine.ts throws. */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  const { createEngine } = await import('./engine.ts');
  return createEngine(options);
}
