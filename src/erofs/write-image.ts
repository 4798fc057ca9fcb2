import type { z } from 'zod';
import { RootlayerError } from '../core/errors.ts';
import { escapeName } from '../core/names.ts';
import { SyscallError } from '../host/errno.ts';
import type { Report } from '../host/worker-main.ts';
import { DiskOutput } from './disk-output.ts';
import type { DiskResult, diskLimitsSchema } from './disk-protocol.ts';
import { ImageWriter } from './image-writer.ts';
import { TreeWalk } from './tree-walk.ts';
import { XattrTable } from './xattr-table.ts';

/**
 * Writes an EROFS image of a tree into an empty file, in one pass over the tree: the same tree gives the same bytes. It runs in a worker
 * that does nothing else, and may leave the process in another current directory. Throws `E_DISK_IMAGE`, `E_LIMIT_ENTRIES`, `E_LIMIT_UNPACKED`,
 * `E_LIMIT_XATTR` and `E_SYSCALL`; the file is then of no use.
 */
export async function writeImage(
  fds: { root: number; output: number },
  limits: z.infer<typeof diskLimitsSchema>,
  report: Report,
): Promise<DiskResult> {
  const output = new DiskOutput(fds.output, limits.maxBytes, (done) => report({ stage: 'disk', done, total: null, unit: 'bytes' }));
  const xattrs = new XattrTable();
  const image = new ImageWriter(output, xattrs, limits.maxInodes);
  using walk = new TreeWalk(fds.root, image, xattrs);
  try {
    await walk.run();
    return { sizeBytes: await image.finish(), inodes: image.inodes, sockets: walk.sockets };
  } catch (error) {
    await output.settled();
    throw named(error, walk.where());
  }
}

/** Gives a failed system call, through libc.ts or node:fs, the path that it failed at. */
function named(error: unknown, path: Buffer): unknown {
  const isCall = error instanceof SyscallError || (error instanceof Error && 'syscall' in error);
  if (!isCall) return error;
  return new RootlayerError('E_SYSCALL', `Cannot make disk image, at "${escapeName(path)}": ${error.message}`, { cause: error });
}
