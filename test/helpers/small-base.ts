import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { makeBaseTree } from '../root/capture/base-tree.ts';

/** What random operations and the listing of a tree run; of the Debian base, so that it fits together. */
const TOOLS = [
  ...[
    'bash',
    'perl',
    'rm',
    'rmdir',
    'mkdir',
    'mv',
    'cp',
    'ln',
    'cat',
    'touch',
    'chmod',
    'chown',
    'truncate',
    'mkfifo',
    'sha256sum',
    'uname',
  ].map((name) => `./usr/bin/${name}`),
  ...[
    'ld-linux*',
    'libc.so*',
    'libm.so*',
    'libtinfo.so*',
    'libselinux.so*',
    'libacl.so*',
    'libattr.so*',
    'libpcre2-8.so*',
    'libcrypt.so*',
  ].map((name) => `./usr/lib/*-linux-gnu*/${name}`),
  './usr/lib/*-linux-gnu*/perl-base/strict.pm',
  ...['./bin', './lib*', './usr/lib*/ld-linux*'],
];

/** Where the tree of `makeBaseTree` is in the small base. */
export const WORK_TREE = 'w';

/** On the work tree: a directory replaced, and a file deleted, by whiteouts as OCI layers have them. */
const CHANGES = `
set -e
mkdir -p w/etc/conf.d w/var/log
: > w/etc/conf.d/.wh..wh..opq
for n in 0 1 2 3; do echo "second $n" > w/etc/conf.d/$n; done
: > w/var/log/.wh.log.1
chmod 700 w/var/log
find . -depth -exec touch -h -d @1610000000 {} +
`;

/**
 * Makes three layers below a new directory: some programs of the Debian base given as its own layers, a small tree with something of everything in
 * `/w`, and changes to it. Gives their paths, lowest first. Needs root.
 */
export function makeSmallBase(directory: string, debianLayers: readonly string[]): string[] {
  const tops = ['tools', 'tree', 'changes'].map((name) => path.join(directory, name));
  for (const top of tops) mkdirSync(top, { recursive: true });
  const [tools = '', tree = '', changes = ''] = tops;
  for (const layer of debianLayers) run('tar', ['-xf', layer, '-C', tools, '--wildcards', '--no-wildcards-match-slash', ...TOOLS]);
  mkdirSync(path.join(tree, WORK_TREE));
  makeBaseTree(path.join(tree, WORK_TREE));
  // Layers have device nodes below /dev only.
  rmSync(path.join(tree, WORK_TREE, 'dev'), { recursive: true });
  run('bash', ['-c', CHANGES], changes);
  return tops.map((top) => {
    run('tar', ['-cf', `${top}.tar`, '-C', top, '--format=pax', '--numeric-owner', '--sort=name', '--xattrs', '--xattrs-include=*', '.']);
    rmSync(top, { recursive: true });
    return `${top}.tar`;
  });
}

function run(program: string, args: readonly string[], cwd?: string): void {
  execFileSync(program, args, { stdio: ['ignore', 'pipe', 'pipe'], ...(cwd === undefined ? {} : { cwd }) });
}
