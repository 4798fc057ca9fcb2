import { createHash } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';

/** Makes a tree with one file of each kind that an attack would like to reach: readable, secret, setuid, linked twice, behind a symlink. */
export function makeCanary(directory: string): void {
  mkdirSync(path.join(directory, 'etc'), { recursive: true });
  mkdirSync(path.join(directory, 'empty'));
  put(directory, 'etc/passwd', 'root:x:0:0\n', 0o644);
  put(directory, 'secret', 'secret\n', 0o400);
  put(directory, 'suid', '#!/bin/sh\n', 0o4755);
  put(directory, 'twice', 'twice\n', 0o600);
  linkSync(path.join(directory, 'twice'), path.join(directory, 'twice-again'));
  symlinkSync('etc/passwd', path.join(directory, 'link'));
  chownSync(path.join(directory, 'twice'), 12, 34);
  for (const name of ['etc', 'empty', '.']) utimesSync(path.join(directory, name), 1_000_000_000, 1_000_000_000);
}

/** Everything that could show that a tree was touched: contents, modes, owners, link counts, all times but the last access. */
export function snapshot(directory: string): string[] {
  const names = readdirSync(directory, { recursive: true, encoding: 'utf8' }).sort();
  return ['.', ...names].map((name) => {
    const file = path.join(directory, name);
    const stat = lstatSync(file, { bigint: true });
    const content = stat.isFile()
      ? createHash('sha256').update(readFileSync(file)).digest('hex')
      : stat.isSymbolicLink()
        ? readlinkSync(file)
        : '';
    return [name, stat.mode.toString(8), stat.uid, stat.gid, stat.nlink, stat.mtimeNs, stat.ctimeNs, content].join(' ');
  });
}

function put(directory: string, name: string, content: string, mode: number): void {
  const file = path.join(directory, name);
  writeFileSync(file, content);
  chmodSync(file, mode);
  utimesSync(file, 1_000_000_000, 1_000_000_000);
}
