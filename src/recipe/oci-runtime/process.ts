import { mergeConfig, parseImageConfig, runtimeConfigOf } from '../../core/image-config.ts';
import { recipeError } from '../recipe-error.ts';
import type { ContainerArgs, IdMapping } from './args.ts';
import type { RuntimeIds, RuntimeProcess } from './config.ts';
import { isMapped } from './mounts.ts';
import { resolveInTree } from './path.ts';
import type { Rootfs } from './rootfs.ts';
import { resolveUser } from './user.ts';

const DEFAULT_PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Gives what the container runs. Throws `E_RECIPE` when nothing says what, for a user that is not known, and for a program that the bundle lacks. */
export async function processOf(args: ContainerArgs, { tree, image }: Rootfs, signal: AbortSignal): Promise<RuntimeProcess> {
  const config = image === null ? null : parseImageConfig(image.config).config;
  const words = args.args ?? [...(config?.Entrypoint ?? []), ...(config?.Cmd ?? [])];
  const [program] = words;
  if (program === undefined) throw recipeError(['args'], 'it is missing, want a program and its arguments');
  checkProgram(program, args, tree);
  const { Env: env = [] } = mergeConfig({ Env: [DEFAULT_PATH, ...(config?.Env ?? [])] }, { Env: args.env });
  return {
    args: words,
    cwd: args.cwd ?? runtimeConfigOf(config).workingDir ?? '/',
    env: env ?? [],
    user: await resolveUser(args.user ?? config?.User ?? '', tree, signal),
  };
}

/** What is below a mount of the caller's own cannot be known. */
function checkProgram(program: string, { args, mounts }: ContainerArgs, tree: Rootfs['tree']): void {
  if (!program.startsWith('/') || Object.keys(mounts).some((at) => program.startsWith(at.endsWith('/') ? at : `${at}/`))) return;
  if (resolveInTree(tree, program) !== null) return;
  const place = args === null ? ['fromImage'] : ['args', 0];
  throw recipeError(
    place,
    `the program ${JSON.stringify(program)} is not in the root file system`,
    'name an image, "closure", or a mount that has it',
  );
}

/**
 * Gives the mappings of the container's user namespace, null without one. Left open they are the caller's own ids, which for root would be no protection.
 * Throws `E_RECIPE` then, and for a process whose ids have no place in them.
 */
export function idsOf(args: ContainerArgs, user: RuntimeProcess['user'], caller: { uid: number; gid: number }): RuntimeIds {
  const { userNamespace, uidMappings, gidMappings } = args;
  if (!userNamespace && uidMappings === null && gidMappings === null) return { uidMappings: null, gidMappings: null };
  const ids = {
    uidMappings: uidMappings ?? ownId('uidMappings', caller.uid, caller),
    gidMappings: gidMappings ?? ownId('gidMappings', caller.gid, caller),
  };
  checkMapped('uidMappings', user.uid, ids.uidMappings);
  checkMapped('gidMappings', user.gid, ids.gidMappings);
  return ids;
}

function ownId(place: string, hostID: number, caller: { uid: number }): IdMapping[] {
  if (caller.uid !== 0) return [{ containerID: 0, hostID, size: 1 }];
  throw recipeError(
    [place],
    'it is missing, want ids of the host that are not root, such as [{"containerID": 0, "hostID": 100000, "size": 65536}]',
  );
}

function checkMapped(place: string, id: number, mappings: readonly IdMapping[]): void {
  if (!isMapped(id, mappings)) throw recipeError([place], `the process has the id ${id}, which has no place in it`);
}
