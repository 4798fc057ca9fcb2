import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Test } from 'tap';
import { sessionOf } from '../../src/api/embedded.ts';
import { type BuildImageArgs, buildImage } from '../../src/recipe/build/build-image.ts';
import type { StreamLayeredImageArgs } from '../../src/recipe/layered/args.ts';
import { streamLayeredImage } from '../../src/recipe/layered/stream-layered-image.ts';
import type { RecipeContext } from '../../src/recipe/recipe-context.ts';
import type { ImageFile } from '../../src/recipe/tree/image-file.ts';
import { type Ended, run } from './command.ts';
import { openTestEngine, ROOT, type TestEngine } from './engine.ts';
import { contextWith, type ImageDocument, type Judged, judgeArchive, writeImage } from './image-judges.ts';
import { toolsLayer, writeBase } from './tools-base.ts';

/** What an image turned out to be: its archive, and what three other programs make of it. */
export type Made = {
  readonly judged: Judged;
  readonly rootfs: string;
  readonly file: string;
  readonly tag: string;
  readonly document: ImageDocument;
};

/** Functions with an engine behind them, and a base image `bash` with a shell and its usual companions. */
export type Upstream = {
  readonly env: TestEngine;
  readonly context: RecipeContext & { notes: string[] };
  readonly bash: string;
  build(t: Test, args: Partial<BuildImageArgs>): Promise<Made>;
  layered(t: Test, args: Partial<StreamLayeredImageArgs>): Promise<Made>;
  judge(t: Test, image: ImageFile & { imageTag: string }): Promise<Made>;
};

/** Opens {@link Upstream}; null when the machine lacks something. Close its engine last. */
export async function openUpstream(t: Test, dir: string): Promise<Upstream | null> {
  const env = await openTestEngine(t);
  if (env === null) return null;
  const context = contextWith(sessionOf(env.engine, ROOT));
  const bash = writeBase(dir, 'bash:latest', [await toolsLayer()], { Env: ['PATH=/bin'], Cmd: ['/bin/bash'] });
  const judge = async (t: Test, image: ImageFile & { imageTag: string }): Promise<Made> => {
    const file = await writeImage(t, image);
    const judged = judgeArchive(t, file);
    return { judged, rootfs: judged.rootfs, file, tag: image.imageTag, document: judged.config };
  };
  return {
    env,
    context,
    bash,
    judge,
    build: async (t, args) => {
      await using image = await buildImage({ name: 'built', compressor: 'none', ...args }, context);
      return await judge(t, image);
    },
    layered: async (t, args) => {
      await using image = await streamLayeredImage({ name: 'layered', ...args }, context);
      return await judge(t, image);
    },
  };
}

/** Runs a program of an unpacked image, with the image as its root and the image's environment; `user` is `uid:gid`. */
export async function runIn(
  { rootfs, document }: Pick<Made, 'rootfs' | 'document'>,
  args: readonly string[],
  user = '0:0',
): Promise<Ended> {
  const assignments = document.config.Env ?? [];
  return await run('chroot', [`--userspec=${user}`, rootfs, '/bin/env', '-i', ...assignments, ...args]);
}

/** Makes a directory with files, by their names, below `dir`; names that end in a slash are directories. */
export function filesIn(dir: string, files: Readonly<Record<string, string>>): string {
  for (const [name, text] of Object.entries(files)) {
    const file = path.join(dir, name);
    mkdirSync(name.endsWith('/') ? file : path.dirname(file), { recursive: true });
    if (!name.endsWith('/')) writeFileSync(file, text, { mode: text.startsWith('#!') ? 0o755 : 0o644 });
  }
  return dir;
}
