/** The program of a capture worker: a confined process that packs what a stranger left in a directory. */
import process from 'node:process';
import { RootlayerError } from '../core/errors.ts';
import { close } from '../host/libc.ts';
import { seccompArch } from '../host/seccomp/arch.ts';
import { compileFilter } from '../host/seccomp/bpf.ts';
import { captureWorkerProfile } from '../host/seccomp/worker-profiles.ts';
import { serveWorker } from '../host/worker-main.ts';
import { captureRequestSchema } from './capture-protocol.ts';
import { HashRing } from './hash-ring.ts';
import { runCapture } from './run-capture.ts';

const ring = await HashRing.start();

await serveWorker(compileFilter(captureWorkerProfile, seccompArch()), async (body, fds, report) => {
  try {
    const request = captureRequestSchema.parse(body);
    const [upper, output, lower] = fds;
    if (upper === undefined || output === undefined || (lower !== undefined) !== request.hasLower) {
      throw new RootlayerError('E_INTERNAL', `Cannot capture: ${fds.length} descriptors came, want ${request.hasLower ? 3 : 2}`);
    }
    return runCapture(request, { upper, output, lower: lower ?? null }, ring, report);
  } finally {
    // Else the process would keep the last directory it looked at busy, and its mount could not be undone.
    process.chdir('/');
    for (const fd of fds) close(fd);
  }
});
