import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { realpath, stat } from 'node:fs/promises';
import { promisify } from 'node:util';
import { nodeOf } from '../tree/contents-scan.ts';
import { PLAIN_DIRECTORY, Tree } from '../tree/tree.ts';

/** What scripts in a layer's directory can count on: bash, coreutils, findutils, grep, sed, tar, gzip, awk. */
const PROGRAMS = (
  '[ awk base64 basename bash cat chgrp chmod chown cksum cmp comm cp cut date dd df diff dirname du echo egrep env expand expr false fgrep find fmt fold ' +
  'getconf gawk grep groups gunzip gzip head id install join ln logname ls mawk md5sum mkdir mkfifo mknod mktemp mv nl nproc od paste pathchk printenv printf ' +
  'pwd readlink realpath rm rmdir sed seq sha1sum sha256sum sha512sum shred shuf sleep sort split stat sync tac tail tar tee test touch tr true truncate ' +
  'tsort tty uname unexpand uniq unlink wc whoami xargs yes zcat'
).split(' ');

const DIRECTORIES = ['/usr/bin', '/bin', '/usr/local/bin', '/run/current-system/sw/bin'];

/**
 * Gives a small root directory of this machine's own shell, the programs that go with it, and the libraries that `ldd` names for them; programs that are not
 * there are left out. All belongs to root and is from 1970, so the same programs make the same tree. Null when there is no bash.
 */
export async function hostTools(signal: AbortSignal): Promise<Tree | null> {
  if (findTool('bash') === null) return null;
  const tree = new Tree();
  for (const directory of ['bin', 'dev', 'etc', 'proc', 'root', 'sys', 'usr']) tree.insert(Buffer.from(directory), PLAIN_DIRECTORY);
  tree.insert(Buffer.from('tmp'), { ...PLAIN_DIRECTORY, mode: 0o1777 });
  addText(tree, 'etc/passwd', 'root:x:0:0:root:/root:/bin/bash\n');
  addText(tree, 'etc/group', 'root:x:0:\n');
  addLink(tree, 'usr/bin', '../bin');
  const files: string[] = [];
  for (const name of PROGRAMS) {
    const file = findTool(name);
    if (file === null) continue;
    await addFile(tree, `bin/${name}`, file);
    files.push(file);
  }
  addLink(tree, 'bin/sh', 'bash');
  for (const library of await librariesOf(files, signal)) await addFile(tree, library.slice(1), library);
  return tree;
}

const PLAIN = { mode: 0o644, uid: 0, gid: 0, mtimeSec: 0 } as const;

function findTool(name: string): string | null {
  return DIRECTORIES.map((directory) => `${directory}/${name}`).find(isExecutable) ?? null;
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function addText(tree: Tree, path: string, text: string): void {
  const bytes = Buffer.from(text);
  tree.insert(Buffer.from(path), { ...PLAIN, type: 'file', size: bytes.length, source: { kind: 'bytes', bytes } });
}

function addLink(tree: Tree, path: string, target: string): void {
  tree.insert(Buffer.from(path), { ...PLAIN, mode: 0o777, type: 'symlink', target: Buffer.from(target) });
}

/** What a link leads to is copied: the tree need not have the same links. */
async function addFile(tree: Tree, path: string, file: string): Promise<void> {
  const source = Buffer.from(await realpath(file));
  const node = nodeOf(source, await stat(source, { bigint: true }));
  if (node?.type !== 'file') return;
  tree.insertParents(Buffer.from(path));
  tree.insert(Buffer.from(path), { ...node, mode: 0o755, uid: 0, gid: 0, mtimeSec: 0 });
}

const run = promisify(execFile);

/** The paths in what ldd prints, sorted; for programs that need none, and scripts, it prints none and fails. Source: ldd(1). */
async function librariesOf(files: readonly string[], signal: AbortSignal): Promise<string[]> {
  const { stdout } = await run('ldd', [...files], { signal, env: { PATH: '/usr/bin:/bin', LC_ALL: 'C' } }).catch(printedAllTheSame);
  return [...new Set([...stdout.matchAll(/^\s+(?:\S+ => )?(\/\S+) \(0x[0-9a-f]+\)$/gm)].map(([, library = '']) => library))].sort();
}

function printedAllTheSame(error: unknown): { stdout: string } {
  if (error instanceof Error && error.name !== 'AbortError' && 'stdout' in error) return { stdout: String(error.stdout) };
  throw error;
}
