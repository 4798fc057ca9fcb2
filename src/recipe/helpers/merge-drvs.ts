import { closeSync, constants, createReadStream, fstatSync, openSync, readSync, statSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { Scope } from '../../core/scope.ts';
import { compressionOf } from '../../store/ingest/archive-files.ts';
import { decompressed } from '../archive/outer.ts';
import { parseArguments } from '../arguments.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { recipeError } from '../recipe-error.ts';
import { filePathSchema } from '../script/args.ts';
import { spoolLayer } from '../script/layer.ts';
import { readNodes, scan } from '../tree/contents-scan.ts';
import { joined, Tree, type TreeEntry } from '../tree/tree.ts';

/** What {@link mergeDrvs} takes. */
export const mergeDrvsArgsSchema = z.strictObject({
  /** Directories, and tar archives (plain, gzip or zstd). */
  derivations: z.array(filePathSchema),
  /** Only the list of paths is wanted. */
  onlyDeps: z.boolean().default(false),
});

/** See {@link mergeDrvsArgsSchema}. */
export type MergeDrvsArgs = z.input<typeof mergeDrvsArgsSchema>;

/** What {@link mergeDrvs} gives: one tree, or the paths in one line. Dispose it to free what was unpacked. */
export type MergedDrvs = AsyncDisposable &
  ({ readonly kind: 'tree'; readonly tree: Tree } | { readonly kind: 'text'; readonly text: string });

/**
 * Puts the contents of directories and of tar archives into one tree, in order: links and modes are kept, later files win. Throws `E_RECIPE` for what is
 * not there, `E_CONFLICT` for a file in the place of a directory or the other way round, and what is wrong with an archive. Source: nixpkgs dockerTools,
 * mergeDrvs.
 */
export async function mergeDrvs(args: MergeDrvsArgs, { note, signal }: Pick<RecipeContext, 'note' | 'signal'>): Promise<MergedDrvs> {
  const { derivations, onlyDeps } = parseArguments(mergeDrvsArgsSchema, args);
  const scope = new Scope();
  const release = { [Symbol.asyncDispose]: async (): Promise<void> => await scope[Symbol.asyncDispose]() };
  if (onlyDeps) return { kind: 'text', text: `${derivations.join(' ')}\n`, ...release };
  const kinds = derivations.map(isDirectory);
  try {
    const tree = new Tree();
    for (const [at, name] of derivations.entries()) {
      note(`Merging ${name}...`);
      const entries = kinds[at] ? await entriesOf(name, signal) : scope.use(await unpacked(name, at, signal)).tree.entries();
      for (const entry of entries) if (entry.path.length > 0) put(tree, entry, at);
    }
    return { kind: 'tree', tree, ...release };
  } catch (error) {
    await scope[Symbol.asyncDispose]();
    throw error;
  }
}

function isDirectory(name: string, at: number): boolean {
  const found = statSync(path.resolve(name), { throwIfNoEntry: false });
  if (found !== undefined) return found.isDirectory();
  throw recipeError(['derivations', at], `${JSON.stringify(name)}: there is no such file or directory`);
}

/** The directory may be named by a link; what is in it is not followed. */
async function entriesOf(name: string, signal: AbortSignal): Promise<TreeEntry[]> {
  const entries: TreeEntry[] = [];
  for (const child of await readNodes(Buffer.from(path.resolve(name)))) {
    const below = await scan(child.path, () => {}, signal);
    entries.push(...below.map(({ path: inside, node }) => ({ path: joined(child.name, inside), node: { ...node, uid: 0, gid: 0 } })));
  }
  return entries;
}

function unpacked(name: string, at: number, signal: AbortSignal): ReturnType<typeof spoolLayer> {
  const fd = openArchive(name, at);
  const head = Buffer.alloc(8);
  const compression = compressionOf(head.subarray(0, readSync(fd, head, 0, head.length, 0)));
  return spoolLayer(decompressed(createReadStream('', { fd, start: 0, highWaterMark: 1024 * 1024 }), compression, signal), signal);
}

/** Opened without blocking, so that a pipe is found out by its kind instead of being waited for. */
function openArchive(name: string, at: number): number {
  const fd = openSync(path.resolve(name), constants.O_RDONLY | constants.O_NONBLOCK);
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw recipeError(['derivations', at], `${JSON.stringify(name)}: it is a device, pipe or socket, want a directory or an archive`);
}

function put(tree: Tree, { path: at, node }: TreeEntry, item: number): void {
  const before = tree.lookup(at);
  const isMixed = before !== undefined && (before.type === 'directory') !== (node.type === 'directory');
  if (isMixed)
    throw recipeError(['derivations', item], `it has a ${node.type} "${at.toString()}" where one before it has a ${before.type}`);
  tree.insert(at, node);
}
