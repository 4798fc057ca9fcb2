import { RootlayerError } from '../core/errors.ts';
import { isErrno } from '../host/errno.ts';
import { createFilesystem, mountDetached } from '../host/filesystems.ts';
import { FIRST_LAUNCH_FD, launch } from '../host/launcher.ts';
import {
  close,
  fsMount,
  fsOpen,
  fsSetFd,
  fsSetFlag,
  fsSetString,
  makeSocketPair,
  mkdirAt,
  O_DIRECTORY,
  O_RDONLY,
  openAt,
  receiveWithFds,
} from '../host/libc.ts';

/** What an overlay is made of: detached mounts of layers, topmost first, and the writable part unless it is only to be read. */
export type OverlayParts = { lowerFds: number[]; upper: OverlayUpper | null };

/** The writable part: a detached mount with the directories `up` and `work`, and descriptors of these two. */
export type OverlayUpper = { readonly mountFd: number; readonly upperDirFd: number; readonly workDirFd: number };

/** Mounts overlays, detached. */
export interface OverlayMounter {
  readonly name: 'descriptor' | 'path';
  /** `attributes` are MOUNT_ATTR_ flags. The mounts of `parts` are used up: their descriptors can only be closed. The caller closes the result. */
  mount(parts: OverlayParts, attributes: number): Promise<number>;
}

/** The options that every overlay of ours has. Source: Documentation/filesystems/overlayfs.rst; the reasons are in docs/architecture.md. */
const OPTIONS: [string, string][] = [
  // "off" still follows a redirect that an image brings; only "nofollow" does not.
  ['redirect_dir', 'nofollow'],
  ['metacopy', 'off'],
  ['index', 'off'],
  ['xino', 'off'],
];

/** Hands the layers to the kernel by descriptor: no path, no other process. Needs `lowerdir+` (Linux 6.5) and overlays on detached mounts (6.15). */
export const descriptorMounter: OverlayMounter = {
  name: 'descriptor',
  mount: async (parts, attributes) => {
    const context = fsOpen('overlay');
    try {
      for (const fd of parts.lowerFds) fsSetFd(context, 'lowerdir+', fd);
      if (parts.upper !== null) {
        fsSetFd(context, 'upperdir', parts.upper.upperDirFd);
        fsSetFd(context, 'workdir', parts.upper.workDirFd);
        // Without it, the end of the mount writes the whole upper back to disk; what is captured is read through the page cache.
        fsSetFlag(context, 'volatile');
      }
      for (const [key, value] of OPTIONS) fsSetString(context, key, value);
      createFilesystem(context, 'overlay');
      return fsMount(context, attributes);
    } finally {
      close(context);
    }
  },
};

/** Has the launcher attach everything in a mount namespace of its own and hand the overlay back: for kernels from 5.19 on. */
export const pathMounter: OverlayMounter = {
  name: 'path',
  mount: async (parts, attributes) => {
    const fds = [...parts.lowerFds, ...(parts.upper === null ? [] : [parts.upper.mountFd])];
    const options = [...(parts.upper === null ? [] : ['volatile']), ...OPTIONS.map((option) => option.join('='))];
    const [ours, theirs] = makeSocketPair();
    try {
      const launched = launch(
        'overlay',
        [
          ...parts.lowerFds.map((_fd, index): [string, number] => ['lower', FIRST_LAUNCH_FD + index]),
          ...(parts.upper === null ? [] : ([['upper', FIRST_LAUNCH_FD + parts.lowerFds.length]] satisfies [string, number][])),
          ['options', `,${options.join(',')}`],
          // The flags of mount(2) and MOUNT_ATTR_ agree in the bits that are used here.
          ['flags', attributes],
        ],
        ['ignore', 'ignore', 'ignore'],
        fds,
        theirs,
      );
      await launched.mounted;
      const [mountFd] = receiveWithFds(ours, Buffer.alloc(1)).fds;
      if (mountFd === undefined) throw new RootlayerError('E_INTERNAL', 'Cannot mount overlay: the launcher sent no descriptor');
      return mountFd;
    } finally {
      close(ours);
      close(theirs);
    }
  },
};

/** Finds out, by mounting one, how this kernel takes layers. Throws `E_MISSING_FEATURE` when it does so in no way. */
export async function chooseMounter(): Promise<OverlayMounter> {
  const reasons: string[] = [];
  for (const mounter of [descriptorMounter, pathMounter]) {
    try {
      await tryMount(mounter);
      return mounter;
    } catch (error) {
      if (!(error instanceof RootlayerError)) throw error;
      reasons.push(`${mounter.name}: ${error.message}`);
    }
  }
  throw new RootlayerError('E_MISSING_FEATURE', `Cannot mount an overlay (${reasons.join('; ')})`, {
    hint: 'Load overlayfs (modprobe overlay); in a container, start it with --privileged. Linux 5.19 or later is needed.',
  });
}

async function tryMount(mounter: OverlayMounter): Promise<void> {
  const lower = mountDetached('tmpfs', { size: '64k' }, 0);
  const writable = mountDetached('tmpfs', { size: '64k' }, 0);
  const fds = [lower, writable];
  try {
    for (const name of ['up', 'work']) {
      mkdirAt(writable, name, 0o700);
      fds.push(openAt(writable, name, O_RDONLY | O_DIRECTORY));
    }
    const [, , upperDirFd = -1, workDirFd = -1] = fds;
    fds.push(await mounter.mount({ lowerFds: [lower], upper: { mountFd: writable, upperDirFd, workDirFd } }, 0));
  } finally {
    for (const fd of fds) closeQuietly(fd);
  }
}

function closeQuietly(fd: number): void {
  try {
    close(fd);
  } catch (error) {
    if (!isErrno(error, 'EBADF')) throw error;
  }
}
