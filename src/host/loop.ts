import { isErrno } from './errno.ts';
import { AT_FDCWD, close, ioctlBuffer, ioctlNumber, O_RDWR, openAt } from './libc.ts';

// linux/loop.h
const LOOP_CTL_GET_FREE = 0x4c82;
const LOOP_CONFIGURE = 0x4c0a;
const LO_FLAGS_AUTOCLEAR = 4;
const CONFIG_BYTES = 304;
const INFO_AT = 8;
const FLAGS_AT = INFO_AT + 52;
const FILE_NAME_AT = INFO_AT + 56;
const MAX_TRIES = 64;

/** A block device over a file. It frees itself once nothing uses it: no descriptor, no mount. */
export type LoopDevice = { fd: number; path: string };

/**
 * Attaches a file to a free loop device. `label` (at most 63 bytes) is what losetup(8) shows as the back-file, so that
 * an operator can tell whose it is. The caller closes `fd` once the filesystem on it is mounted: the kernel then detaches
 * the device with the last mount (LO_FLAGS_AUTOCLEAR), also after a SIGKILL. Throws SyscallError; ENOENT when there are no loop devices.
 */
export function attachLoop(fileFd: number, label: string): LoopDevice {
  const control = openAt(AT_FDCWD, '/dev/loop-control', O_RDWR);
  try {
    for (let attempt = 0; ; attempt++) {
      const path = `/dev/loop${ioctlNumber(control, LOOP_CTL_GET_FREE, 0)}`;
      const fd = openAt(AT_FDCWD, path, O_RDWR);
      try {
        ioctlBuffer(fd, LOOP_CONFIGURE, loopConfig(fileFd, label));
        return { fd, path };
      } catch (error) {
        close(fd);
        // Another process took the same free device between the two calls.
        if (!isErrno(error, 'EBUSY') || attempt >= MAX_TRIES) throw error;
      }
    }
  } finally {
    close(control);
  }
}

function loopConfig(fileFd: number, label: string): Buffer {
  const config = Buffer.alloc(CONFIG_BYTES);
  config.writeUInt32LE(fileFd, 0);
  config.writeUInt32LE(LO_FLAGS_AUTOCLEAR, FLAGS_AT);
  config.write(label.slice(0, 63), FILE_NAME_AT, 'latin1');
  return config;
}
