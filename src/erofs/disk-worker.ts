/** The program of a disk worker: a confined process that makes a disk image of a tree. */
import process from 'node:process';
import { RootlayerError } from '../core/errors.ts';
import { close } from '../host/libc.ts';
import { seccompArch } from '../host/seccomp/arch.ts';
import { compileFilter } from '../host/seccomp/bpf.ts';
import { diskWorkerProfile } from '../host/seccomp/worker-profiles.ts';
import { serveWorker } from '../host/worker-main.ts';
import { diskRequestSchema } from './disk-protocol.ts';
import { writeImage } from './write-image.ts';

await serveWorker(compileFilter(diskWorkerProfile, seccompArch()), async (body, fds, report) => {
  try {
    const { limits } = diskRequestSchema.parse(body);
    const [root, output] = fds;
    if (root === undefined || output === undefined) {
      throw new RootlayerError('E_INTERNAL', `Cannot make disk image: ${fds.length} descriptors came, want 2`);
    }
    return await writeImage({ root, output }, limits, report);
  } finally {
    // Else the process would keep the last directory it looked at busy, and its mount could not be undone.
    process.chdir('/');
    for (const fd of fds) close(fd);
  }
});
