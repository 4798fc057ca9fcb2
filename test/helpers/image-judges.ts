import { execFileSync } from 'node:child_process';
import { createWriteStream, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { Test } from 'tap';
import type { Session } from '../../src/api/session.ts';
import type { RecipeContext } from '../../src/recipe/recipe-context.ts';
import type { ImageFile } from '../../src/recipe/tree/image-file.ts';

/** What other programs make of an image: its config as skopeo reads it, its root directory as umoci unpacks it, its names as podman loads it. */
export type Judged = {
  readonly config: ImageDocument;
  /** Loads the archive the first time it is asked for. */
  readonly names: readonly string[];
  readonly rootfs: string;
};

/** The members of an image config that tests look at. */
export type ImageDocument = {
  created: string;
  architecture: string;
  os: string;
  config: { Env?: string[]; Cmd?: string[]; User?: string } & Record<string, unknown>;
  rootfs: { diff_ids: string[] };
  history: { created: string; comment?: string }[];
};

/** The programs that {@link judgeArchive} needs; give them to `requires`, with `root` for the owners of files. */
export const JUDGES = ['skopeo', 'umoci', 'podman'] as const;

/**
 * Has a docker-archive read by programs that share no code with ours: `skopeo inspect` reads its config, umoci unpacks it, and podman loads it when a test
 * asks for its names. `which` is one name:tag of several. Throws when one of them refuses.
 */
export function judgeArchive(t: Test, file: string, which?: string): Judged {
  const dir = temporary(t);
  const plain = withoutGzip(dir, file);
  const source = `docker-archive:${plain}${which === undefined ? '' : `:${which}`}`;
  const config = JSON.parse(run('skopeo', ['inspect', '--config', source])) as ImageDocument;
  run('skopeo', ['copy', '-q', source, `oci:${dir}/oci:judged`]);
  run('umoci', ['unpack', '--image', `${dir}/oci:judged`, `${dir}/bundle`]);
  let names: readonly string[] | null = null;
  return {
    config,
    rootfs: path.join(dir, 'bundle/rootfs'),
    get names() {
      names ??= loadedNames(dir, plain);
      return names;
    },
  };
}

/** Writes an image to a file of a temporary directory, which goes with the test. */
export async function writeImage(t: Test, image: ImageFile): Promise<string> {
  const file = path.join(temporary(t), image.fileName);
  await pipeline(image.open(new AbortController().signal), createWriteStream(file));
  return file;
}

/** A context for functions that run scripts by this session; the lines they show are kept. */
export function contextWith(session: Session): RecipeContext & { notes: string[] } {
  const notes: string[] = [];
  return {
    notes,
    note: (line) => notes.push(line),
    progress: () => {},
    signal: new AbortController().signal,
    session: async () => session,
  };
}

/** A temporary directory that goes with the test. */
export function temporary(t: Test): string {
  const dir = mkdtempSync(path.join(tmpdir(), 'judged-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** skopeo 1.9 and podman 4.3, which Debian 12 has, read no docker-archive that is compressed with gzip, whoever made it. */
function withoutGzip(dir: string, file: string): string {
  if (!file.endsWith('.gz')) return file;
  const plain = path.join(dir, 'plain.tar');
  execFileSync('sh', ['-c', 'gzip -dc < "$1" > "$2"', 'sh', file, plain]);
  return plain;
}

/** The names under which podman has loaded the images, without the registry that it makes up. */
function loadedNames(dir: string, file: string): string[] {
  mkdirSync(`${dir}/podman`);
  // Podman takes no path of more than 50 characters for it.
  const runRoot = mkdtempSync('/dev/shm/podman-');
  try {
    const options = ['--root', `${dir}/podman/root`, '--runroot', runRoot, '--storage-driver', 'vfs'];
    return namesPrinted(run('podman', [...options, 'load', '-q', '-i', file]));
  } finally {
    rmSync(runRoot, { recursive: true, force: true });
  }
}

function namesPrinted(printed: string): string[] {
  return [...printed.matchAll(/^Loaded image: (?:localhost\/)?(\S+)$/gm)].map(([, name = '']) => name);
}

function run(program: string, args: readonly string[]): string {
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 64 * 1024 * 1024 });
}
