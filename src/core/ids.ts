import { randomBytes } from 'node:crypto';
import { RootlayerError } from './errors.ts';

declare const brand: unique symbol;

/** 32 lower-case hex digits (128 random bits): a job's name in the API, in paths and in cgroups. */
export type JobId = string & { readonly [brand]: 'job' };

/** Makes a new job id. */
export function newJobId(): JobId {
  return randomBytes(16).toString('hex') as JobId;
}

/** Gives the text as a job id; throws `E_NOT_FOUND`, so that a malformed id and an unknown one look the same. */
export function parseJobId(text: string): JobId {
  if (!/^[0-9a-f]{32}$/.test(text)) {
    throw new RootlayerError('E_NOT_FOUND', `Cannot find job ${JSON.stringify(text.slice(0, 64))}: no such job`);
  }
  return text as JobId;
}
