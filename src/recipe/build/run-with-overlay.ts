import { z } from 'zod';
import type { JobSubmission, Session } from '../../api/session.ts';
import { Scope } from '../../core/scope.ts';
import { parseArguments } from '../arguments.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { fromImageArgs, layerArgs, machineArgs, machineLimits, scriptArgs } from '../script/args.ts';
import { openBase, type ScriptBase } from '../script/base.ts';
import { importFile, runForLayer } from '../script/engine-job.ts';
import { runOnTree, subtree, uploadTree, WORK_DIRECTORY } from '../script/in-tools.ts';
import { toolsImage } from '../script/tools-image.ts';
import { packTree } from '../tree/pack.ts';
import { type LayerTar, measured } from '../tree/pack-stream.ts';
import { PLAIN_DIRECTORY, Tree } from '../tree/tree.ts';
import { layerFile } from './build-image-layer.ts';
import { rootPacking } from './root-layer.ts';
import { seedUpperTree } from './seed-root-tree.ts';

/** What {@link runWithOverlay} takes. */
export const runWithOverlayArgsSchema = z.strictObject({
  name: z.string().min(1),
  ...fromImageArgs,
  ...machineArgs,
  /** Bash, before the base is there: what it puts into `layer` covers the base. */
  preMount: z.string().default(''),
  /** Bash, with base and layer together at `mnt`: what it changes there is the layer. */
  postMount: z.string().default(''),
  /** Bash, with the changes in `layer`. */
  postUmount: z.string().default(''),
  ...layerArgs,
  ...scriptArgs,
});

/** See {@link runWithOverlayArgsSchema}. */
export type RunWithOverlayArgs = z.input<typeof runWithOverlayArgsSchema>;

/** The result of {@link runWithOverlay}. Dispose it to free what its bytes are in. */
export interface OverlayResult extends AsyncDisposable {
  readonly fileName: string;
  /** What the hooks put into the directory `$out`, and the changes as `layer.tar`, unless they made one themselves. */
  readonly tree: Tree;
  readonly layer: LayerTar;
}

/**
 * Runs up to three scripts around an overlay of a base image and a layer, all in sandboxes of the engine, and gives the layer and what they put into `$out`.
 * They share a working directory with `layer` and `mnt` in it; files that one leaves there are seen by the next. In `postMount`, `mnt` is the root directory of
 * the sandbox, with the base's own programs (without a base, `mnt` is `layer`); the others run in the tools image. Throws `E_RECIPE`, what `openBaseImage` throws,
 * and what a failed job throws. Source: nixpkgs dockerTools, runWithOverlay.
 */
export async function runWithOverlay(args: RunWithOverlayArgs, context: RecipeContext): Promise<OverlayResult> {
  const parts = parseArguments(runWithOverlayArgsSchema, args);
  const scope = new Scope();
  try {
    const base = await openBase(parts, context);
    if (base !== null) scope.use(base.image);
    const disk = await new Hooks(await context.session(), parts, base, scope, context).run();
    const upper = subtree(disk, LAYER);
    const isSeed = parts.compat === 'seed';
    const packing = rootPacking(parts);
    const layer = await measured((signal) => packTree(isSeed ? seedUpperTree(upper) : upper, packing, signal), context.signal);
    const tree = outputOf(disk, layer);
    return { fileName: parts.name, tree, layer, [Symbol.asyncDispose]: async () => await scope[Symbol.asyncDispose]() };
  } catch (error) {
    await scope[Symbol.asyncDispose]();
    throw error;
  }
}

const LAYER = Buffer.from('layer');
const MNT = Buffer.from('mnt');
const OUT = Buffer.from('out');
const LAYER_TAR = Buffer.from('layer.tar');

const DISK = 'disk';
const DISK_PATH = `${WORK_DIRECTORY}/${DISK}`;

type Parts = z.output<typeof runWithOverlayArgsSchema>;

/** The hooks of one call, and the working directory as each leaves it. */
class Hooks {
  readonly #session: Session;
  readonly #parts: Parts;
  readonly #base: ScriptBase | null;
  readonly #scope: Scope;
  readonly #context: RecipeContext;

  constructor(session: Session, parts: Parts, base: ScriptBase | null, scope: Scope, context: RecipeContext) {
    this.#session = session;
    this.#parts = parts;
    this.#base = base;
    this.#scope = scope;
    this.#context = context;
  }

  /** Gives the working directory at the end. */
  async run(): Promise<Tree> {
    const { preMount, postMount, postUmount } = this.#parts;
    let disk = new Tree(PLAIN_DIRECTORY);
    for (const name of [LAYER, MNT]) disk.insert(name, PLAIN_DIRECTORY);
    if (preMount !== '') disk = await this.#inTools(disk, preMount, 'Executing pre-mount steps...');
    if (postMount !== '') disk = await this.#mounted(disk, postMount, 'Executing post-mount steps...');
    return postUmount === '' ? disk : await this.#inTools(disk, postUmount, null);
  }

  async #inTools(disk: Tree, commands: string, note: string | null): Promise<Tree> {
    if (note !== null) this.#context.note(note);
    const tools = await toolsImage(this.#session, this.#parts.tools, this.#base, this.#context);
    const script = { commands, tools, env: this.#env(), job: this.#job(), directory: DISK };
    return this.#scope.use(await runOnTree(this.#session, disk, script, this.#context)).tree;
  }

  /** Without a base the seed binds `layer` to `mnt`: a link is as good. */
  async #mounted(disk: Tree, commands: string, note: string): Promise<Tree> {
    if (this.#base !== null) return await this.#onBase(disk, this.#base, commands, note);
    disk.insert(MNT, { ...PLAIN_DIRECTORY, mode: 0o777, type: 'symlink', target: LAYER });
    const left = await this.#inTools(disk, commands, note);
    left.insert(MNT, PLAIN_DIRECTORY);
    return left;
  }

  /** The job's own changes are the layer, but for the working directory, which is among them. */
  async #onBase(disk: Tree, base: ScriptBase, commands: string, note: string): Promise<Tree> {
    this.#context.note(note);
    const { id: from } = await importFile(this.#session, base.file, base.image.id, this.#context);
    const contextId = await uploadTree(this.#session, mountedTree(disk), '', this.#context.signal);
    const script = Buffer.from(`cd '/${DISK_PATH}'\n${commands}\n`).toString('base64');
    const request: JobSubmission = { ...this.#job(), from, script, contextId, env: this.#env(), compat: this.#parts.compat };
    const { tree } = this.#scope.use(await runForLayer(this.#session, request, this.#context));
    const left = subtree(tree, Buffer.from(DISK_PATH));
    tree.remove(Buffer.from(WORK_DIRECTORY));
    for (const name of [LAYER, MNT]) {
      left.remove(name);
      left.insert(name, PLAIN_DIRECTORY);
    }
    left.merge(tree, LAYER);
    return left;
  }

  #env(): Record<string, string> {
    const { name, sourceDateEpoch } = this.#parts;
    return { name, out: `/${DISK_PATH}/out`, SOURCE_DATE_EPOCH: String(sourceDateEpoch) };
  }

  #job(): Partial<JobSubmission> {
    return { isolation: this.#parts.isolation, limits: machineLimits(this.#parts) };
  }
}

/** What lies over the base: the layer, and the working directory with a link to the root in it. */
function mountedTree(disk: Tree): Tree {
  const tree = subtree(disk, LAYER);
  tree.insertParents(Buffer.from(`${DISK_PATH}/`));
  for (const { path, node } of disk.entries()) {
    const isLayer = path.equals(LAYER) || path.subarray(0, LAYER.length + 1).equals(Buffer.from('layer/'));
    if (path.length > 0 && !isLayer && !path.equals(MNT)) tree.insert(Buffer.concat([Buffer.from(`${DISK_PATH}/`), path]), node);
  }
  tree.insert(Buffer.from(`${DISK_PATH}/mnt`), { ...PLAIN_DIRECTORY, mode: 0o777, type: 'symlink', target: Buffer.from('/') });
  return tree;
}

function outputOf(disk: Tree, layer: LayerTar): Tree {
  const tree = new Tree(PLAIN_DIRECTORY);
  const out = disk.lookup(OUT);
  if (out?.type === 'directory') tree.merge(subtree(disk, OUT));
  else if (out !== undefined) tree.insert(OUT, out);
  if (tree.lookup(LAYER_TAR) === undefined) tree.insert(LAYER_TAR, layerFile(layer));
  return tree;
}
