import { chmodSync, linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Test } from 'tap';
import type { RecipeContext } from '../../src/recipe/recipe-context.ts';

export const STORE = '/nix/store';

/** Hashes that keep the order of their packages. */
const HASHES = { app: 'c', lib: 'b', data: 'a', alias: 'd', tool: 'e' } as const;

/** Paths of {@link TinyStore}. */
export const PATHS = Object.fromEntries(
  Object.entries(HASHES).map(([name, letter]) => [name, `${STORE}/${letter.repeat(32)}-${name}-1.0`]),
) as Record<keyof typeof HASHES, string>;

/** `app` needs `lib` and `data`, `lib` needs `data`; `alias` is a link to `app`'s directory; `tool` stands alone. */
export const REFERENCES: Record<string, string[]> = {
  [PATHS.app]: [PATHS.lib, PATHS.data],
  [PATHS.lib]: [PATHS.data, PATHS.lib],
  [PATHS.data]: [],
  [PATHS.alias]: [PATHS.app],
  [PATHS.tool]: [],
};

/** A few store paths below a temporary directory, with something of everything that a layer holds; `dir` is for a test's own files. */
export type TinyStore = { readonly root: string; readonly dir: string };

/** Makes {@link TinyStore}; it goes with the test. */
export function makeTinyStore(t: Test): TinyStore {
  const dir = mkdtempSync(path.join(tmpdir(), 'store-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  const root = path.join(dir, 'root');
  const at = (name: string): string => root + name;
  write(at(`${PATHS.data}/share/data.txt`), 'data\n');
  write(at(`${PATHS.data}/share/${'long-'.repeat(30)}name`), 'long\n');
  write(at(`${PATHS.data}/share/häßlich – ☃`), 'not ASCII\n');
  write(Buffer.concat([Buffer.from(at(`${PATHS.data}/share/`)), Buffer.from([0x62, 0xff, 0x64])]), 'no UTF-8\n');
  write(at(`${PATHS.lib}/lib/lib.so`), Buffer.alloc(70_000, 7));
  linkSync(at(`${PATHS.lib}/lib/lib.so`), at(`${PATHS.lib}/lib/lib.so.1`));
  symlinkSync('lib.so', at(`${PATHS.lib}/lib/lib-current.so`));
  write(at(`${PATHS.app}/bin/app`), `#!/bin/sh\ncat ${PATHS.data}/share/data.txt\n`);
  chmodSync(at(`${PATHS.app}/bin/app`), 0o555);
  write(at(`${PATHS.app}/etc/empty`), '');
  mkdirSync(at(`${PATHS.app}/var`));
  chmodSync(at(`${PATHS.app}/var`), 0o555);
  symlinkSync(PATHS.app, at(PATHS.alias));
  write(at(PATHS.tool), 'a bare file\n');
  return { root, dir };
}

/** A context for functions that run nothing; the lines they show are kept. */
export function quietContext(): RecipeContext & { notes: string[] } {
  const notes: string[] = [];
  return {
    notes,
    note: (line) => notes.push(line),
    progress: () => {},
    signal: new AbortController().signal,
    session: () => Promise.reject(new Error('no script was to be run')),
  };
}

function write(file: string | Buffer, content: string | Buffer): void {
  const bytes = Buffer.from(file);
  mkdirSync(bytes.subarray(0, bytes.lastIndexOf('/')), { recursive: true });
  writeFileSync(bytes, content);
}
