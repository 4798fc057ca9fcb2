import { z } from 'zod';
import { parseArguments } from '../arguments.ts';
import type { Tree } from '../tree/tree.ts';
import { textTree } from './tree.ts';

const line = z.string().regex(/^[^\n\0]*$/, 'want one line');

/** What {@link fakeNss} takes. */
export const fakeNssArgsSchema = z.strictObject({
  /** Lines of `/etc/passwd` between root and nobody. */
  extraPasswdLines: z.array(line).default([]),
  /** Lines of `/etc/group` between root and nobody. */
  extraGroupLines: z.array(line).default([]),
});

export type FakeNssArgs = z.input<typeof fakeNssArgsSchema>;

/**
 * Gives `/etc/passwd` and `/etc/group` with root and nobody, `/etc/nsswitch.conf`, and an empty `/var/empty`: for programs that look up users. Not
 * together with `shadowSetup`, which leaves a passwd that is there as it is. Source: nixpkgs, fakeNss.
 */
export function fakeNss(args: FakeNssArgs = {}): Tree {
  const { extraPasswdLines, extraGroupLines } = parseArguments(fakeNssArgsSchema, args);
  const tree = textTree({
    'etc/passwd': lines(['root:x:0:0:root user:/var/empty:/bin/sh', ...extraPasswdLines, 'nobody:x:65534:65534:nobody:/var/empty:/bin/sh']),
    'etc/group': lines(['root:x:0:', ...extraGroupLines, 'nobody:x:65534:']),
    'etc/nsswitch.conf': 'hosts: files dns\n',
  });
  tree.insertParents(Buffer.from('var/empty/'));
  return tree;
}

function lines(list: readonly string[]): string {
  return list.map((text) => `${text}\n`).join('');
}
