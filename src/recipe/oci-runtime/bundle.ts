import process from 'node:process';
import { Scope } from '../../core/scope.ts';
import { parseArguments } from '../arguments.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { recipeError } from '../recipe-error.ts';
import { PLAIN_DIRECTORY, Tree } from '../tree/tree.ts';
import { goWordOf } from './arch.ts';
import { type BuildContainerArgs, buildContainerArgsSchema, type ContainerArgs } from './args.ts';
import { type RuntimeIds, runtimeConfig, seedConfig } from './config.ts';
import { idsOf, processOf } from './process.ts';
import { type Rootfs, rootfsOf } from './rootfs.ts';

/** An OCI runtime bundle that is ready to be written. Dispose it to close the image it comes from. */
export interface Bundle extends AsyncDisposable {
  readonly configText: string;
  /** `config.json` and `rootfs`; owners are those in the container. */
  readonly tree: Tree;
  /** What the owners in the container are on the host. */
  readonly ids: RuntimeIds;
}

/**
 * Makes an OCI runtime bundle that runs one program: `config.json`, and `rootfs` with the closure of its arguments or the merged root of an image. Neither
 * root nor an engine is needed. With `compat` "seed" `config.json` has the seed's bytes, mounts are ignored and there is no image. Throws `E_RECIPE`, and what
 * `openBaseImage` throws. Source: OCI runtime-spec bundle.md and config.md.
 */
export async function buildContainer(args: BuildContainerArgs, context: Pick<RecipeContext, 'signal' | 'note'>): Promise<Bundle> {
  const parsed = parseArguments(buildContainerArgsSchema, args);
  const scope = new Scope();
  try {
    const fixed = parsed.compat === 'seed' ? seedParts(parsed, context) : null;
    const rootfs = await rootfsOf(parsed, scope, context);
    const { configText, ids } = fixed ?? (await parts(parsed, rootfs, context));
    const tree = new Tree(PLAIN_DIRECTORY);
    const bytes = Buffer.from(configText);
    tree.insert(Buffer.from('config.json'), {
      ...PLAIN_DIRECTORY,
      mode: 0o644,
      type: 'file',
      size: bytes.length,
      source: { kind: 'bytes', bytes },
    });
    tree.merge(rootfs.tree, Buffer.from('rootfs'));
    return { configText, tree, ids, [Symbol.asyncDispose]: async () => await scope[Symbol.asyncDispose]() };
  } catch (error) {
    await scope[Symbol.asyncDispose]();
    throw error;
  }
}

type Parts = Pick<Bundle, 'configText' | 'ids'>;

async function parts(args: ContainerArgs, rootfs: Rootfs, { signal }: Pick<RecipeContext, 'signal'>): Promise<Parts> {
  const started = await processOf(args, rootfs, signal);
  const caller = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 };
  const ids = idsOf(args, started.user, caller);
  return { configText: runtimeConfig(args, goWordOf(args.arch, rootfs.image?.config['architecture']), started, ids), ids };
}

function seedParts(args: ContainerArgs, { note }: Pick<RecipeContext, 'note'>): Parts {
  if (args.args === null) throw recipeError(['args'], 'it is missing, want a program and its arguments');
  if (args.fromImage !== null) throw recipeError(['fromImage'], 'the seed makes no bundle of an image');
  if (Object.keys(args.mounts).length > 0) note('mounts are ignored, as in the seed');
  return { configText: seedConfig(args), ids: { uidMappings: null, gidMappings: null } };
}
