import { accessSync, constants } from 'node:fs';
import { RootlayerError } from '../core/errors.ts';

const DIRECTORIES = ['/usr/sbin', '/usr/bin', '/sbin', '/bin', '/usr/local/sbin', '/usr/local/bin'];

/** The Debian package of each program that rootlayer starts. */
const PACKAGES: Record<string, string> = {
  'mkfs.ext4': 'e2fsprogs',
  zstd: 'zstd',
  skopeo: 'skopeo',
  xz: 'xz-utils',
  busybox: 'busybox-static',
  ldd: 'libc-bin',
};

/** Gives a program's absolute path from the system's own directories, never from PATH. Throws `E_TOOL` naming its package. */
export function findProgram(name: string): string {
  for (const directory of DIRECTORIES) {
    const path = `${directory}/${name}`;
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // not in this directory
    }
  }
  const known = PACKAGES[name] ?? name;
  throw new RootlayerError('E_TOOL', `Cannot find program "${name}": it is not installed`, { hint: `Install the package ${known}.` });
}
