import type { Progress } from '../core/engine.ts';
import type { Worker } from '../host/worker.ts';
import { type CaptureOptions, callCapture, makeRequest } from './capture-layer.ts';
import type { CaptureResult } from './capture-protocol.ts';

/**
 * Packs all of a merged root, its own directory entry included, into an empty regular file: the `rootfs-tar` form of an image, or the one
 * layer of a flattened one. Devices are kept unless the options say otherwise. Throws as captureLayer does.
 */
export async function packTree(
  worker: Worker,
  fds: { root: number; output: number },
  options: CaptureOptions,
  progress: Progress | null,
  signal: AbortSignal,
): Promise<CaptureResult> {
  return await callCapture(worker, makeRequest('tree', false, options), [fds.root, fds.output], progress, signal);
}
