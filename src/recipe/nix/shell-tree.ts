import { Scope } from '../../core/scope.ts';
import type { BaseImage } from '../archive/base-archive.ts';
import { mergeLayers } from '../archive/merge-layers.ts';
import { binSh, usrBinEnv } from '../helpers/links.ts';
import { fakeNss } from '../helpers/nss.ts';
import { addText } from '../helpers/tree.ts';
import { bytesOf } from '../tree/pack.ts';
import { PLAIN_DIRECTORY, Tree } from '../tree/tree.ts';
import { quoted } from './shell-rc.ts';

/** What the layer of a shell's image holds. */
export type ShellPlaces = {
  readonly uid: number;
  readonly gid: number;
  readonly homeDirectory: string;
  readonly shell: string;
  readonly coreutils: string;
  readonly storeDir: string;
  readonly buildDir: string;
  /** Texts by absolute path. */
  readonly files: ReadonlyMap<string, string>;
  readonly builder: { readonly path: string; readonly command: readonly string[] };
};

/**
 * Gives the files of a shell's image: the user `nixbld`, directories that are theirs, the command that builds. Without a base also `/bin/sh` and
 * `/usr/bin/env`; with one its own stay, which may lie behind links such as `/bin`, and the user is added to its files.
 */
export async function shellTree(places: ShellPlaces, base: BaseImage | null, signal: AbortSignal): Promise<Tree> {
  const { uid, gid, homeDirectory, shell, coreutils, builder } = places;
  const user = `nixbld:x:${uid}:${gid}:Build user:${homeDirectory}:/noshell`;
  const group = `nixbld:!:${gid}:`;
  const tree =
    base === null ? fakeNss({ extraPasswdLines: [user], extraGroupLines: [group] }) : await extendedNss(base, user, group, signal);
  if (base === null) {
    tree.merge(binSh({ bash: shell }));
    tree.merge(usrBinEnv({ coreutils }));
  }
  for (const [file, text] of places.files) addText(tree, file.slice(1), text, 0o644);
  addText(tree, builder.path.slice(1), `#!${shell}\nexec ${builder.command.map(quoted).join(' ')}\n`, 0o755);
  for (const dir of ownedDirectories(places)) {
    tree.insertParents(Buffer.from(dir), PLAIN_DIRECTORY);
    tree.insert(Buffer.from(dir), { ...PLAIN_DIRECTORY, uid, gid });
  }
  return tree;
}

/** The user has the store to themselves, as with Nix for a single user, and the directory that is built in. */
function ownedDirectories({ storeDir, buildDir }: ShellPlaces): string[] {
  return ['nix', storeDir.slice(1), 'nix/var', 'nix/var/nix', 'etc/nix', buildDir.slice(1)];
}

async function extendedNss(base: BaseImage, user: string, group: string, signal: AbortSignal): Promise<Tree> {
  await using scope = new Scope();
  const merged = await mergeLayers(base.layers, scope, signal);
  const tree = new Tree();
  const files: [name: string, line: string][] = [
    ['etc/passwd', user],
    ['etc/group', group],
  ];
  for (const [name, line] of files) addText(tree, name, `${await textOf(merged, name, signal)}${line}\n`, 0o644);
  return tree;
}

async function textOf(tree: Tree, name: string, signal: AbortSignal): Promise<string> {
  const path = Buffer.from(name);
  const node = tree.lookup(path);
  if (node?.type !== 'file') return '';
  const pieces: Buffer[] = [];
  for await (const piece of bytesOf(node, path, signal)) pieces.push(piece);
  const text = Buffer.concat(pieces).toString('utf8');
  return text === '' || text.endsWith('\n') ? text : `${text}\n`;
}
