import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { baseImagePath } from './requires.ts';

const FEATURES = '^has_journal,^resize_inode,^metadata_csum,uninit_bg';

/** An empty disk for what a job changes, as the engine makes it. */
export function makeScratchDisk(file: string, mib = 128, inodes = 20_000): string {
  writeFileSync(file, '');
  truncateSync(file, mib * 1024 * 1024);
  const extended = 'nodiscard,lazy_itable_init=1,root_owner=0:0';
  execFileSync('mkfs.ext4', ['-q', '-F', '-m0', '-b', '4096', '-I', '256', '-N', String(inodes), '-O', FEATURES, '-E', extended, file]);
  return file;
}

/** A read-only disk with the Debian base image. */
export function makeBaseDisk(file: string): string {
  return makeDisk(file, (tree) => {
    const layer = execFileSync('tar', ['-tf', baseImagePath(), '--wildcards', '*/layer.tar']).toString().trim();
    execFileSync('bash', ['-c', 'tar -xOf "$1" "$2" | tar -x --numeric-owner -C "$3"', 'bash', baseImagePath(), layer, tree]);
  });
}

/** A read-only disk with busybox alone, to be run from wherever the disk is shown. */
export function makeBusyboxDisk(file: string): string {
  return makeDisk(file, (tree) => copyFileSync('/bin/busybox', path.join(tree, 'busybox')));
}

/** A read-only disk with what `fill` puts into a directory. */
export function makeDisk(file: string, fill: (tree: string) => void): string {
  const tree = mkdtempSync(`${file}.`);
  try {
    const root = path.join(tree, 'root');
    mkdirSync(root, { mode: 0o755 });
    fill(root);
    execFileSync('mkfs.erofs', [file, root], { stdio: 'ignore' });
    return file;
  } finally {
    rmSync(tree, { recursive: true, force: true });
  }
}
