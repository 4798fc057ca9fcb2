import { closeSync, constants, ftruncateSync, openSync, readSync, statfsSync, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { RootlayerError } from '../core/errors.ts';
import { isErrno } from '../host/errno.ts';
import { mountDetached } from '../host/filesystems.ts';
import {
  cloneTree,
  close,
  closeAsync,
  getXattrFd,
  listXattrsFd,
  MOUNT_ATTR_NOATIME,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOSUID,
  mkdirAt,
  O_DIRECTORY,
  O_RDONLY,
  openAt,
  remountReadOnly,
  seekData,
  seekHole,
  setMountAttributes,
  syncFilesystemAsync,
} from '../host/libc.ts';
import { attachLoop } from '../host/loop.ts';
import { findProgram } from '../host/programs.ts';

/** How large the writable part of a job may grow. */
export type UpperLimits = { diskBytes: number; inodes: number };

/**
 * The writable part of one job: a filesystem of its own, so that its size is a hard limit, its deletion is one unlink, and
 * the kernel itself can prove that nothing writes any more. It is in no mount table and has no name on the host:
 * when its descriptors are closed, by whatever end of the process, it is gone.
 */
export interface Upper {
  /** The mount and its `up` and `work` with the sandbox's ids, for the overlay. */
  readonly mountFd: number;
  readonly upperDirFd: number;
  readonly workDirFd: number;
  /** `up` with plain ids: for set-up and capture. */
  readonly plainDirFd: number;
  usage(): { bytes: number; inodes: number; bytesLeft: number; inodesLeft: number };
  /** Makes the filesystem read-only for good. Throws `E_CAPTURE_BUSY` while anything can still write to it. */
  freeze(): Promise<void>;
  /** Attributes of the root directory that a layer could hold, as text. */
  rootXattrs(): string[];
  /** Unmounts it; the image goes with it. Idempotent. */
  close(): Promise<void>;
}

const ATTRIBUTES = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOATIME;

/**
 * Makes uppers as sparse ext4 images on loop devices. mkfs runs once per size: the blocks that it wrote are kept and
 * written again for each job, which takes a millisecond where mkfs takes ten.
 */
export class UpperFactory {
  readonly #directory: string;
  readonly #templates = new Map<string, Promise<Template>>();
  #made = 0;

  /** `directory` takes the images; they are unlinked as soon as they are attached. */
  constructor(directory: string) {
    this.#directory = directory;
  }

  /** `idmapFd` is a user namespace that maps plain ids to the job's, or null. Throws `E_MISSING_FEATURE` without loop devices. */
  async create(limits: UpperLimits, idmapFd: number | null, label: string): Promise<Upper> {
    const image = await this.#makeImage(limits, label);
    try {
      return mountImage(image, idmapFd, label);
    } finally {
      closeSync(image);
    }
  }

  /**
   * The disk of a micro-VM: an unnamed image that the host mounts only before a guest has had it, for `fill` to put files into it. The caller
   * closes the descriptor, and never mounts it again: from then on its bytes are those of a stranger.
   */
  async createDisk(
    limits: UpperLimits,
    idmapFd: number | null,
    label: string,
    fill: ((upper: Upper) => Promise<void>) | null,
  ): Promise<number> {
    const image = await this.#makeImage(limits, label);
    try {
      if (fill !== null) await fillImage(image, idmapFd, label, fill);
      return image;
    } catch (error) {
      closeSync(image);
      throw error;
    }
  }

  /** A new filesystem in a file without a name. */
  async #makeImage(limits: UpperLimits, label: string): Promise<number> {
    const template = await this.#template(limits);
    const path = join(this.#directory, `upper-${label}.img`);
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
    try {
      unlinkSync(path);
      ftruncateSync(fd, template.sizeBytes);
      for (const { bytes, offset } of template.segments) writeWhole(fd, bytes, offset);
      return fd;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** Jobs that start together wait for one mkfs. */
  #template(limits: UpperLimits): Promise<Template> {
    const key = `${limits.diskBytes}-${limits.inodes}`;
    const known = this.#templates.get(key);
    if (known !== undefined) return known;
    this.#made += 1;
    const template = makeTemplate(join(this.#directory, `template-${this.#made}.img`), limits);
    template.catch(() => this.#templates.delete(key));
    const oldest = this.#templates.keys().next().value;
    if (this.#templates.size >= MAX_TEMPLATES && oldest !== undefined) this.#templates.delete(oldest);
    this.#templates.set(key, template);
    return template;
  }
}

/** What mkfs wrote, without the holes: about one MiB for 8 GiB. */
type Template = { sizeBytes: number; segments: { offset: number; bytes: Buffer }[] };
const MAX_TEMPLATES = 4;

async function makeTemplate(path: string, limits: UpperLimits): Promise<Template> {
  const mkfs = findProgram('mkfs.ext4');
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
  try {
    ftruncateSync(fd, limits.diskBytes);
    // uninit_bg lets mkfs leave out the bitmaps of unused groups: the blocks that are written for each job stay few on large disks too.
    const features = '^has_journal,^resize_inode,^metadata_csum,uninit_bg';
    const flags = [
      '-q',
      '-F',
      '-m0',
      '-b',
      '4096',
      '-I',
      '256',
      '-N',
      String(limits.inodes),
      '-O',
      features,
      '-E',
      'nodiscard,lazy_itable_init=1,root_owner=0:0',
    ];
    // Loaded only here: it takes longer to load than all the rest of a job takes.
    const { execa } = await import('execa');
    const made = await execa(mkfs, [...flags, path], {
      reject: false,
      env: { PATH: '/usr/sbin:/sbin' },
      extendEnv: false,
      stdin: 'ignore',
    });
    if (made.failed) {
      throw new RootlayerError(
        'E_USAGE',
        `Cannot make a disk of ${limits.diskBytes} bytes and ${limits.inodes} inodes: ${made.stderr.trim()}`,
        {
          hint: 'An inode takes 256 bytes of the disk: want a larger disk or fewer inodes.',
        },
      );
    }
    return { sizeBytes: limits.diskBytes, segments: readSegments(fd) };
  } finally {
    closeSync(fd);
    unlinkSync(path);
  }
}

function readSegments(fd: number): Template['segments'] {
  const segments: Template['segments'] = [];
  for (let start = seekData(fd, 0); start !== null; ) {
    const end = seekHole(fd, start);
    const bytes = Buffer.alloc(end - start);
    if (readSync(fd, bytes, 0, bytes.length, start) !== bytes.length) throw new RootlayerError('E_STATE', 'Cannot read a new disk image');
    segments.push({ offset: start, bytes });
    start = seekData(fd, end);
  }
  return segments;
}

function writeWhole(fd: number, bytes: Buffer, offset: number): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, offset + at);
}

function mountImage(image: number, idmapFd: number | null, label: string): Upper {
  const source = attachImage(image, label);
  let mountFd = -1;
  try {
    mountFd = mountDetached('ext4', { source: source.path, noinit_itable: true, nobarrier: true }, ATTRIBUTES);
    return new LoopUpper(mountFd, source.path, idmapFd);
  } catch (error) {
    if (mountFd >= 0) close(mountFd);
    throw error;
  } finally {
    close(source.fd);
  }
}

function attachImage(image: number, label: string): { fd: number; path: string } {
  try {
    return attachLoop(image, `rootlayer:${label}`);
  } catch (error) {
    throw isErrno(error, 'ENOENT', 'ENXIO', 'EPERM')
      ? new RootlayerError('E_MISSING_FEATURE', `Cannot make a disk for the job: no loop device can be used (${error.errno})`, {
          hint: 'Load the kernel module "loop", and give a container the devices /dev/loop-control and /dev/loop*.',
          cause: error,
        })
      : error;
  }
}

async function fillImage(image: number, idmapFd: number | null, label: string, fill: (upper: Upper) => Promise<void>): Promise<void> {
  const upper = mountImage(image, idmapFd, label);
  try {
    await fill(upper);
  } finally {
    await upper.close();
  }
  await unmounted(image);
}

// The superblock's s_state of ext4: bit 0 is set while nobody has the filesystem mounted for writing.
const STATE_AT = 1024 + 0x3a;
const STATE_VALID = 1;
const UNMOUNT_TRIES = 200;

/** The kernel may finish an unmount a moment after the last descriptor is closed. */
async function unmounted(image: number): Promise<void> {
  const state = Buffer.alloc(2);
  for (let attempt = 0; attempt < UNMOUNT_TRIES; attempt++) {
    readSync(image, state, 0, state.length, STATE_AT);
    if ((state.readUInt16LE(0) & STATE_VALID) !== 0) return;
    await sleep(10);
  }
  throw new RootlayerError('E_STATE', 'Cannot hand a disk to a virtual machine: it is still mounted');
}

class LoopUpper implements Upper {
  readonly mountFd: number;
  readonly upperDirFd: number;
  readonly workDirFd: number;
  readonly plainDirFd: number;
  readonly #plainFd: number;
  #disposed = false;

  constructor(plainFd: number, source: string, idmapFd: number | null) {
    this.#plainFd = plainFd;
    mkdirAt(plainFd, 'up', 0o755);
    mkdirAt(plainFd, 'work', 0o700);
    const opened: number[] = [];
    const keep = (fd: number): number => opened[opened.push(fd) - 1] ?? fd;
    try {
      this.mountFd = keep(secondMount(plainFd, source));
      if (idmapFd !== null) setMountAttributes(this.mountFd, 0, idmapFd);
      this.upperDirFd = keep(openAt(this.mountFd, 'up', O_RDONLY | O_DIRECTORY));
      this.workDirFd = keep(openAt(this.mountFd, 'work', O_RDONLY | O_DIRECTORY));
      this.plainDirFd = keep(openAt(plainFd, 'up', O_RDONLY | O_DIRECTORY));
    } catch (error) {
      for (const fd of opened) close(fd);
      throw error;
    }
  }

  usage(): { bytes: number; inodes: number; bytesLeft: number; inodesLeft: number } {
    const stat = statfsSync(`/proc/self/fd/${this.#plainFd}`);
    return {
      bytes: (stat.blocks - stat.bfree) * stat.bsize,
      inodes: stat.files - stat.ffree,
      bytesLeft: stat.bavail * stat.bsize,
      inodesLeft: stat.ffree,
    };
  }

  async freeze(): Promise<void> {
    try {
      await remountReadOnly(this.#plainFd);
      // The image is a sparse file: on a full host disk, what a script wrote can be lost after its write succeeded. Only this tells.
      await syncFilesystemAsync(this.plainDirFd);
    } catch (error) {
      if (isErrno(error, 'EIO', 'ENOSPC', 'EDQUOT')) {
        throw new RootlayerError('E_STATE', 'Cannot keep what the script wrote: the disk of the state directory is full or failing', {
          hint: 'Make room in the state directory and run the job again.',
          cause: error,
        });
      }
      if (!isErrno(error, 'EBUSY')) throw error;
      throw new RootlayerError('E_CAPTURE_BUSY', 'Cannot freeze the upper directory: something still holds a file in it open for writing', {
        cause: error,
      });
    }
  }

  rootXattrs(): string[] {
    const names = listXattrsFd(this.plainDirFd).filter((name) => !name.toString('latin1').startsWith('trusted.overlay.'));
    return names.map((name) => `${name.toString('hex')}=${getXattrFd(this.plainDirFd, name)?.toString('hex') ?? ''}`).sort();
  }

  async close(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const fd of [this.upperDirFd, this.workDirFd, this.plainDirFd]) close(fd);
    await Promise.all([closeAsync(this.mountFd), closeAsync(this.#plainFd)]);
  }
}

/** Another mount of the same filesystem, so that one can be idmapped; kernels before 6.15 cannot clone a detached one. */
function secondMount(plainFd: number, source: string): number {
  try {
    return cloneTree(plainFd, '');
  } catch (error) {
    if (!isErrno(error, 'EINVAL')) throw error;
    return mountDetached('ext4', { source, noinit_itable: true, nobarrier: true }, ATTRIBUTES);
  }
}
