import { z } from 'zod';
import type { Progress } from '../core/engine.ts';
import { RootlayerError } from '../core/errors.ts';
import { CAP, type Worker, type WorkerKind } from '../host/worker.ts';
import { type CaptureRequest, type CaptureResult, captureLimitsSchema, captureResultSchema } from './capture-protocol.ts';

/** Reads any file and overlayfs' own attributes; SYS_ADMIN and SYS_CHROOT go with the seccomp filter, which lets no call through that needs them. */
export const captureWorkerKind: WorkerKind = {
  entry: 'capture/capture-worker.ts',
  uidBase: null,
  capabilities: CAP.DAC_READ_SEARCH | CAP.SYS_ADMIN | CAP.SYS_CHROOT,
  heapMib: 512,
};

/** How a layer is made; what is left out has the default of the request's schema. */
export type CaptureOptions = {
  sourceDateEpoch?: number | null;
  devices?: CaptureRequest['devices'];
  compat?: CaptureRequest['compat'];
  limits?: z.input<typeof captureLimitsSchema>;
};

/**
 * Packs a frozen upper directory into an empty regular file, opened for writing, whose descriptor like the others stays the caller's. `lowerFd` is
 * the merged view of all lower layers, or null for a job without a base. A failed capture leaves the file with an unfinished tar: delete it.
 * Throws what UpperWalk and Packer throw, and `E_WORKER`.
 */
export async function captureLayer(
  worker: Worker,
  fds: { upper: number; output: number; lower: number | null },
  options: CaptureOptions,
  progress: Progress | null,
  signal: AbortSignal,
): Promise<CaptureResult> {
  const request = makeRequest('layer', fds.lower !== null, options);
  return await callCapture(
    worker,
    request,
    fds.lower === null ? [fds.upper, fds.output] : [fds.upper, fds.output, fds.lower],
    progress,
    signal,
  );
}

/** A request with the defaults filled in. */
export function makeRequest(kind: CaptureRequest['kind'], hasLower: boolean, options: CaptureOptions): CaptureRequest {
  return {
    kind,
    hasLower,
    sourceDateEpoch: options.sourceDateEpoch ?? null,
    devices: options.devices ?? (kind === 'layer' ? 'refuse' : 'keep'),
    compat: options.compat ?? 'none',
    limits: captureLimitsSchema.parse(options.limits ?? {}),
  };
}

/** Sends a request to a capture worker and checks its answer, which a captured worker could have made up. */
export async function callCapture(
  worker: Worker,
  request: CaptureRequest,
  fds: number[],
  progress: Progress | null,
  signal: AbortSignal,
): Promise<CaptureResult> {
  const answer = captureResultSchema.safeParse(await worker.call(request, fds, progress, signal));
  if (answer.success) return answer.data;
  throw new RootlayerError('E_WORKER', `Cannot read the answer of a capture worker: ${z.prettifyError(answer.error)}`);
}
