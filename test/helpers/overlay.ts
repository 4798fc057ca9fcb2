import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/** What a script did to a lower directory. All paths lie below the directory that was given, for the caller to delete. */
export type OverlayRun = {
  /** The upper directory as overlayfs left it: plain owners, whiteouts, `trusted.overlay.*`. */
  upper: string;
  /** A copy of what was seen through the mount at the end. */
  merged: string;
};

/** The options that rootlayer itself mounts with. Source: DESIGN section 5. */
const MOUNT_OPTIONS = 'redirect_dir=nofollow,metacopy=off,index=off,xino=off,volatile';

/** Runs each script for at most a minute over a fresh overlay of its own, in one private mount namespace: nothing is left mounted, whatever happens. */
const DRIVER = `
set -eu
lower=$1 count=$2
for ((n = 0; n < count; n++)); do
  cd "$n"
  chown --reference="$lower" upper; chmod --reference="$lower" upper; touch -r "$lower" upper
  mount -t overlay overlay -o "lowerdir=$lower,upperdir=upper,workdir=work,${MOUNT_OPTIONS}" mnt
  (cd mnt; timeout -k 1 60 bash ../script) > output 2>&1 || { echo "script $n:"; cat output; exit 1; } >&2
  cp -a mnt/. merged/
  umount mnt
  cd ..
done
`;

/**
 * Runs bash scripts, each with a merged root over `lower` as its current directory (without chroot or namespaces: they come from tests), and
 * gives what each left. `lower` is one directory, or several joined by colons with the topmost first. Needs root.
 */
export function runInOverlays(directory: string, lower: string, scripts: readonly string[]): OverlayRun[] {
  const runs = scripts.map((script, n) => {
    const own = path.join(directory, String(n));
    for (const name of ['upper', 'work', 'mnt', 'merged']) mkdirSync(path.join(own, name), { recursive: true });
    writeFileSync(path.join(own, 'script'), script);
    return { upper: path.join(own, 'upper'), merged: path.join(own, 'merged') };
  });
  execFileSync('unshare', ['-m', '--propagation', 'private', 'bash', '-c', DRIVER, 'driver', lower, String(scripts.length)], {
    cwd: directory,
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 64 * 1024 * 1024,
  });
  return runs;
}

/** {@link runInOverlays} for one script, which stops at its first error. */
export function runInOverlay(directory: string, lower: string, script: string): OverlayRun {
  const [run] = runInOverlays(directory, lower, [`set -e\n${script}`]);
  if (run === undefined) throw new Error('unreachable: one script gives one run');
  return run;
}
