import { launch } from './launcher.ts';
import { AT_FDCWD, close, O_RDONLY, openAt } from './libc.ts';

/** One line of a user namespace's uid_map and gid_map: ids inside, ids of the host, how many (user_namespaces(7)). */
export type IdMapping = [inside: number, outside: number, count: number];

/**
 * Gives a descriptor of a user namespace with these maps, for idmapped mounts (mount_setattr(2)): an id on disk is looked up
 * as `inside`, and seen as `outside`. No process is in it. The caller closes the descriptor.
 */
export async function openUserNamespace(mappings: IdMapping[]): Promise<number> {
  const held = launch(
    'userns',
    mappings.map((mapping): [string, string] => ['map', mapping.join(' ')]),
    ['pipe', 'ignore', 'ignore'],
    [],
  );
  try {
    const pid = await held.usernsPid;
    return openAt(AT_FDCWD, `/proc/${pid}/ns/user`, O_RDONLY);
  } finally {
    held.child.stdin?.destroy();
    held.socket.destroy();
  }
}

/** Ids that one sandbox or the store may use: [base, base + 65,536) of the host. */
export const RANGE_SIZE = 65_536;

/**
 * The user namespaces for one sandbox's id range: `lower` shows the store's shifted files, `upper` plain files, as the
 * sandbox's own. Overlayfs works as host root and needs an id for it in the upper: the second extent, an id that no
 * sandbox has. Dispose closes both.
 */
export type IdMaps = { base: number; lowerFd: number; upperFd: number } & Disposable;

export async function openIdMaps(storeBase: number, base: number): Promise<IdMaps> {
  const lowerFd = await openUserNamespace([[storeBase, base, RANGE_SIZE]]);
  const upperFd = await openUserNamespace([
    [0, base, RANGE_SIZE],
    [RANGE_SIZE, 0, 1],
  ]).catch((error: unknown) => {
    close(lowerFd);
    throw error;
  });
  return {
    base,
    lowerFd,
    upperFd,
    [Symbol.dispose]() {
      close(lowerFd);
      close(upperFd);
    },
  };
}
